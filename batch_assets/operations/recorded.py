"""One key in a recorded run: where it stood, which chunk it was in, and what became of it. Nothing of today is asked.

A run says of itself which snapshot, model and files it consists of; days later, that and not today's settings is what a
question about it is answered with.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.config import PipelineConfig
from batch_assets.errors import CommitBroken, NoPrediction, NotFound
from batch_assets.features.keys import KeyValue, Said, identity, identity_of, in_words, parsed, parts
from batch_assets.features.snapshot import Snapshot, SnapshotReader, read_snapshot
from batch_assets.models.registry import Registry
from batch_assets.nightly.accepted import accepted_log, accepted_run
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import ChunkCommit, day_folder, read_commit, read_committed, run_folder
from batch_assets.runs.manifest import Manifest, ManifestFile, manifest_log, read_manifest
from batch_assets.runs.rejects import EXCLUDED
from batch_assets.serving.live import current_log
from batch_assets.serving.release import release_parts
from batch_assets.storage import Storage

Chosen = Literal["live", "accepted", "newest finished, not accepted"]
Fate = Literal["scored", "excluded", "dead letter"]


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, why it is the one that is asked about, and the approval that it counts under (0: not recorded)."""

    manifest: Manifest
    chosen: Chosen
    approval: int


@dataclass(frozen=True)
class RecordedKey:
    """One row of a run: its key, its place in the snapshot, its chunk and commit, and the file that says what became of it.

    `line` is that row of the file: the prediction as it was written, or the reject with `reason` and `error`.
    """

    key: tuple[KeyValue, ...]
    snapshot: Snapshot
    file: int
    row: int
    chunk: Chunk
    commit: ChunkCommit
    fate: Fate
    name: str
    line: pa.Table

    @property
    def record(self) -> dict[str, Any]:
        """The row in plain values."""
        (record,) = self.line.to_pylist()
        return dict(record)


def recorded_run(config: PipelineConfig, storage: Storage, registry: Registry, day: str | None) -> RecordedRun:
    """The live release's run; of a day: its accepted run, or else the one that was finished last.

    Raises:
        NoPrediction: nothing was ever published.
        NotFound: no run of the day is finished, or it is not kept any more.
        CommitBroken: files of the run are missing.
    """
    if day is None:
        live = current_log(storage, config.name).latest()
        if live is None:
            raise NoPrediction(f"Nothing of {config.name} has been published under {storage.location} yet.")
        day, run_id = release_parts(live.body.release) or (live.body.partition, "")
        return _run(config, storage, day, run_id, "live", live.body.approval)
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    accepted = accepted_run(storage, config.name, day, withdrawn)
    newest = newest_run(storage, config.name, day)
    if accepted is not None and (newest is None or manifest_log(storage, accepted.folder).latest()):
        return _run(config, storage, day, accepted.run_id, "accepted", accepted.approval)
    if newest is None:
        raise NotFound(f"No run of {config.name} {day} is finished, or none is kept any more: {_again(config, day)}.")
    return _run(config, storage, day, newest, "newest finished, not accepted", 0)


def newest_run(storage: Storage, pipeline: str, day: str, snapshot: str | None = None) -> str | None:
    """The id of the run of a day (of one of its snapshots, by digest) that was finished last."""
    runs = [name.removeprefix("run=") for name in storage.names(day_folder(pipeline, day)) if name.startswith("run=")]
    finished_at = {}
    for run_id in runs:
        entry = manifest_log(storage, run_folder(pipeline, day, run_id)).latest()
        if entry and snapshot in (None, entry.body.snapshot):
            finished_at[run_id] = (entry.body.finished, entry.when)  # one that was written anew is as old as the other
    return max(finished_at, key=lambda run_id: finished_at[run_id]) if finished_at else None


def recorded_key(storage: Storage, manifest: Manifest, key: Said) -> RecordedKey:
    """What became of one row in a run, by its key (and item).

    Raises:
        NoPrediction: it is not in the run's snapshot.
        SnapshotChanged: the snapshot is not what was frozen.
        CommitBroken: a file of the run cannot be read, or holds nothing about the key.
    """
    snapshot = read_snapshot(storage, manifest.snapshot_folder, manifest.snapshot)
    reader = SnapshotReader(storage, manifest.snapshot_folder, snapshot)
    said = parts(key)
    place = find_key(reader, snapshot, said)
    if place is None:
        what = f"; a row is about {', '.join(snapshot.key)}: say a value for each" if len(said) != len(snapshot.key) else ""
        raise NoPrediction(
            f"no prediction for key {in_words(said)}: it is not in the snapshot {manifest.snapshot[:16]} of "
            f"{manifest.pipeline} {manifest.partition}, which run {manifest.run_id} scored{what}"
        )
    file, row = place
    (values,) = reader.rows(file, row, 1, list(snapshot.key)).to_pylist()
    wanted = reader.keys(file, row, 1)[0]
    about = f"{in_words(snapshot.key)} {in_words([repr(one) for one in values.values()])}"
    chunk, committed, replays = _chunk_at(manifest, snapshot, file, row)
    commit = read_commit(storage, manifest.folder, chunk, manifest.run_id)
    fate, name, line = _fate(storage, manifest, wanted, snapshot.key, about, committed, replays)
    return RecordedKey(tuple(values.values()), snapshot, file, row, chunk, commit, fate, name, line)


