"""Purge: write everything anew that has rows of somebody who is forgotten, without them, prove it, and take the old away.

Of each day with such rows its snapshots and finished runs are written beside the old ones; then the pointers move (snapshot,
accepted run, release), then the old ones go, what points first. So whenever this is interrupted, nothing points to something
half there, and doing it again finishes it. Nothing that goes is kept in another form: the difference of two digests is the hash
of the rows that went, which can be turned back into a key. So the log has digests under the secret only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.config import PipelineConfig
from batch_assets.errors import AtWork, CommitBroken, SnapshotChanged
from batch_assets.features.forgotten import Forgotten, Noted, Purged, forgotten, forgotten_log
from batch_assets.features.rewrite import Gone, find_rows
from batch_assets.features.snapshot import Snapshot, any_snapshot, current_log, days_of, partition_folder, read_snapshot
from batch_assets.logs import Change, LogEntry
from batch_assets.models.registry import Registry
from batch_assets.nightly.progress import Progress
from batch_assets.operations.generations import new_run, new_snapshot, point_to
from batch_assets.operations.rewritten import Rewriting
from batch_assets.process import Process
from batch_assets.runs.commit import day_folder, read_committed
from batch_assets.runs.manifest import Manifest, latest_manifest, read_manifest
from batch_assets.serving.release import release_parts
from batch_assets.serving.retention import release_names
from batch_assets.serving.store import release_folder
from batch_assets.storage import Storage
from batch_assets.storage.lease import at_work, lease


@dataclass(frozen=True)
class PurgedDay:
    """What is done to a day: how many rows go out of its snapshots, what is written anew, and what is taken away unread."""

    day: str
    rows: int
    rewritten: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class PurgeReport:
    """What a purge did (or, of a dry run, would do), and what is out of its reach."""

    pipeline: str
    days: tuple[PurgedDay, ...]
    dry_run: bool
    out_of_reach: tuple[str, ...]


@dataclass
class _Day:
    """What a day has of somebody who is forgotten.

    `snapshots` have such rows, and a pointer or a finished run needs them; `runs` are finished ones of these. `dropped` are
    folders that have such rows, too, and that nobody needs.
    """

    day: str
    snapshots: dict[str, tuple[Snapshot, Gone]] = field(default_factory=dict)
    runs: list[Manifest] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, int]:
        """How many rows go, by snapshot."""
        return {folder: sum(map(len, gone)) for folder, (_, gone) in self.snapshots.items()}

    @property
    def report(self) -> PurgedDay:
        """What is done, in words."""
        folders = (*self.snapshots, *(manifest.folder for manifest in self.runs))
        return PurgedDay(self.day, sum(self.rows.values()), folders, tuple(self.dropped))


def purge(
    config: PipelineConfig, storage: Storage, registry: Registry, progress: Progress, *, dry_run: bool = True
) -> PurgeReport:
    """Write everything anew that has rows of somebody whom a pipeline has forgotten, without them.

    Raises:
        AtWork: somebody works on one of the days; nothing was done.
        SecretInvalid: the secret is not there, or another one.
        SnapshotChanged, CommitBroken: a file is not what was recorded; days before that are purged, that one is as it was.
        ProofFailed: what was written is not what was there minus the rows that went; nothing points to it.
    """
    who = forgotten(storage, config.name)
    if not dry_run:
        with storage.scratch():
            pass  # sweeps away what died processes have left
    found = list[_Day]()
    days = days_of(storage, config.name) if who else []
    for number, day in enumerate(days, start=1):
        if who and (one := _look_at(config, storage, day, who)).report.rows + len(one.dropped):
            found.append(one)
        progress.at("looking", number, len(days))
    if not dry_run:
        for one in found:
            _require_idle(storage, config.name, one)
        for number, one in enumerate(found, start=1):
            if who:
                _purge_day(config, storage, registry, who, one, progress)
            progress.at("purging", number, len(found))
    reports = tuple(one.report for one in found)
    return PurgeReport(config.name, reports, dry_run, _out_of_reach(config, storage))


def _look_at(config: PipelineConfig, storage: Storage, day: str, who: Forgotten) -> _Day:
    """What a day has of somebody who is forgotten."""
    found = _Day(day)
    entry = current_log(storage, config.name, day).latest()
    folder = partition_folder(config.name, day)
    runs = [f"{day_folder(config.name, day)}/{one}" for one in _named(storage, day_folder(config.name, day), "run=")]
    manifests = {run: manifest for run in runs if (manifest := latest_manifest(storage, run))}
    needed = {manifest.snapshot_folder: manifest.snapshot for manifest in manifests.values()}
    if entry is not None:
        needed[f"{folder}/snapshot={entry.body.digest[:16]}"] = entry.body.digest
    for path, digest in needed.items():
        if storage.names(path):
            snapshot = read_snapshot(storage, path, digest)
            gone = find_rows(storage, path, snapshot, chosen(config, snapshot, who))
            if sum(map(len, gone)):
                found.snapshots[path] = (snapshot, gone)
    for run in runs:
        if run not in manifests:
            found.dropped += [run] if _unfinished_has(config, storage, run, who) else []
        elif manifests[run].snapshot_folder in found.snapshots:
            found.runs.append(read_manifest(storage, run) or manifests[run])
    others = [f"{folder}/{name}" for name in _named(storage, folder, "snapshot=")]
    found.dropped += [path for path in others if path not in needed and _unneeded_has(config, storage, path, who)]
    return found


def chosen(config: PipelineConfig, snapshot: Snapshot, who: Forgotten) -> "partial[npt.NDArray[np.bool_]]":
    """Says which rows are about somebody who is forgotten: by the key, which comes before the item."""
    return partial(_chosen, who, snapshot.key[: len(config.features.contract.key)])


def _chosen(who: Forgotten, key: tuple[str, ...], table: pa.Table) -> npt.NDArray[np.bool_]:
    return who.rows(table, key)


def _unfinished_has(config: PipelineConfig, storage: Storage, run: str, who: Forgotten) -> bool:
    """Whether a run that was never finished has rows of somebody who is forgotten; one that cannot be read may have some."""
    names = config.features.contract.key_names
    try:
        files = [f"{run}/{name}" for name in storage.names(run) if name.endswith(".parquet")]
        return any(who.rows(read_committed(storage, file, list(names)), names).any() for file in files)
    except CommitBroken:
        return True


def _unneeded_has(config: PipelineConfig, storage: Storage, folder: str, who: Forgotten) -> bool:
    """The same of a snapshot that a --refresh replaced and that no run was made of."""
    try:
        snapshot = any_snapshot(storage, folder)
        return any(map(len, find_rows(storage, folder, snapshot, chosen(config, snapshot, who))))
    except SnapshotChanged:
        return True


def _require_idle(storage: Storage, pipeline: str, found: _Day) -> None:
    """Raises AtWork if another process works on a day."""
    for folder in (day_folder(pipeline, found.day), *(manifest.folder for manifest in found.runs), *found.dropped):
        for process in at_work(storage, folder):
            if process != Process.current():
                raise AtWork(f"{process} is at work on {pipeline} {found.day}: purge when it has finished.")


def _purge_day(
    config: PipelineConfig, storage: Storage, registry: Registry, who: Forgotten, found: _Day, progress: Progress
) -> None:
    """Write a day anew, let everything point to that, note it, and take the old away."""
    with lease(storage, day_folder(config.name, found.day)):
        _require_idle(storage, config.name, found)
        work = dict[str, Rewriting]()
        for folder, (snapshot, gone) in found.snapshots.items():
            rows = chosen(config, snapshot, who)
            work[folder] = new_snapshot(config, storage, found.day, folder, snapshot, gone, rows, who.number)
        runs = [
            (manifest, new_run(work[manifest.snapshot_folder], registry, manifest, _releases_of(storage, manifest)))
            for manifest in found.runs
        ]
        point_to(config, storage, registry, found.day, list(work.values()), runs, progress)
        dropped = (*found.dropped, *(manifest.folder for manifest in found.runs), *found.snapshots)
        digests = {one.after.folder: who.hashing.seal(one.after.snapshot.digest) for one in work.values()}
        digests |= {new.folder: who.hashing.seal(new.values.hex()) for _, new in runs}
        _note(
            storage,
            config.name,
            Purged(number=who.number, day=found.day, rows=found.rows, digests=digests, dropped=tuple(found.dropped)),
        )
        _require_idle(storage, config.name, found)
        for manifest in found.runs:
            for name in _releases_of(storage, manifest):
                storage.discard(release_folder(config.name, name))  # of a build that died nothing else knows
        for path in dropped:
            storage.discard(path)


def _note(storage: Storage, pipeline: str, body: Purged) -> None:
    """Write down what was purged, unless a purge that was interrupted has."""
    log = forgotten_log(storage, pipeline)

    def decide(latest: LogEntry[Noted] | None) -> LogEntry[Noted] | Change[Noted] | None:
        said = any(entry.body.root == body for entry in log.history())
        return latest if said else Change(Noted(body), f"purged without the keys that were forgotten up to entry {body.number}")

    log.update(decide)


def _releases_of(storage: Storage, manifest: Manifest) -> tuple[str, ...]:
    """The names of a run's releases that are there."""
    own = (manifest.partition, manifest.run_id)
    return tuple(name for name in release_names(storage, manifest.pipeline) if release_parts(name) == own)


def _named(storage: Storage, folder: str, prefix: str) -> Iterator[str]:
    return (name for name in sorted(storage.names(folder)) if name.startswith(prefix))


def _out_of_reach(config: PipelineConfig, storage: Storage) -> tuple[str, ...]:
    """What a purge cannot reach, each as a sentence."""
    servers = [store.called for store in config.stores if store.kind not in ("arrow",)]
    tables = [table.called for table in config.tables]
    return (
        f"The source of {config.name} and, of a lake, its history; each freeze leaves them out.",
        f"Copies and backups of {storage.location} elsewhere, and results that were copied out of it.",
        *([f"What {', '.join(servers)} keep beside their tables: backups, write-ahead logs, snapshots."] if servers else []),
        *([f"Days of {', '.join(tables)} whose runs are pruned, and earlier versions of all days there."] if tables else []),
        "Dagster's event log: messages, pictures and digests of earlier runs may give keys away; wipe those materializations.",
        "Alerts that were sent, and logs of processes.",
        "Models that were trained with them.",
        "Reasons that people gave, and names that they gave to things.",
    )
