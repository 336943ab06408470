"""Replay one recorded prediction: the row that was frozen, the model that scored it, the shape that it was scored in."""

from dataclasses import dataclass
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import ModelChanged, NoPrediction, ProofFailed
from batch_assets.features.keys import Said, in_words, parts, plain
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.nightly.freeze import Frozen
from batch_assets.nightly.night import Night
from batch_assets.operations.recorded import RecordedKey, recorded_key, recorded_run
from batch_assets.proof.audit import Sample, bound, score_again
from batch_assets.records import Records
from batch_assets.runs.manifest import Manifest
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Replayed:
    """A recorded prediction and the same once more.

    `bound` is by how much the scores may differ: 0 where device, capability, precision, library and batch shape are
    those of the commit. `recorded_environment` is None for a row that a replay of dead letters scored: it was not recorded.
    """

    pipeline: str
    partition: str
    key: object
    run_id: str
    model: str
    file: str
    recorded: dict[str, Any]
    replayed: dict[str, Any]
    bit_equal: bool
    difference: float
    bound: float
    recorded_environment: dict[str, str] | None
    replayed_environment: dict[str, str]
    batch_rows: int
    verdict: str


def replay(config: PipelineConfig, storage: Storage, registry: Registry, key: Said, day: str | None = None) -> Replayed:
    """Score one key's row of a recorded run again, here, and compare it with what was recorded.

    Snapshot, model, batch shape, precision and device are those of the run, whatever the pipeline says today; a device that
    is not here is replaced by the CPU.

    Raises:
        ProofFailed: the row is scored otherwise, by more than the bound.
        NoPrediction: the key is not in the snapshot, or was not scored.
        NotFound: no run of the day is kept.
        ModelChanged: the model's files are not those that scored the run.
        SnapshotChanged, CommitBroken: a file is not what was recorded.
    """
    manifest = recorded_run(config, storage, registry, day).manifest
    found = recorded_key(storage, manifest, key)
    if found.fate != "scored":
        raise NoPrediction(
            f"no prediction for key {in_words(parts(key))}: it was not scored in run {manifest.run_id} of {manifest.pipeline} "
            f"{manifest.partition} ({found.fate}: {found.record['reason']}), so there is nothing to replay"
        )
    model = registry.version(manifest.model.name, manifest.model.version)
    if model.digest != manifest.model.digest:
        raise ModelChanged(
            f"{model.name} {model.version} has digest {model.digest}, run {manifest.run_id} was scored by "
            f"{manifest.model.digest}: its files were changed, restore them from a copy."
        )
    scorer = _recorded_night(config, storage, manifest, model, found).task().open()
    environment = found.commit.environment if found.name == f"{found.chunk.name}.parquet" else None
    sample = Sample(found.chunk, (found.row - found.chunk.start,), environment or {}, found.commit.batch_rows)
    again, recorded = score_again(scorer, sample), model.card.head.record.from_table(found.line)
    says = (
        f"{found.name} of {manifest.folder} says {recorded.score[0]:.9g} for key {in_words([repr(one) for one in found.key])}"
    )
    if not len(again.keys):
        raise ProofFailed(f"{says}, but the row cannot be scored now.")
    replayed, allowed = again.records, 0.0 if again.exact else float(bound(recorded)[0])
    equal = bool(replayed.same_bits(recorded).all())
    difference = abs(float(replayed.score[0]) - float(recorded.score[0]))
    if not equal and (again.exact or difference > allowed):
        raise ProofFailed(f"{says}, scored again it is {replayed.score[0]:.9g}; they may differ by {allowed:g}.")
    return Replayed(
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        key=plain(found.key),
        run_id=manifest.run_id,
        model=f"{model.name} {model.version}",
        file=found.name,
        recorded=_plain(recorded),
        replayed=_plain(replayed),
        bit_equal=equal,
        difference=difference,
        bound=allowed,
        recorded_environment=environment,
        replayed_environment=scorer.predictor.environment,
        batch_rows=found.commit.batch_rows,
        verdict=_verdict(equal, again.exact, difference, allowed),
    )


def _recorded_night(
    config: PipelineConfig, storage: Storage, manifest: Manifest, model: ModelVersion, found: RecordedKey
) -> Night:
    """The night as it was, as far as that decides one row's values; nothing of it is taken from today's settings."""
    environment = found.commit.environment
    recorded = {"device": environment.get("device", "cpu"), "precision": environment.get("precision", "float32")}
    if not model.card.runtime.has(recorded["device"]):
        recorded = {"device": "cpu", "precision": "float32" if recorded["precision"] == "tf32" else recorded["precision"]}
    settings = {**recorded, "batch_size": found.commit.batch_rows, "chunk_rows": found.chunk.rows, "max_failed": 1.0}
    snapshot = Frozen(found.snapshot, storage, manifest.snapshot_folder, reused=True, seconds={})
    return Night(
        config,
        storage,
        manifest.partition,
        snapshot,
        model,
        ScoringSettings.model_validate(settings),
        (found.chunk,),
        manifest.run_id,
    )


def _plain(records: Records) -> dict[str, Any]:
    return records.kind.as_mapping(records.packed()[0])


def _verdict(equal: bool, exact: bool, difference: float, allowed: float) -> str:
    if not equal:
        return f"Equal within {allowed:g} (they differ by {difference:.3g}); no more is promised between these environments."
    due = "as they must be in the same environment" if exact else "although the environments or shapes are not the same"
    return f"Equal bit for bit, {due}."
