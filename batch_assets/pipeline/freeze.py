"""Freeze a partition's features: compute them once, keep them as a snapshot, judge its columns."""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.config import PipelineConfig
from batch_assets.errors import AlreadyExists, LostRace, NotFound, SnapshotChanged
from batch_assets.features.profile import read_profile, write_profile
from batch_assets.features.provenance import keep_provenance, read_provenance
from batch_assets.features.sql_source import read
from batch_assets.pipeline.watch import Watch
from batch_assets.snapshot import (
    ROWS_PER_GROUP,
    Snapshot,
    SnapshotReader,
    current_log,
    read_snapshot,
    require_unchanged,
    snapshot_folder,
    write_snapshot,
)
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Frozen:
    """A partition's snapshot, where it lies, and whether it was there already; `seconds` by stage."""

    snapshot: Snapshot
    folder: str
    reused: bool
    seconds: dict[str, float]


def frozen(config: PipelineConfig, storage: Storage, day: str) -> Frozen:
    """The snapshot that a day uses, after a look at whether its files are still what was frozen.

    Raises:
        NotFound: the day was never frozen, or its snapshot was pruned.
        SnapshotChanged: a file is not what was frozen, or days began at another hour then.
    """
    entry = current_log(storage, config.name, day).latest()
    if entry is None:
        raise NotFound(f"The features of {config.name} {day} are not frozen yet: materialize user_features first.")
    folder = snapshot_folder(config.name, day, entry.body["digest"])
    if not storage.names(folder):
        raise NotFound(f"{folder} is not kept any more: materialize user_features of {config.name} {day} again.")
    zone, now = read_provenance(storage, folder).timezone, config.partitions.timezone
    if zone != now:
        raise SnapshotChanged(
            f"The features of {config.name} {day} are those of a day in {zone}, and partitions.timezone is {now} now: freeze "
            "the partition again with --refresh."
        )
    return Frozen(_intact(storage, folder, entry.body["digest"]), folder, reused=True, seconds={})


def freeze(config: PipelineConfig, storage: Storage, day: str, watch: Watch, *, refresh: bool = False) -> Frozen:
    """A day's snapshot: the one that is there, or, if there is none (any more) or `refresh` asks for it, a new one.

    Raises:
        SourceError: the source cannot be read or queried.
        BadKeys: a key is null or doubled.
        SnapshotChanged: the snapshot that is there was changed; `refresh` replaces it.
    """
    log = current_log(storage, config.name, day)
    entry = log.latest()
    kept = entry is not None and bool(storage.names(snapshot_folder(config.name, day, entry.body["digest"])))
    if kept and not refresh:
        watch.say(f"The features of {day} were frozen before.")
        return frozen(config, storage, day)
    if entry and not kept:
        watch.say(f"The features of {day} were frozen before, but are not kept any more: they are computed again.")
    started = time.perf_counter()
    key = config.features.contract.key.name
    with storage.scratch() as scratch:
        (scratch / "snapshot").mkdir()
        (scratch / "spill").mkdir()
        with read(config.features.source, day, key, scratch / "spill", config.partitions.timezone) as source:
            watch.progress("freezing features", 0, None)
            row_group_rows = min(config.scoring.chunk_rows, ROWS_PER_GROUP)
            snapshot = write_snapshot(scratch / "snapshot", source.rows, key, row_group_rows)
        computed = time.perf_counter()
        numeric = _numeric_columns(scratch / "snapshot" / snapshot.files[0].name, key)
        write_profile(scratch / "snapshot", numeric, config.features.contract.categories)
        watch.progress("freezing features", snapshot.rows, snapshot.rows)
        folder = snapshot_folder(config.name, day, snapshot.digest)
        snapshot = _put_in_place(storage, scratch / "snapshot", folder, snapshot)
        keep_provenance(storage, folder, source.provenance)
    why = "first frozen" if entry is None else "refreshed" if kept else "frozen again, as the snapshot was not kept"
    try:
        log.append({"digest": snapshot.digest}, after=entry.number if entry else 0, why=why)
    except LostRace:
        return frozen(config, storage, day)  # another process froze the day in the same moment; its snapshot counts
    seconds = {"compute": computed - started, "profile": time.perf_counter() - computed}
    return Frozen(snapshot, folder, reused=False, seconds=seconds)


def _put_in_place(storage: Storage, scratch: Path, folder: str, snapshot: Snapshot) -> Snapshot:
    """Adopt new files; if the same rows were frozen before, theirs stay, unless they were damaged."""
    try:
        storage.adopt(scratch, folder)
        return snapshot
    except AlreadyExists:
        pass
    try:
        read_profile(storage, folder)
        return _intact(storage, folder, snapshot.digest)
    except SnapshotChanged:
        storage.discard(folder)
        storage.adopt(scratch, folder)
        return snapshot


def _intact(storage: Storage, folder: str, digest: str) -> Snapshot:
    snapshot = read_snapshot(storage, folder, digest)
    for file in snapshot.files:
        require_unchanged(storage, f"{folder}/{file.name}", file)
    return snapshot


def _numeric_columns(file: Path, key: str) -> list[str]:
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    schema = pq.read_schema(file)
    return [field.name for field in schema if field.name != key and any(test(field.type) for test in numeric)]


def check_contract(config: PipelineConfig, storage: Storage, frozen_day: Frozen) -> list[str]:
    """Each way in which a snapshot's columns differ from the pipeline's contract."""
    reader = SnapshotReader(storage, frozen_day.folder, frozen_day.snapshot)
    return config.features.contract.differences(reader.schema())
