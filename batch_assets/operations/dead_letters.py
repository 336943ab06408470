"""Dead letters: which rows of a finished run could not be scored, why, and another attempt at just those."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from batch_assets.arrow import as_arrow
from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import Engine
from batch_assets.errors import LostRace, NewRunNeeded, NoPrediction, NotFound
from batch_assets.features.forgotten import forgotten
from batch_assets.features.keys import Said, in_words, parts, plain
from batch_assets.features.snapshot import SnapshotReader, read_snapshot
from batch_assets.histogram import Histogram
from batch_assets.logs import LogEntry
from batch_assets.models.registry import Registry
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.operations.recorded import newest_run
from batch_assets.proof.keys import prove_replays
from batch_assets.proof.replay import Replay, Replayed, dead_letters, replay_chunk
from batch_assets.runs.commit import run_folder
from batch_assets.runs.manifest import Manifest, ManifestFile, added, manifest_log, read_manifest
from batch_assets.runs.rejects import KILLED_WORKER
from batch_assets.storage import Storage
from batch_assets.storage.lease import lease


@dataclass(frozen=True)
class DeadLetter:
    """One row that could not be scored, and where it stands; a key of several columns is a list."""

    key: object
    reason: str
    error: str | None
    chunk: str
    file: str
    row: int


@dataclass(frozen=True)
class Outcome:
    """What a replay did: rows that are scored now, and why the others are not."""

    run_id: str
    replayed: int
    scored: int
    still_dead: dict[str, int]


def finished(config: PipelineConfig, storage: Storage, registry: Registry, day: str, run_id: str | None = None) -> Manifest:
    """The manifest of a day's run.

    It is the run that is named, else that of today's model and settings, else the one that was finished last.

    Raises:
        NotFound: no such run is finished.
    """
    if run_id is None:
        night = Night.open(config, storage, day, registry.resolve(config.model))
        run_id = night.run_id if read_manifest(storage, night.folder) else newest_run(storage, config.name, day)
    manifest = read_manifest(storage, run_folder(config.name, day, run_id)) if run_id else None
    if manifest is None:
        raise NotFound(f"No run{' ' + run_id if run_id else ''} of {config.name} {day} is finished.")
    return manifest


def list_dead_letters(config: PipelineConfig, storage: Storage, manifest: Manifest) -> Iterator[DeadLetter]:
    """Every dead letter of a run, in the order of the snapshot."""
    key = config.features.contract.identity
    for chunk, table in _tables(storage, manifest, key):
        for row in table.to_pylist():
            yield DeadLetter(
                plain([row[name] for name in key]), row["reason"], row.get("error"), chunk, row["file"], row["row"]
            )


def count_dead_letters(config: PipelineConfig, storage: Storage, manifest: Manifest) -> dict[str, int]:
    """How many dead letters a run has, by reason, the most frequent first."""
    counts = Counter[str]()
    for _, table in _tables(storage, manifest, config.features.contract.identity):
        counts.update(table.column("reason").to_pylist())
    return dict(counts.most_common())


def show_dead_letter(config: PipelineConfig, storage: Storage, manifest: Manifest, key: Said) -> dict[str, Any]:
    """One dead letter with its features as they were frozen. Raises NoPrediction if the key is not a dead letter."""
    for letter in list_dead_letters(config, storage, manifest):
        if _same(letter.key, key):
            snapshot = read_snapshot(storage, manifest.snapshot_folder, manifest.snapshot)
            file = next(n for n, one in enumerate(snapshot.files) if one.name == letter.file)
            reader = SnapshotReader(storage, manifest.snapshot_folder, snapshot)
            columns = [name for name in reader.schema().names if name not in snapshot.key]
            features = reader.rows(file, letter.row, 1, columns).to_pylist()[0]
            return {**letter.__dict__, "run_id": manifest.run_id, "features": features}
    raise NoPrediction(
        f"{in_words(parts(key))} is not a dead letter of run {manifest.run_id} of {config.name} {manifest.partition}."
    )


def _same(one: object, said: Said) -> bool:
    return [str(part) for part in (one if isinstance(one, list) else [one])] == [str(part) for part in parts(said)]


def replay(
    config: PipelineConfig, storage: Storage, registry: Registry, folder: str, engine: Engine, progress: Progress
) -> Outcome:
    """Score the dead letters of a run again, with the run's own model and settings, and add what succeeds to the run.

    Nothing that exists is changed: rows that can be scored now are in files of their own, which the next manifest names.
    Judge and publish the partition again to serve them.

    Raises:
        NewRunNeeded: model, features or settings are not those of the run any more.
        LostRace: somebody else added to the run meanwhile.
    """
    entry = manifest_log(storage, folder).latest()
    if entry is None:
        raise NotFound(f"{folder} is not finished.")
    manifest = entry.body
    night = _own_night(config, storage, registry, manifest)
    task = night.task()
    task = replace(task, settings=task.settings.model_copy(update={"max_failed": 1.0}))
    chunks = {f"{chunk.name}": chunk for chunk in night.plan}
    replays, still = [], Counter[str]()
    who, contract = forgotten(storage, config.name), config.features.contract
    for name, every in _tables(storage, manifest, contract.identity):
        table = every.filter(as_arrow(~who.rows(every, contract.key_names))) if who else every
        still.update({"forgotten (not tried again)": len(every) - len(table)})
        rows = [row["row"] for row in table.to_pylist() if row["reason"] != KILLED_WORKER]
        replays += [Replay(chunks[name], tuple(row - chunks[name].start for row in rows))] if rows else []
        still.update({f"{KILLED_WORKER} (not tried again)": len(table) - len(rows)})
    found: list[Replayed] = []
    total = sum(len(one.places) for one in replays)
    try:
        with lease(storage, folder), engine.open(task, progress.say) as workers:
            for one in workers.map(replay_chunk, replays):
                found.append(one)
                progress.at("replaying", sum(len(each.still_dead) + each.scored for each in found), total)
    finally:  # what one chunk raises does not undo what others have done
        if any(one.scored for one in found):
            night.model.require_unchanged()
            _add(config, storage, entry, [one for one in found if one.scored])
    still.update(why for one in found for why in one.still_dead.values())
    return Outcome(manifest.run_id, total, sum(one.scored for one in found), dict((+still).most_common()))


def _own_night(config: PipelineConfig, storage: Storage, registry: Registry, manifest: Manifest) -> Night:
    """The night as its own model and today's settings and features make it, whose run must be the run itself."""
    model = registry.version(manifest.model.name, manifest.model.version)
    night = Night.open(config, storage, manifest.partition, model)
    if night.run_id != manifest.run_id:
        raise NewRunNeeded(
            f"Run {manifest.run_id} of {config.name} {manifest.partition} cannot be gone on with: features, model or settings "
            f"are others now, which needs a new run: `batch-assets run {config.name} --partition {manifest.partition}`."
        )
    return night


