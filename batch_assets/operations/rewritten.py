"""A finished run without some of its rows: another run, of the snapshot without them, whose other predictions are the same.

It is what the night would have left behind without them: its id is the one that scoring the new snapshot has, as far as that
can be said, and its chunks are the old ones, only shorter; one of which every row goes is not there. Nothing is scored.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_arrow, as_numpy
from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest, key_digest, keyed_digest
from batch_assets.errors import AlreadyExists, CommitBroken, NoSuchModel, ProofFailed
from batch_assets.features.keys import identity
from batch_assets.features.rewrite import Chosen, Gone, same_rows
from batch_assets.features.snapshot import Snapshot
from batch_assets.histogram import Histogram
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import Frozen
from batch_assets.nightly.night import Night
from batch_assets.proof.keys import prove
from batch_assets.records import Records
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import (
    ChunkCommit,
    as_parquet,
    read_committed,
    read_footer,
    run_folder,
    write_commit,
    write_rejects,
)
from batch_assets.runs.commits import Commits
from batch_assets.runs.manifest import LeftOut, Manifest, ManifestFile, manifest_files
from batch_assets.runs.rejects import EXCLUDED, NO_PROBABILITIES, NON_FINITE_OUTPUT
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Rewriting:
    """What goes: `chosen` says it of rows, `gone` of places in the old snapshot, `removed` are their keys in words.

    `before` and `after` are the snapshots, `number` is the entry up to which everybody who was forgotten is meant.
    """

    config: PipelineConfig
    storage: Storage
    chosen: Chosen
    gone: Gone
    before: Frozen
    after: Frozen
    number: int
    removed: tuple[str, ...]


def rewrite_run(work: Rewriting, registry: Registry, manifest: Manifest, releases: tuple[str, ...]) -> Manifest:
    """Write a run's files without some rows into a folder of another run, prove it, and return the manifest of that.

    What is there already, of a try that was interrupted, stays. The manifest is not written down.

    Args:
        work: what goes.
        registry: the models.
        manifest: the run.
        releases: the names of the run's releases, in whose place those of the new run are.

    Raises:
        ProofFailed: a digest is not the one before minus that of the rows that went.
        CommitBroken: a file of the run was changed.
    """
    storage = work.storage
    old = [(replays, read_footer(storage, f"{manifest.folder}/{file.name}")) for file, replays in manifest.by_chunk()]
    left = [(chunk, one) for one in old if (chunk := _moved(work.gone, one[1])).rows]
    plan = tuple(replace(chunk, number=number) for number, (chunk, _) in enumerate(left))
    run_id = _run_id(work, registry, manifest, plan)
    folder = run_folder(manifest.pipeline, manifest.partition, run_id)
    commits = Commits(manifest.histogram.edges, manifest.record)
    for chunk, (_, (_, commit)) in zip(plan, left, strict=True):
        commits.add(_rewrite_chunk(work, manifest, folder, chunk, commit, run_id))
    before = tuple(dict.fromkeys((*manifest.releases_before, *releases)))
    new = _manifest(work, manifest, folder, plan, commits).model_copy(
        update={"run_id": run_id, "folder": folder, "left_out": LeftOut(number=work.number, instead_of=before)}
    )
    for chunk, (_, (replays, _)) in zip(plan, left, strict=True):
        for replay in replays:
            name = f"{chunk.name}.{replay.name.partition('.')[2]}"
            file, records = _rewrite_replay(work, manifest, replay, f"{folder}/{name}")
            histogram = Histogram.of(records.score, manifest.histogram.edges).model_copy(update={"non_finite": 0})
            new = new.with_replays([file] if len(records) else [], histogram, records.by_label())
    _prove_whole(work, manifest, new)
    return new


def _manifest(work: Rewriting, manifest: Manifest, folder: str, plan: tuple[Chunk, ...], commits: Commits) -> Manifest:
    """The manifest of the commits in a folder, after they were proven against the new snapshot. Raises ProofFailed."""
    proof = prove(work.storage, work.after.snapshot, work.after.folder, folder, plan, commits)
    return manifest.model_copy(
        update={
            "snapshot": work.after.snapshot.digest,
            "snapshot_folder": work.after.folder,
            "rows": proof.rows,
            "scored": commits.scored,
            "excluded": commits.excluded,
            "dead_lettered": commits.dead_lettered,
            "values": commits.digest,
            "proof": proof,
            "histogram": commits.histogram,
            "labels": commits.labels,
            "files": manifest_files(work.storage, folder, plan, commits),
        }
    )


def _prove_whole(work: Rewriting, before: Manifest, after: Manifest) -> None:
    """The digest of all predictions is the one before minus that of the rows that went. Raises ProofFailed."""
    removed, key = Digest(), work.before.snapshot.key
    for file in before.files:
        table = read_committed(work.storage, f"{before.folder}/{file.name}", [*key, *before.record.names])
        table = table.filter(as_arrow(work.chosen(table)))
        removed = removed + keyed_digest(identity(table, key), before.record.from_table(table).flat())
    if after.values != before.values - removed or after.rows != before.rows - sum(map(len, work.gone)):
        raise ProofFailed(f"{before.folder} without the rows that go is not {after.folder}: remove that and try again.")


def _moved(gone: Gone, commit: ChunkCommit) -> Chunk:
    """Where a chunk's rows are in the new snapshot."""
    before = np.searchsorted(gone[commit.file], [commit.start, commit.start + commit.rows]).tolist()
    return Chunk(commit.number, commit.file, commit.start - before[0], commit.rows - (before[1] - before[0]))


