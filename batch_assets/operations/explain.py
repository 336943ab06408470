"""Explain one key's prediction: every step from the frozen row to the answer, and who approved what scored it."""

from dataclasses import asdict, dataclass
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound, ReleaseBroken, SnapshotChanged
from batch_assets.features.keys import Said, plain
from batch_assets.features.provenance import read_provenance
from batch_assets.features.snapshot import SnapshotReader
from batch_assets.models.approvals import Approval
from batch_assets.models.registry import Registry
from batch_assets.nightly.verdict import read_verdict
from batch_assets.operations.recorded import Chosen, Fate, RecordedKey, recorded_key, recorded_run
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.commit import Written
from batch_assets.runs.manifest import Manifest, ModelPin
from batch_assets.serving.live import current_log
from batch_assets.serving.release import read_release, release_name, release_parts, stores_of
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Origin:
    """Where a key's row was frozen: the snapshot's digest, and the file and the row in it."""

    snapshot: str
    file: str
    row: int


@dataclass(frozen=True)
class ReadFrom:
    """A table that the rows were frozen from: where it lies, the state that was read, its files and rows."""

    table: str
    path: str
    pinned: str
    files: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class ScoredBy:
    """What wrote the result: chunk, the file that says it, which attempt of the engine it was, when and by which process."""

    chunk: str
    file: str
    attempt: int
    written: Written | None
    batch_rows: int
    environment: dict[str, str]


@dataclass(frozen=True)
class ReleaseState:
    """The run's release, or None if it has none (any more), and the one that readers see.

    `matches` is False if its description cannot be read or says other values than the run's manifest does now: dead letters
    were replayed since.
    """

    name: str | None
    matches: bool
    is_live: bool
    live: str | None


@dataclass(frozen=True)
class Explanation:
    """One row of one run; a key of several columns is a list.

    `prediction` has the fields of its record if the key was scored; else `reason` and `error` say why not. `approval` is
    None if it was not recorded.
    """

    pipeline: str
    partition: str
    key: object
    fate: Fate
    prediction: dict[str, Any] | None
    reason: str | None
    error: str | None
    run_id: str
    chosen: Chosen
    model: ModelPin
    approval: Approval | None
    origin: Origin
    read_from: tuple[ReadFrom, ...]
    features: dict[str, Any]
    scored_by: ScoredBy
    release: ReleaseState
    checks: tuple[CheckOutcome, ...]

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        written = self.scored_by.written
        return {
            **asdict(self),
            "model": self.model.model_dump(mode="json"),
            "scored_by": {**asdict(self.scored_by), "written": written.model_dump(mode="json") if written else None},
            "checks": [check.as_mapping() for check in self.checks],
        }


def explain(config: PipelineConfig, storage: Storage, registry: Registry, key: Said, day: str | None = None) -> Explanation:
    """Where a key's prediction comes from: in the live release, or on a day.

    Raises:
        NoPrediction: nothing was published, or the key is not in the snapshot.
        NotFound: no run of the day is kept.
        SnapshotChanged, CommitBroken: a file is not what was recorded.
    """
    run = recorded_run(config, storage, registry, day)
    manifest, found = run.manifest, recorded_key(storage, run.manifest, key)
    verdict = read_verdict(storage, manifest.folder)
    scored = found.fate == "scored"
    return Explanation(
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        key=plain(found.key),
        fate=found.fate,
        prediction=_prediction(found.record, manifest) if scored else None,
        reason=None if scored else found.record["reason"],
        error=None if scored else found.record.get("error"),
        run_id=manifest.run_id,
        chosen=run.chosen,
        model=manifest.model,
        approval=_approval(config, registry, manifest, run.approval),
        origin=Origin(manifest.snapshot, found.snapshot.files[found.file].name, found.row),
        read_from=_read_from(storage, manifest),
        features=_features(storage, manifest, found),
        scored_by=ScoredBy(
            chunk=found.chunk.name,
            file=found.name,
            attempt=found.commit.attempt,
            written=found.commit.written,
            batch_rows=found.commit.batch_rows,
            environment=found.commit.environment,
        ),
        release=_release(storage, manifest),
        checks=verdict.outcomes if verdict else (),
    )


def _prediction(row: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The record in a row of a predictions file."""
    return {name: row[name] for name in manifest.record.names}


def _read_from(storage: Storage, manifest: Manifest) -> tuple[ReadFrom, ...]:
    """The tables, if it was recorded what the rows were frozen from."""
    try:
        tables = read_provenance(storage, manifest.snapshot_folder).tables
    except SnapshotChanged:
        return ()
    return tuple(ReadFrom(one.name, one.path, one.pinned, tuple(file.path for file in one.files), one.rows) for one in tables)


def _features(storage: Storage, manifest: Manifest, found: RecordedKey) -> dict[str, Any]:
    """The row as it was frozen, without its key; what JSON has no word for (a date, bytes) as text."""
    reader = SnapshotReader(storage, manifest.snapshot_folder, found.snapshot)
    columns = [name for name in reader.schema().names if name not in found.snapshot.key]
    (features,) = reader.rows(found.file, found.row, 1, columns).to_pylist()
    plain = (int, float, str, list, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in features.items()}


def _approval(config: PipelineConfig, registry: Registry, manifest: Manifest, number: int) -> Approval | None:
    """The approval of a number, if the alias has it and it was given to the version that scored the run."""
    try:
        approval = registry.approvals(manifest.model.name, config.model.alias).number(number)
    except NotFound:
        return None
    return approval if (approval.version, approval.digest) == (manifest.model.version, manifest.model.digest) else None


def _release(storage: Storage, manifest: Manifest) -> ReleaseState:
    entry = current_log(storage, manifest.pipeline).latest()
    live = entry.body.release if entry else None
    name = release_name(manifest)
    if not stores_of(storage, manifest.pipeline, name):
        if live is None or release_parts(live) != (manifest.partition, manifest.run_id):
            return ReleaseState(None, matches=False, is_live=False, live=live)
        name = live  # from before dead letters were replayed
    try:
        stores = stores_of(storage, manifest.pipeline, name)
        matches = all(read_release(storage, manifest.pipeline, name, store).values == manifest.released for store in stores)
    except ReleaseBroken:
        matches = False
    return ReleaseState(name, matches, name == live, live)