def _add(config: PipelineConfig, storage: Storage, entry: LogEntry[Manifest], found: list[Replayed]) -> None:
    """Write the manifest after an entry, with the new files; proves that they hold nothing but former dead letters."""
    manifest = entry.body
    scored = sum(one.scored for one in found)
    files = [
        ManifestFile(name=one.file, size=one.size, rows=0, scored=one.scored, values=one.values, rejects=None) for one in found
    ]
    histogram = sum((one.histogram for one in found), start=Histogram.empty(manifest.histogram.edges))
    labels = added((one.labels for one in found), manifest.record)
    following = manifest.with_replays(files, histogram, labels)
    key = config.features.contract.identity
    for file, replays in following.by_chunk():
        prove_replays(storage, manifest.folder, key, file.chunk, file.rejects, [one.name for one in replays])
    try:
        log = manifest_log(storage, manifest.folder)
        why = f"{scored:,} dead letters were replayed"
        log.append(following, after=entry.number, why=why, seen=log.made_from(entry))
    except LostRace:
        for one in found:
            storage.delete(f"{manifest.folder}/{one.file}")
        raise


def _tables(storage: Storage, manifest: Manifest, key: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Chunk -> its rows that are dead letters still, where it has some."""
    for file, replays in manifest.by_chunk():
        if file.rejects:
            table = dead_letters(storage, manifest.folder, file.rejects, [one.name for one in replays], key)
            if len(table):
                yield file.chunk, table