def _run_id(work: Rewriting, registry: Registry, manifest: Manifest, plan: tuple[Chunk, ...]) -> str:
    """The id that today's settings give to the work on the new snapshot, if they gave the old run its id; or a new one."""
    try:
        model = registry.version(manifest.model.name, manifest.model.version)
        before, after = (
            Night.open(work.config, work.storage, manifest.partition, model, one) for one in (work.before, work.after)
        )
        if before.run_id == manifest.run_id and after.plan == plan:
            return after.run_id
    except NoSuchModel:
        pass
    said = json.dumps([manifest.run_id, work.after.snapshot.digest])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _rewrite_chunk(
    work: Rewriting, manifest: Manifest, folder: str, chunk: Chunk, commit: ChunkCommit, run_id: str
) -> ChunkCommit:
    """Commit a chunk without the rows that go, read it back, and compare. Raises ProofFailed."""
    storage, key = work.storage, work.before.snapshot.key
    path = f"{manifest.folder}/chunk-{commit.number:05d}.parquet"
    before = read_committed(storage, path)
    goes = work.chosen(before)
    kept, records = before.filter(as_arrow(~goes)), manifest.record.from_table(before)
    if keyed_digest(identity(before, key), records.flat()) != commit.values:
        raise CommitBroken(f"{path} holds other values than its footer says: restore it.")
    rejects = _left_of_rejects(work, manifest.folder, commit)
    removed = keyed_digest(identity(before.filter(as_arrow(goes)), key), records.take(goes).flat())
    table, counts, unseen = rejects if rejects else (None, Counter[str](), 0)
    found = Histogram.of(records.take(~goes).score, commit.histogram.edges)
    said = commit.model_copy(
        update={
            "run_id": run_id,
            "number": chunk.number,
            "start": chunk.start,
            "rows": chunk.rows,
            "scored": len(kept),
            "excluded": counts["excluded"],
            "dead_lettered": counts["dead"],
            "keys": key_digest(identity(kept, key)) + (key_digest(identity(table, key)) if table else Digest()),
            "values": commit.values - removed,
            "rejects": write_rejects(storage, folder, chunk, table) if table else None,
            "histogram": found.model_copy(update={"non_finite": found.non_finite + unseen}),
            "labels": records.take(~goes).by_label(),
        }
    )
    written = write_commit(storage, folder, chunk, kept, said)
    after = read_committed(storage, f"{folder}/{chunk.name}.parquet")
    digest = keyed_digest(identity(after, key), manifest.record.from_table(after).flat())
    if digest != said.values or written.values != said.values or not same_rows(kept, after):
        raise ProofFailed(
            f"{folder}/{chunk.name}.parquet is not what its chunk was without the rows that go: remove the folder."
        )
    return written


def _left_of_rejects(work: Rewriting, folder: str, commit: ChunkCommit) -> "tuple[pa.Table, Counter[str], int] | None":
    """The rejects of a chunk that are left, at their new places; how many are excluded and dead; how many have no score."""
    if commit.rejects is None:
        return None
    table = read_committed(work.storage, f"{folder}/{commit.rejects.name}")
    table = table.filter(as_arrow(~work.chosen(table)))
    if not len(table):
        return None
    rows: npt.NDArray[np.int64] = as_numpy(table.column("row"))
    places = as_arrow(rows - np.searchsorted(work.gone[commit.file], rows))
    table = table.set_column(table.schema.get_field_index("row"), "row", places)
    kinds, reasons = table.column("kind").to_pylist(), table.column("reason").to_pylist()
    counts = Counter("excluded" if kind == EXCLUDED else "dead" for kind in kinds)
    return table, counts, sum(reason in (NON_FINITE_OUTPUT, NO_PROBABILITIES) for reason in reasons)


def _rewrite_replay(work: Rewriting, manifest: Manifest, file: ManifestFile, path: str) -> tuple[ManifestFile, Records]:
    """Write the file of a replay without the rows that go; nothing is written if none is left."""
    storage, key = work.storage, work.before.snapshot.key
    table = read_committed(storage, f"{manifest.folder}/{file.name}")
    table = table.filter(as_arrow(~work.chosen(table)))
    records, data = manifest.record.from_table(table), as_parquet(table)
    if len(table):
        try:
            storage.create(path, data)
        except AlreadyExists:
            data = pa.py_buffer(storage.read(path))  # of a try that was interrupted
    found = read_committed(storage, path) if len(table) else table
    values = keyed_digest(identity(found, key), manifest.record.from_table(found).flat())
    name = path.rpartition("/")[2]
    new = replace(file, name=name, size=len(data), scored=len(table), values=values)
    if not same_rows(table, found):
        raise ProofFailed(f"{path} is not what {file.name} was without the rows that go: remove it and try again.")
    return new, records


def frozen_as(storage: Storage, folder: str, snapshot: Snapshot) -> Frozen:
    """A snapshot that lies in a folder."""
    return Frozen(snapshot, storage, folder, reused=True, seconds={})