def find_key(reader: SnapshotReader, snapshot: Snapshot, key: Said) -> tuple[int, int] | None:
    """Where a row stands in a snapshot: the part file's index and the row in it, or None if it is not there.

    Rows are sorted by key, so only the keys of about log2(row groups) row groups are read. Text that is no number cannot be
    the key of anybody where keys are integers.
    """
    groups = [
        (index, start, group.rows)
        for index, file in enumerate(snapshot.files)
        for start, group in zip(accumulate((one.rows for one in file.row_groups), initial=0), file.row_groups, strict=False)
    ]
    if not groups:
        return None
    types = [reader.schema().field(name).type for name in snapshot.key]
    values = parsed(parts(key), types)
    found = identity_of(values, types) if values else None
    if found is None:
        return None
    wanted: Any = found[0].as_py()
    low, high = 0, len(groups)
    while low < high:
        middle = (low + high) // 2
        file, start, rows = groups[middle]
        keys = reader.keys(file, start, rows).to_pylist()
        if wanted < keys[0]:
            high = middle
        elif wanted > keys[-1]:
            low = middle + 1
        else:
            place = bisect_left(keys, wanted)
            return (file, start + place) if keys[place] == wanted else None
    return None


def _run(config: PipelineConfig, storage: Storage, day: str, run_id: str, chosen: Chosen, approval: int) -> RecordedRun:
    manifest = read_manifest(storage, run_folder(config.name, day, run_id))
    if manifest is None:
        raise NotFound(f"Run {run_id} of {config.name} {day} is {chosen}, but it is not kept any more: {_again(config, day)}.")
    return RecordedRun(manifest, chosen, approval or _accepted_under(storage, manifest) or manifest.approval)


def _again(config: PipelineConfig, day: str) -> str:
    return f"`batch-assets run {config.name} --partition {day}` scores the day"


def _accepted_under(storage: Storage, manifest: Manifest) -> int:
    """The approval of the newest acceptance of a run, or 0."""
    log = accepted_log(storage, manifest.pipeline, manifest.partition)
    bodies = (entry.body.root for entry in log.history())
    return next((body.approval for body in bodies if body.run_id == manifest.run_id), 0)


def _chunk_at(manifest: Manifest, snapshot: Snapshot, file: int, row: int) -> tuple[Chunk, ManifestFile, list[ManifestFile]]:
    """The chunk of a row, with its committed file and those of its replays: chunks tile the snapshot in order."""
    first = sum(one.rows for one in snapshot.files[:file])
    end = 0
    for number, (committed, replays) in enumerate(manifest.by_chunk()):
        start, end = end, end + committed.rows
        if first + row < end:
            return Chunk(number, file, start - first, committed.rows), committed, replays
    raise CommitBroken(f"The manifest of {manifest.folder} ends before row {first + row:,} of its snapshot: run it again.")


def _fate(
    storage: Storage,
    manifest: Manifest,
    wanted: pa.Scalar,
    names: Sequence[str],
    about: str,
    committed: ManifestFile,
    replays: list[ManifestFile],
) -> tuple[Fate, str, pa.Table]:
    """What became of a row: scored, in the chunk's file or that of a replay, or a reject."""
    for file in (committed, *replays):
        line = _line(storage, f"{manifest.folder}/{file.name}", wanted, names)
        if line is not None:
            return "scored", file.name, line
    if committed.rejects is not None:
        line = _line(storage, f"{manifest.folder}/{committed.rejects.name}", wanted, names)
        if line is not None:
            excluded = line.column("kind")[0].as_py() == EXCLUDED
            return ("excluded" if excluded else "dead letter"), committed.rejects.name, line
    raise CommitBroken(f"{manifest.folder}/{committed.name} says nothing about {about}: run it again.")


def _line(storage: Storage, path: str, wanted: pa.Scalar, names: Sequence[str]) -> pa.Table | None:
    """The row of a file that is about something, or None."""
    table = read_committed(storage, path)
    place = pc.index(identity(table, names), wanted).as_py()
    return table.slice(place, 1) if place >= 0 else None
