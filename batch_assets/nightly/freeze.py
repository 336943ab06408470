"""Freeze a partition's features: compute them once, keep them as a snapshot, judge its columns."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.config import PipelineConfig
from batch_assets.errors import AlreadyExists, NotFound, SnapshotChanged
from batch_assets.features.forgotten import ExcludedRows, Without, forgotten
from batch_assets.features.profile import read_profile, write_profile
from batch_assets.features.provenance import Provenance, keep_provenance, read_provenance
from batch_assets.features.snapshot import (
    ROWS_PER_GROUP,
    CurrentSnapshot,
    Snapshot,
    SnapshotReader,
    current_log,
    read_snapshot,
    require_unchanged,
    snapshot_folder,
    write_snapshot,
)
from batch_assets.logs import Change
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.timings import keep_timing
from batch_assets.process import MemoryWatch
from batch_assets.storage import LocalStorage, Storage
from batch_assets.threads import WAITING, in_threads

_NEW = "snapshot"
"""The folder within a scratch folder in which a snapshot is made."""


@dataclass(frozen=True)
class Frozen:
    """A partition's snapshot, where it lies, and whether it was there already; `seconds` by stage."""

    snapshot: Snapshot
    storage: Storage
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
    folder = snapshot_folder(config.name, day, entry.body.digest)
    if not storage.names(folder):
        raise NotFound(f"{folder} is not kept any more: materialize user_features of {config.name} {day} again.")
    zone, now = read_provenance(storage, folder).timezone, config.partitions.timezone
    if zone != now:
        raise SnapshotChanged(
            f"The features of {config.name} {day} are those of a day in {zone}, and partitions.timezone is {now} now: freeze "
            "the partition again with --refresh."
        )
    return Frozen(_intact(storage, folder, entry.body), storage, folder, reused=True, seconds={})


@contextmanager
def frozen_for_a_look(config: PipelineConfig, storage: Storage, day: str, progress: Progress) -> Iterator[Frozen]:
    """The snapshot that a day uses; if there is none (any more), one that is there for the time of the block only.

    Nobody else sees that: it lies in a scratch folder. If this process is killed, whoever makes the next one takes it away.
    """
    try:
        found = frozen(config, storage, day)
    except NotFound:
        with storage.scratch() as scratch:
            snapshot, provenance, seconds = _compute(config, storage, day, scratch, progress)
            keep_provenance(LocalStorage(str(scratch)), _NEW, provenance)
            yield Frozen(snapshot, LocalStorage(str(scratch)), _NEW, reused=False, seconds=seconds)
        return
    yield found


def freeze(config: PipelineConfig, storage: Storage, day: str, progress: Progress, *, refresh: bool = False) -> Frozen:
    """A day's snapshot: the one that is there, or, if there is none (any more) or `refresh` asks for it, a new one.

    Raises:
        SourceError: the source cannot be read or queried.
        BadKeys: a key is null or doubled.
        SnapshotChanged: the snapshot that is there was changed; `refresh` replaces it.
        SecretInvalid: the pipeline has forgotten keys, and their secret is not there, or another one.
    """
    log = current_log(storage, config.name, day)
    entry = log.latest()
    kept = entry is not None and bool(storage.names(snapshot_folder(config.name, day, entry.body.digest)))
    if kept and not refresh:
        progress.say(f"The features of {day} were frozen before.")
        return frozen(config, storage, day)
    if entry and not kept:
        progress.say(f"The features of {day} were frozen before, but are not kept any more: they are computed again.")
    with storage.scratch() as scratch, MemoryWatch() as memory:
        snapshot, provenance, seconds = _compute(config, storage, day, scratch, progress)
        computed = time.perf_counter()
        folder = snapshot_folder(config.name, day, snapshot.digest)
        snapshot = _put_in_place(storage, scratch / _NEW, folder, snapshot)
        keep_provenance(storage, folder, provenance)
    why = "first frozen" if entry is None else "refreshed" if kept else "frozen again, as the snapshot was not kept"
    change = Change(CurrentSnapshot.of(snapshot), why)
    in_force = log.update(lambda latest: change if latest == entry else latest)
    if in_force is None or in_force.body.digest != snapshot.digest:  # another process froze the day meanwhile: that counts
        return frozen(config, storage, day)
    seconds["profile"] += time.perf_counter() - computed
    keep_timing(storage, folder, "features", snapshot.rows, sum(seconds.values()), memory.peak)
    return Frozen(snapshot, storage, folder, reused=False, seconds=seconds)


def _compute(
    config: PipelineConfig, storage: Storage, day: str, scratch: Path, progress: Progress
) -> tuple[Snapshot, Provenance, dict[str, float]]:
    """Make a day's snapshot with its profile in a scratch folder; also what was read, and the seconds it took, by stage.

    Rows about somebody who is forgotten are left out before anything is written.
    """
    started, key = time.perf_counter(), config.features.contract.identity
    who = forgotten(storage, config.name)
    (scratch / _NEW).mkdir()
    (scratch / "spill").mkdir()
    with config.features.source.read(day, key, scratch / "spill", config.partitions.timezone) as read:
        progress.at("freezing features", 0, None)
        row_group_rows = min(config.scoring.chunk_rows, ROWS_PER_GROUP)
        left = Without(read.rows, who, config.features.contract.key_names) if who else None
        snapshot = write_snapshot(scratch / _NEW, left.reader() if left else read.rows, key, row_group_rows)
    excluded = ExcludedRows(number=who.number, rows=left.rows) if who and left else None
    computed = time.perf_counter()
    numeric = _numeric_columns(
        scratch / _NEW / snapshot.files[0].name, {*key, *(one.name for one in config.features.contract.carry)}
    )
    write_profile(scratch / _NEW, numeric, config.features.contract.categories)
    progress.at("freezing features", snapshot.rows, snapshot.rows)
    provenance = read.provenance.model_copy(update={"forgotten": excluded})
    return snapshot, provenance, {"compute": computed - started, "profile": time.perf_counter() - computed}


def _put_in_place(storage: Storage, scratch: Path, folder: str, snapshot: Snapshot) -> Snapshot:
    """Adopt new files; if the same rows were frozen before, theirs stay, unless they were damaged."""
    try:
        return snapshot.stamped(storage.adopt(scratch, folder))
    except AlreadyExists:
        pass
    try:
        read_profile(storage, folder)
        return _intact(storage, folder, CurrentSnapshot(digest=snapshot.digest))
    except SnapshotChanged:
        storage.discard(folder)
        return snapshot.stamped(storage.adopt(scratch, folder))


def _intact(storage: Storage, folder: str, current: CurrentSnapshot) -> Snapshot:
    """A snapshot of which every file is what was frozen; it has the stamps of today, so that nobody hashes a file again.

    In a copy that was restored they are others than when it was frozen.
    """
    snapshot = read_snapshot(storage, folder, current.digest).stamped(current.tokens)
    tokens = in_threads(lambda file: require_unchanged(storage, f"{folder}/{file.name}", file), snapshot.files, WAITING)
    return snapshot.stamped({file.name: token for file, token in zip(snapshot.files, tokens, strict=True)})


def _numeric_columns(file: Path, other: Collection[str]) -> list[str]:
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    schema = pq.read_schema(file)
    return [field.name for field in schema if field.name not in other and any(test(field.type) for test in numeric)]


def check_contract(config: PipelineConfig, frozen_day: Frozen) -> list[str]:
    """Each way in which a snapshot's columns differ from the pipeline's contract."""
    reader = SnapshotReader(frozen_day.storage, frozen_day.folder, frozen_day.snapshot)
    return config.features.contract.differences(reader.schema())
