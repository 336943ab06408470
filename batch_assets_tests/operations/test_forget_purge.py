"""Purged, no byte under the root is about whoever was forgotten; what is left of the others is what it was, and is proven."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets import demo
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import AtWork, StorageError
from batch_assets.features.forgotten import Purged, forgotten_log
from batch_assets.nightly.freeze import freeze, frozen
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.score import score
from batch_assets.nightly.timings import nights_took
from batch_assets.nightly.verdict import read_verdict
from batch_assets.operations import purge as purging
from batch_assets.operations.dead_letters import finished, list_dead_letters, replay
from batch_assets.operations.diff import diff
from batch_assets.operations.explain import explain
from batch_assets.operations.purge import PurgeReport, purge
from batch_assets.operations.releases import go_back, list_releases, publish_day
from batch_assets.operations.replay import replay as replay_key
from batch_assets.process import Process
from batch_assets.runs.commit import day_folder
from batch_assets.runs.manifest import latest_manifest
from batch_assets.serving.export import exports_of
from batch_assets.storage import LocalStorage
from batch_assets_tests.nights import DAYS, files
from batch_assets_tests.operations.forgetting import answers, forgets, records, secret
from batch_assets_tests.small import Small, rows, with_values

__all__ = ["secret"]

Make = Callable[..., Small]
GONE = [f"user-{number:07d}" for number in (1, 7, 8, 150, 299, 300)]
KEPT = [f"user-{number:07d}" for number in (2, 11, 149, 151, 298)]


@pytest.fixture(autouse=True)
def _secret(secret: Path) -> None:
    """Every pipeline here can forget."""


@pytest.fixture
def nights(make_small: Make) -> Small:
    """Two published days of 300 people, one of whom is a dead letter and one excluded."""
    table = with_values(rows(300, key_type=pa.string()), "x", {7: None, 8: 9.0, 9: None})
    rule = {"column": "x", "op": ">", "value": 8, "reason": "too much"}
    lenient = {"completeness": {"min_output_ratio": 0.9}}
    settings = {"quality": lenient, "export": {"shards": 3}}
    small = make_small(table, scoring={"chunk_rows": 64, "batch_size": 64, "exclude": [rule]}, **settings)
    for day in DAYS[:2]:
        small.night(day)
    return small


def purged(small: Small, *, dry_run: bool = False) -> PurgeReport:
    return purge(small.config, small.storage, small.registry, small.progress, dry_run=dry_run)


def every_byte(root: str) -> Iterator[tuple[str, bytes]]:
    """Every file as it lies there and, of Parquet, what is in it without compression."""
    for name in files(root):
        path = Path(root, name)
        yield name, path.read_bytes()
        if path.suffix == ".parquet":
            table, sink = pq.read_table(path), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            yield name, sink.getvalue().to_pybytes()


def found_in(root: str, keys: list[str]) -> list[tuple[str, str]]:
    """In which files a key stands."""
    pattern = re.compile(b"|".join(key.encode() for key in keys))
    return [(name, found[0].decode()) for name, data in every_byte(root) if (found := pattern.search(data))]


def predictions(small: Small, day: str) -> dict[str, bytes]:
    """Each scored row of a day's run, as its bits."""
    manifest = finished(small.config, small.storage, small.registry, day)
    found = {}
    for file in manifest.files:
        table = pq.read_table(small.storage.local_path(f"{manifest.folder}/{file.name}"))
        packed = manifest.record.from_table(table).packed()
        found |= dict(zip(table["user"].to_pylist(), (one.tobytes() for one in packed), strict=True))
    return found


