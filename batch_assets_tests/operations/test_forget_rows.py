"""Forgetting where rows are about more than one column, where dead letters were replayed, and where two versions scored."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.nightly.accepted import accepted_before, accepted_run
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import finished
from batch_assets.operations.purge import PurgeReport, purge
from batch_assets.runs.manifest import Manifest, latest_manifest
from batch_assets_tests.nightly import test_rows_about as about
from batch_assets_tests.operations import test_dead_letters as dead
from batch_assets_tests.operations.forgetting import answers, forgets, secret
from batch_assets_tests.operations.test_dead_letters import broken
from batch_assets_tests.small import DAY, Small, rows, small_model

__all__ = ["broken", "secret"]

Make = Callable[..., Small]


@pytest.fixture(autouse=True)
def _secret(secret: Path) -> None:
    """Every pipeline here can forget."""


def purged(small: Small) -> PurgeReport:
    return purge(small.config, small.storage, small.registry, small.progress, dry_run=False)


def test_of_a_key_with_two_columns_both_are_meant(make_small: Make) -> None:
    small = about.pipeline(make_small, about.by_country(), {"key": about.TWO})
    about.finished(small)
    publish(small.opened(DAY), small.progress)
    forgets(small, ("17", "fr"))
    assert [one is not None for one in answers(small, ("17", "fr"), ("17", "de"))] == [False, True]
    assert [one.rows for one in purged(small).days] == [1]
    manifest = finished(small.config, small.storage, small.registry, DAY)
    keys = about.predictions(small, manifest).select(["user", "country"]).to_pylist()
    assert len(keys) == 1_199
    assert {"user": 17, "country": "fr"} not in keys
    assert published_matches(small.opened(DAY)).passed


def test_with_a_key_all_of_its_items_go(make_small: Make) -> None:
    small = about.pipeline(make_small, about.candidates(50, 20), about.ABOUT)
    before = about.finished(small)
    table = about.predictions(small, before)
    its = [one for one in table.to_pylist() if one["user"] == 31]
    forgets(small, 31)
    assert [one.rows for one in purged(small).days] == [len(its)]
    left = about.predictions(small, finished(small.config, small.storage, small.registry, DAY))
    assert left.to_pylist() == [one for one in table.to_pylist() if one["user"] != 31]


def test_rows_that_were_replayed_go_too(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, flag = broken
    flag.unlink()
    dead.replayed(small, manifest)
    score(small.opened(DAY), LocalEngine(1), small.progress)
    judge(small.opened(DAY))
    publish(small.opened(DAY), small.progress)
    before = finished(small.config, small.storage, small.registry, DAY)
    forgets(small, 6, 1_501, 1_000)
    assert answers(small, 6, 1_000) == [None, None]
    purged(small)
    after = finished(small.config, small.storage, small.registry, DAY)
    assert (after.rows, after.scored, after.dead_lettered, after.replays) == (
        1_997,
        before.scored - 2,
        before.dead_lettered - 1,
        1,
    )
    assert after.histogram.total == after.scored == sum(after.labels) == after.values.count
    assert published_matches(small.opened(DAY)).passed
    assert answers(small, 701) != [None]


def test_the_runs_of_both_versions_go_on(make_small: Make) -> None:
    small = make_small(rows(300))
    small.night()
    other = small.register("v2", small_model((0.99, -0.5, 0.25)))
    small.night()
    forgets(small, 7)
    purged(small)
    withdrawn = other.withdrawn()
    now = accepted_run(small.storage, "small", DAY, withdrawn)
    before = accepted_before(small.storage, "small", DAY, other.approval, withdrawn)
    assert now is not None
    assert before is not None
    runs = [latest_manifest(small.storage, one.folder) for one in (before, now)]
    assert [one and (one.model.version, one.rows) for one in runs] == [("v1", 299), ("v2", 299)]
    files = list(Path(small.storage.root).rglob("chunk-*.parquet"))
    assert files
    assert all(7 not in pq.read_table(path)["user"].to_pylist() for path in files)
    assert published_matches(small.opened(DAY)).passed
