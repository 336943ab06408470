"""What a day of many chunks costs whoever drives it: requests in a bucket, and bytes of memory, for each chunk."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.features.snapshot import read_snapshot
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.operations import prune as pruning
from batch_assets.operations.prune import prune
from batch_assets.proof.keys import prove
from batch_assets.runs.commit import read_commits, read_footer
from batch_assets.runs.commits import Commits
from batch_assets.runs.manifest import latest_manifest
from batch_assets.storage import LocalStorage, Storage
from batch_assets_tests.many_chunks import GROUPS, many_chunks, score_some
from batch_assets_tests.s3_server import S3Server
from batch_assets_tests.small import Quiet, Small

pytestmark = pytest.mark.night

CHUNKS, COMMITTED = 300, 290
Held = TypeVar("Held")


@pytest.fixture
def killed(tmp_path: Path, model_bytes: bytes) -> Small:
    """A day of which all but ten chunks are committed."""
    small = many_chunks(tmp_path, model_bytes, CHUNKS)
    score_some(small.opened(), COMMITTED)
    return small


def resumed(night: Night) -> Commits:
    commits = Commits(night.model.card.baseline.edges, night.model.card.head.record)
    for commit in read_commits(night.storage, night.folder, night.plan, night.run_id):
        commits.add(commit)
    return commits


def held(made: Callable[[], Held]) -> int:
    """The bytes that something holds."""
    made()  # what is made once for all is no part of it
    gc.collect()
    tracemalloc.start()
    try:
        kept = made()
        gc.collect()
        found, _ = tracemalloc.get_traced_memory()
        assert kept is not None
        return found
    finally:
        tracemalloc.stop()


def test_in_a_bucket_a_chunk_is_resumed_by_one_request_and_proven_by_one_for_each_of_its_files(
    tmp_path: Path, model_bytes: bytes, bucket: str, s3_server: S3Server
) -> None:
    small = many_chunks(tmp_path, model_bytes, CHUNKS, f"{bucket}/root")
    night = small.opened()
    score_some(night, COMMITTED)
    s3_server.asked.clear()
    assert len(resumed(night)) == COMMITTED
    assert len(s3_server.asked) == 1 + COMMITTED, "a listing and the footers"
    score_some(night, CHUNKS)
    commits = resumed(night)
    s3_server.asked.clear()
    prove(small.storage, night.frozen.snapshot, night.frozen.folder, night.folder, night.plan, commits)
    rejects = sum(commit.rejects is not None for commit in commits.values())
    assert rejects == CHUNKS // 3
    assert len(s3_server.asked) == CHUNKS + rejects


def test_whoever_finishes_a_run_holds_little_of_each_chunk(killed: Small) -> None:
    night = killed.opened()
    assert held(lambda: resumed(night)) < 800 * COMMITTED
    frozen = night.frozen
    described = held(lambda: read_snapshot(frozen.storage, frozen.folder, frozen.snapshot.digest))
    assert described < 300 * CHUNKS * GROUPS
    score(night, LocalEngine(2), Quiet())
    assert held(lambda: latest_manifest(killed.storage, night.folder)) < 800 * CHUNKS


def test_a_run_that_was_resumed_is_the_one_that_was_never_killed(killed: Small, tmp_path: Path, model_bytes: bytes) -> None:
    whole = many_chunks(tmp_path / "whole", model_bytes, CHUNKS)
    first, second = (score(one.opened(), LocalEngine(2), Quiet()) for one in (killed, whole))
    assert (first.resumed_chunks, second.resumed_chunks) == (COMMITTED, 0)
    for said in ("run_id", "values", "histogram", "labels", "rows", "excluded", "proof", "files"):
        names = [getattr(one.manifest, said) for one in (first, second)]
        if said == "files":
            names = [[(file.name, file.rows, file.scored, file.values) for file in files] for files in names]
        assert names[0] == names[1], said


def test_pruning_reads_no_footer_of_a_chunk_whose_rejects_the_manifest_names(
    killed: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, asked = killed.opened(), list[str]()
    score(night, LocalEngine(2), Quiet())

    def counted(storage: Storage, path: str) -> object:
        asked.append(path)
        return read_footer(storage, path)

    monkeypatch.setattr(pruning, "read_footer", counted)
    lost = f"{night.folder}/chunk-00003.rejects.0123456789ab.parquet"
    killed.storage.create(lost, b"its writer lost a race")
    found = prune(killed.config, killed.storage, None, dry_run=False, progress=Quiet())
    assert found.counts == {"rejects files": 1}
    assert set(asked) == {f"{night.folder}/chunk-00003.parquet"}
    assert isinstance(killed.storage, LocalStorage)
    assert not killed.storage.local_path(lost).exists()