class TestPurged:
    def test_no_byte_is_about_them_and_the_others_are_what_they_were(self, nights: Small) -> None:
        before, told = {day: predictions(nights, day) for day in DAYS[:2]}, records(nights, *KEPT)
        assert found_in(nights.storage.root, GONE)
        forgets(nights, *GONE)
        assert found_in(nights.storage.root, GONE)
        report = purged(nights)
        assert found_in(nights.storage.root, GONE) == []
        assert [name[:10] for name in exports_of(nights.storage, "small")] == DAYS[:2]
        assert [(one.day, one.rows) for one in report.days] == [(day, 6) for day in DAYS[:2]]
        for day in DAYS[:2]:
            assert predictions(nights, day) == {key: one for key, one in before[day].items() if key not in GONE}
        assert records(nights, *KEPT) == told
        assert answers(nights, *GONE) == [None] * 6

    def test_a_purged_night_is_the_night_without_them(self, nights: Small, make_small: Make) -> None:
        """Its run has the id that scoring would give it, so it is finished, and resumed by nobody."""
        forgets(nights, *GONE)
        purged(nights)
        for day in DAYS[:2]:
            night = nights.opened(day)
            assert freeze(nights.config, nights.storage, day, nights.progress).reused
            assert score(night, LocalEngine(1), nights.progress).rows_now == 0
            assert [one.run_id for one in [night.manifest()]] == [night.run_id]

    def test_everything_about_a_run_goes_on(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        config, storage, registry = nights.config, nights.storage, nights.registry
        matches = published_matches(nights.opened(DAYS[1]))
        assert matches.passed, matches.message
        found = explain(config, storage, registry, KEPT[0])
        assert (found.fate, found.chosen, found.release.matches, found.release.is_live) == ("scored", "live", True, True)
        assert replay_key(config, storage, registry, KEPT[1], DAYS[0]).bit_equal
        seen = diff(config, storage, registry, DAYS[0], DAYS[1], nights.progress)
        assert (seen.both, seen.gone, seen.new) == (292, 0, 0)
        manifest = finished(config, storage, registry, DAYS[1])
        assert [one.key for one in list_dead_letters(config, storage, manifest)] == ["user-0000010"]
        assert replay(config, storage, registry, manifest.folder, LocalEngine(1), nights.progress).replayed == 1
        assert (manifest.rows, manifest.scored, manifest.excluded, manifest.dead_lettered) == (294, 292, 1, 1)

    def test_a_purged_night_is_not_the_last_one_for_it(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        assert [one.day for one in nights_took(nights.storage, "small", 14)] == DAYS[:2]

    def test_the_day_can_be_published_again_and_gone_back_from(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        config, storage, registry = nights.config, nights.storage, nights.registry
        live = publish_day(config, storage, registry, DAYS[1], nights.progress)
        assert live.is_live
        assert go_back(config, storage, registry, "a bad day").live.body.partition == DAYS[0]
        assert answers(nights, *GONE) == [None] * 6
        assert None not in answers(nights, *KEPT)

    def test_the_next_nights_do_not_bring_them_back(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        for day in DAYS[2:]:
            assert nights.night(day).is_live
            assert found_in(nights.storage.root, GONE) == []

    def test_purged_again_there_is_nothing_to_do(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        before = files(nights.storage.root)
        assert purged(nights).days == ()
        assert files(nights.storage.root) == before
        forgets(nights, KEPT[0])
        assert [one.rows for one in purged(nights).days] == [1, 1]
        assert found_in(nights.storage.root, [*GONE, KEPT[0]]) == []

    def test_the_log_says_who_when_why_and_how_many_but_not_whom(self, nights: Small) -> None:
        forgets(nights, *GONE)
        purged(nights)
        entries = list(forgotten_log(nights.storage, "small").history())
        said = [one for entry in entries if isinstance(one := entry.body.root, Purged)]
        assert sorted((one.day, *one.rows.values()) for one in said) == [(day, 6) for day in DAYS[:2]]
        assert all(entry.who and entry.when and entry.why for entry in entries)
        manifest = finished(nights.config, nights.storage, nights.registry, DAYS[1])
        assert manifest.values.hex() not in json.dumps([entry.written for entry in entries])

    def test_a_run_that_was_never_finished_and_a_snapshot_that_was_replaced_are_taken_away(self, nights: Small) -> None:
        day = DAYS[2]
        freeze(nights.config, nights.storage, day, nights.progress)
        nights.replace_rows(rows(300, key_type=pa.string(), seed=9))
        freeze(nights.config, nights.storage, day, nights.progress, refresh=True)
        score(nights.opened(day), LocalEngine(1), nights.progress)
        folder = nights.opened(day).folder
        for log in ("_manifest", "_witness/_manifest"):
            shutil.rmtree(Path(nights.storage.root, folder, log))
        forgets(nights, *GONE)
        report = purged(nights)
        assert [len(one.dropped) for one in report.days if one.day == day] == [2]
        assert found_in(nights.storage.root, GONE) == []


def test_whoever_is_all_of_a_chunk(nights: Small) -> None:
    """Its chunk is not there any more, and so is a day on which everybody was forgotten."""
    everybody = [f"user-{number:07d}" for number in range(1, 301)]
    forgets(nights, *everybody[:130])
    purged(nights)
    assert found_in(nights.storage.root, everybody[:130]) == []
    assert latest_manifest(nights.storage, nights.opened(DAYS[1]).folder) is not None
    assert None not in answers(nights, *everybody[130:])


def test_a_verdict_names_none_of_them(make_small: Make) -> None:
    """A scan of all rows names the first that it finds."""
    table = with_values(rows(300, key_type=pa.string()), "x", dict.fromkeys((6, 7, 11, 149), None))
    small = make_small(table, quality={"expectations": {"full_scan": True, "max_missing": 0.001}})
    judge_features(small.config, small.storage, freeze(small.config, small.storage, DAYS[0], small.progress), DAYS[0])
    assert [name for name, _ in found_in(small.storage.root, GONE) if "_verdict" in name]
    forgets(small, *GONE)
    purged(small)
    assert found_in(small.storage.root, GONE) == []
    verdict = read_verdict(small.storage, frozen(small.config, small.storage, DAYS[0]).folder)
    assert verdict is not None
    assert verdict.outcome("full_scan").message.endswith(
        "in 4 of 300 rows (1.33%), at most 0.10% is allowed, first user (forgotten), (forgotten), user-0000012, (forgotten)"
    )


class TestBefore:
    def test_a_dry_run_changes_nothing(self, nights: Small) -> None:
        forgets(nights, *GONE)
        before = files(nights.storage.root)
        report = purged(nights, dry_run=True)
        assert files(nights.storage.root) == before
        assert [(one.day, one.rows, len(one.rewritten)) for one in report.days] == [(day, 6, 2) for day in DAYS[:2]]
        assert any("event log" in one for one in report.out_of_reach)

    def test_it_is_refused_while_somebody_works(self, nights: Small) -> None:
        forgets(nights, *GONE)
        content = json.dumps(Process("elsewhere", 1, 0.0).as_mapping()).encode()
        nights.storage.create(f"{day_folder('small', DAYS[0])}/_active/far.json", content)
        before = files(nights.storage.root)
        with pytest.raises(AtWork, match=f"elsewhere.* is at work on small {DAYS[0]}: purge when it has finished"):
            purged(nights)
        assert files(nights.storage.root) == before

    @pytest.mark.parametrize("ends_at", ["new_run", "point_to", "_note", "discard"])
    def test_who_is_interrupted_does_it_again(self, nights: Small, monkeypatch: pytest.MonkeyPatch, ends_at: str) -> None:
        told = records(nights, *KEPT)
        forgets(nights, *GONE)

        def killed(*_: object) -> None:
            raise StorageError("the end")

        with monkeypatch.context() as patched:
            patched.setattr(LocalStorage if ends_at == "discard" else purging, ends_at, killed)
            with pytest.raises(StorageError, match="the end"):
                purged(nights)
        purged(nights)
        assert found_in(nights.storage.root, GONE) == []
        assert records(nights, *KEPT) == told
        assert sorted(one.rows for one in list_releases(nights.config, nights.storage)) == [292, 292]


CUSTOMERS = """
SELECT printf('cdnow-%05d', customer_id) AS user, date_diff('day', max(date), $partition::DATE)::FLOAT / 600 AS x,
       count(*)::FLOAT / 10 AS y, sum(amount::DECIMAL(18, 2))::FLOAT / 1000 AS z
FROM rows WHERE date <= $partition::DATE GROUP BY customer_id
"""


def test_fifty_customers_of_cdnow_are_gone_and_stay_away(make_small: Make) -> None:
    """Real customers of a real shop, by a key that no number looks like: two nights, fifty are purged, three more nights."""
    bought = pq.read_table(Path(demo.__path__[0], "cdnow_transactions.parquet"))
    bought = bought.append_column("user", pa.array([""] * len(bought)))
    days = [f"1998-06-{number}" for number in range(20, 25)]
    dates = {"start": "1998-06-20", "end": "1998-06-30"}
    small = make_small(bought, partitions=dates, scoring={"chunk_rows": 4_096, "batch_size": 1_024})
    small.source.with_name("query.sql").write_text(CUSTOMERS)
    for day in days[:2]:
        small.night(day)
    before = {day: predictions(small, day) for day in days[:2]}
    customers = list(before[days[0]])
    gone = np.random.default_rng(1997).choice(customers, 50, replace=False).tolist()
    others = [one for one in customers[::97] if one not in gone]
    told = records(small, *others)
    assert (len(customers), len(found_in(small.storage.root, gone)) > 0) == (23_570, True)
    forgets(small, *gone)
    assert [one.rows for one in purged(small).days] == [50, 50]
    assert found_in(small.storage.root, gone) == []
    for day in days[:2]:
        assert predictions(small, day) == {key: one for key, one in before[day].items() if key not in gone}
    assert records(small, *others) == told
    for day in days[2:]:
        assert small.night(day).release.rows == 23_520
        assert found_in(small.storage.root, gone) == []
        assert answers(small, *gone) == [None] * 50
        assert None not in answers(small, *others)
