"""Nights whose root is a bucket: what is made there is what is made on a disk, and is looked up, explained and pruned."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NoPrediction
from batch_assets.features.snapshot import current_log, snapshot_folder
from batch_assets.nightly.freeze import Frozen, freeze, frozen
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.diff import diff
from batch_assets.operations.explain import explain
from batch_assets.operations.path import paths
from batch_assets.operations.prune import prune
from batch_assets.operations.purge import purge
from batch_assets.operations.releases import go_back, list_releases
from batch_assets.operations.replay import replay
from batch_assets.serving.reader import Reader
from batch_assets.storage.bucket import Bucket
from batch_assets.storage.s3 import S3Storage
from batch_assets_tests.nights import DAYS, SETTINGS
from batch_assets_tests.operations.forgetting import answers, forgets, records, secret
from batch_assets_tests.s3_server import S3Server
from batch_assets_tests.serving.test_every_store import best_items, binary, every_class, key_of_two, keys_of, value
from batch_assets_tests.small import DAY, Small, Working, rows

__all__ = ["secret"]

Make = Callable[..., Small]


@pytest.fixture
def small(make_small: Make, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
    return make_small(rows(300), root=f"{bucket}/nights", export={"by": "user_shard", "shards": 4}, **SETTINGS)


def test_a_night_is_the_same_as_on_a_disk(small: Small, make_small: Make) -> None:
    on_disk = make_small(rows(300))
    releases = [one.night(DAYS[0]).release for one in (small, on_disk)]
    assert releases[0].values == releases[1].values
    assert releases[0].snapshot == releases[1].snapshot
    assert releases[0].run_id == releases[1].run_id
    readers = [Reader.open("small", one.storage) for one in (small, on_disk)]
    assert readers[0].get_many(range(1, 302)) == readers[1].get_many(range(1, 302))
    assert published_matches(small.opened(DAYS[0])).passed
    with pytest.raises(NoPrediction, match="301"):
        readers[0].lookup(301)


@pytest.mark.parametrize("make", [binary, every_class, value, key_of_two, best_items])
def test_whatever_is_answered_and_whatever_a_key_is(make: Callable[..., Small], make_small: Make, bucket: str) -> None:
    found = []
    for root in ("", f"{bucket}/nights"):

        def made(*arguments: Any, root: str = root, **settings: Any) -> Small:
            return make_small(*arguments, root=root, **settings)

        small = make(made, [{"kind": "arrow"}])
        published = small.night()
        assert published_matches(small.opened(DAY)).passed
        reader = Reader.open("small", small.storage)
        found.append((published.release.name, published.release.values, reader.get_many([*keys_of(small), 10**9])))
        reader.close()
    assert found[0] == found[1]


def test_whoever_opens_a_night_hashes_no_file_of_its_snapshot_again(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    made = freeze(small.config, small.storage, DAY, small.progress)
    again = freeze(small.config, small.storage, DAY, small.progress, refresh=True)

    sha256 = S3Storage.sha256

    def hashed(storage: S3Storage, path: str) -> str:
        assert "user_features" not in path
        return sha256(storage, path)

    monkeypatch.setattr(S3Storage, "sha256", hashed)
    found = frozen(small.config, small.storage, DAY)
    assert found.snapshot == made.snapshot == again.snapshot
    assert score(small.opened(DAY), LocalEngine(1), small.progress).manifest.scored == 300


def test_it_is_explained_replayed_compared_gone_back_from_and_pruned(small: Small) -> None:
    for day in DAYS[:3]:
        small.night(day)
    storage, config, registry = small.storage, small.config, small.registry
    assert explain(config, storage, registry, 7).fate == "scored"
    assert replay(config, storage, registry, 7).bit_equal
    assert diff(config, storage, registry, DAYS[0], DAYS[1], small.progress).both == 300
    found = paths(config, storage, registry)
    assert found.release is not None
    assert all(one.startswith(f"{storage.location}/small/") for one in (*found.predictions, found.release))
    reader = Reader.open("small", storage, fresh_s=0)
    assert reader.lookup(7).record["partition"] == DAYS[2]
    go_back(config, storage, registry, "a reason")
    assert reader.lookup(7).record["partition"] == DAYS[1]
    prune(config, storage, None, dry_run=False, progress=small.progress)
    assert {one.partition for one in list_releases(config, storage)} == set(DAYS[1:3])
    assert reader.lookup(7).record["partition"] == DAYS[1]


def test_who_is_forgotten_is_in_no_object_after_the_purge(small: Small, make_small: Make, secret: Path) -> None:
    text = rows(300, key_type=pa.string())
    far = make_small(text, root=f"{small.storage.location}-forgotten", scoring={"chunk_rows": 64, "batch_size": 64})
    gone, kept = ["user-0000007", "user-0000300"], ["user-0000001", "user-0000299"]
    for day in DAYS[:2]:
        far.night(day)
    told = records(far, *kept)
    forgets(far, *gone)
    assert answers(far, *gone) == [None, None]
    assert found_in_objects(far, gone)
    report = purge(far.config, far.storage, far.registry, far.progress, dry_run=False)
    assert [(one.day, one.rows) for one in report.days] == [(day, 2) for day in DAYS[:2]]
    assert found_in_objects(far, gone) == []
    for day in DAYS[:2]:
        entry = current_log(far.storage, "small", day).latest()
        assert entry is not None
        folder = snapshot_folder("small", day, entry.body.digest)
        assert entry.body.tokens == {name: far.storage.stamp(f"{folder}/{name}").token for name in entry.body.tokens} != {}
    assert (records(far, *kept), answers(far, *gone)) == (told, [None, None])
    assert far.night(DAYS[2]).release.rows == 298
    assert found_in_objects(far, gone) == []


def found_in_objects(small: Small, keys: list[str]) -> list[str]:
    """The objects in which a key stands, also where it is compressed."""
    pattern, found = re.compile(b"|".join(key.encode() for key in keys)), list[str]()
    for name, _ in Bucket(small.storage.location).walk():
        data = small.storage.read(name)
        if name.endswith(".parquet"):
            table, sink = pq.read_table(pa.BufferReader(data)), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            data += sink.getvalue().to_pybytes()
        if pattern.search(data):
            found.append(name)
    return found


def test_a_run_that_ended_early_is_gone_on_with(small: Small) -> None:
    working = Working(small)
    scored = working.score_all()
    small.storage.delete(f"{working.run.folder}/chunk-00001.parquet")
    (missing,) = working.run.plan[1:]
    assert working.commits().keys() == scored.keys() - {missing.number}
    assert small.night().release.rows == 300


def test_answers_that_get_lost_change_nothing(small: Small, make_small: Make, s3_server: S3Server) -> None:
    expected = make_small(rows(300)).night(DAYS[0]).release
    lost = 0
    for step in (
        lambda: freeze(small.config, small.storage, DAYS[0], small.progress),
        lambda: score(small.opened(DAYS[0]), LocalEngine(1), small.progress),
        lambda: judge(small.opened(DAYS[0])),
        lambda: publish(small.opened(DAYS[0]), small.progress),
    ):
        s3_server.answers_to_lose = 2
        step()
        lost += 2 - s3_server.answers_to_lose
    s3_server.answers_to_lose = 0
    assert lost == 8
    found = Reader.open("small", small.storage)
    assert (found.release.values, found.release.run_id) == (expected.values, expected.run_id)
    assert found.lookup(7).record["partition"] == DAYS[0]


@pytest.mark.parametrize("dies", [True, False])
def test_a_second_freeze_in_the_middle_of_the_first(small: Small, monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    """The first one has put some files of the snapshot: the second completes them, whether the first goes on or not."""
    real, put = Bucket.put, list[str]()

    class Died(BaseException):
        """As if the process were killed."""

    def halted(bucket: Bucket, path: str, data: memoryview | Path) -> None:
        if "/snapshot=" in path and len(put) == 1:
            monkeypatch.setattr(Bucket, "put", real)
            second.append(freeze(small.config, small.storage, DAYS[0], small.progress))
            if dies:
                raise Died
        real(bucket, path, data)
        if "/snapshot=" in path:
            put.append(path)

    second = list[Frozen]()
    monkeypatch.setattr(Bucket, "put", halted)
    with pytest.raises(Died) if dies else nullcontext():
        first = freeze(small.config, small.storage, DAYS[0], small.progress)
        assert first.snapshot.digest == second[0].snapshot.digest
    assert small.night(DAYS[0]).release.rows == 300
    assert frozen(small.config, small.storage, DAYS[0]).snapshot.digest == second[0].snapshot.digest
