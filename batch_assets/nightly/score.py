"""Score a partition: from its snapshot and one approved model to a finished run, proven complete.

The run id is a digest of everything that decides the result. The same work has the same id and resumes; anything else
has another, so two models or two settings never mix.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest
from batch_assets.engines.engine import Engine, Workers
from batch_assets.errors import ProofFailed
from batch_assets.features.snapshot import SnapshotReader, current_log
from batch_assets.histogram import Histogram
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.freeze import Frozen, frozen
from batch_assets.nightly.progress import Progress
from batch_assets.proof.agreement import agreement
from batch_assets.proof.audit import Sample, compare, detection, draw
from batch_assets.proof.keys import prove
from batch_assets.runs.bottleneck import WorkTime
from batch_assets.runs.chunks import Chunk, plan_chunks
from batch_assets.runs.commit import ChunkCommit, day_folder, read_commits, run_folder
from batch_assets.runs.evidence import Agreement, Audit, Proof
from batch_assets.runs.manifest import (
    Manifest,
    ModelPin,
    added,
    damage,
    finished_entry,
    manifest_files,
    manifest_log,
    read_manifest,
)
from batch_assets.scoring.batch_size import BatchSize, pin, resolved
from batch_assets.scoring.scorer import SCORING_FORMAT, Scorer, ScoringTask
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.storage import Storage, require_space
from batch_assets.storage.lease import lease

BYTES_PER_ROW = 160
"""A generous estimate of what one row writes: its prediction and its record in the release."""

SPARE_BYTES = 32 << 20
"""What must stay free beside it: logs, footers, the file system's own needs."""


@dataclass(frozen=True)
class Run:
    """The scoring of one snapshot by one model version, whether or not it has begun; `settings` have no `auto` any more."""

    run_id: str
    folder: str
    day: str
    frozen: Frozen
    model: ModelVersion
    settings: ScoringSettings
    plan: tuple[Chunk, ...]


@dataclass(frozen=True)
class Scored:
    """A finished run; `resumed_chunks` were committed before, `rows_now` were scored in `seconds_now` by this call.

    `finished_before` is when the run was finished (UTC, ISO 8601), if that was before this call.
    """

    manifest: Manifest
    resumed_chunks: int
    rows_now: int
    seconds_now: float
    finished_before: str = ""


def plan_run(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, snapshot: Frozen | None = None) -> Run:
    """What scoring a day with a model means: the run's id, folder and chunks; of a given snapshot, or of the day's.

    Raises:
        NotFound: the day is not frozen.
        SnapshotChanged: a frozen file was changed.
    """
    snapshot = snapshot or frozen(config, storage, day)
    settings = _settings(config, storage, day, model)
    plan = plan_chunks(snapshot.snapshot, settings.chunk_rows)
    identity = {
        "pipeline": config.name,
        "partition": day,
        "snapshot": snapshot.snapshot.digest,
        "timezone": config.partitions.timezone,
        "model": [model.name, model.version, model.digest],
        "contract": config.features.contract.fingerprint(),
        "plan": [[chunk.file, chunk.start, chunk.rows] for chunk in plan],
        "settings": settings.deciding(),
        "scoring_format": SCORING_FORMAT,
    }
    run_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Run(run_id, run_folder(config.name, day, run_id), day, snapshot, model, settings, plan)


def _settings(
    config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, *, begin: bool = False
) -> ScoringSettings:
    """Settings with a number for `auto`: the one that the day was begun with, else what a sweep found, else the default."""
    if config.scoring.batch_size != "auto":
        return config.scoring
    begun = batch_size_log(config, storage, day, model)
    found = resolved(storage, config.scoring, model.card.model_sha256, model.card.runtime.versioned())
    return pin(begun, found) if begin or begun.latest() else found


def batch_size_log(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> NumberedLog[BatchSize]:
    """Which batch size `auto` means for a day and a model."""
    key = f"{model.card.model_sha256[:16]}-{config.scoring.device}-{config.scoring.precision}"
    return NumberedLog(storage, f"{day_folder(config.name, day)}/_batch_size/{key}", BatchSize)


def score(
    config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, engine: Engine, progress: Progress
) -> Scored:
    """Score a day, or what is missing of it, and write the manifest with the proof.

    Raises:
        ContractBroken: the snapshot does not have the columns that the model was trained on; no row was scored.
        StorageFull: there is not enough space for what would be written; no row was scored.
        ProofFailed: rows are missing, doubled or foreign.
        ModelChanged: the model's files were changed while they were used; there is no manifest then.
        BatchAssetsError: whatever a chunk raised.
    """
    _settings(config, storage, day, model, begin=True)
    run = plan_run(config, storage, day, model)
    finished = finished_entry(storage, run.folder)
    broken = damage(storage, finished.body) if finished else []
    if finished is not None and not broken:
        progress.say(f"Run {run.run_id} of {day} is finished: all {len(run.plan)} chunks were committed before.")
        return Scored(finished.body, len(run.plan), rows_now=0, seconds_now=0.0, finished_before=finished.when)
    if broken:
        progress.say(f"Run {run.run_id} of {day} was finished, but {'; '.join(broken)}: what is missing is scored again.")
    started = time.perf_counter()
    config.features.contract.require_same(model.card.contract, f"{model.name} {model.version}")
    config.answers.require(model.card.head, f"{model.name} {model.version}")
    task = scoring_task(config, storage, run)
    with lease(storage, run.folder) as others:
        for other in others:
            progress.say(
                f"Run {run.run_id} of {day} is active elsewhere too ({other}); commits are shared, rows are not doubled."
            )
        commits = read_commits(storage, run.folder, run.plan, run.run_id)
        resumed = len(commits)
        if resumed:
            progress.say(f"Run {run.run_id} of {day} resumes: {resumed} of {len(run.plan)} chunks are committed.")
        total = run.frozen.snapshot.rows
        require_space(storage, total * BYTES_PER_ROW + SPARE_BYTES, f"Scoring and publishing {total:,} rows")
        before = sum(commit.rows for commit in commits.values())
        with engine.open(task, progress.say) as workers:
            agreed = _agreement(workers, run)
            _score_rest(workers, run, commits, progress)
            scored = time.perf_counter()
            proof = prove(storage, run.frozen.snapshot, run.frozen.folder, run.folder, run.plan, commits)
            audit = _audit(workers, run, commits)
            proof_seconds = round(time.perf_counter() - scored, 6)
            times = workers.times()
        work = WorkTime(
            workers=times.workers,
            wall_seconds=round(times.wall, 6),
            lifetimes=round(times.lifetimes, 6),
            seconds={stage: round(seconds, 6) for stage, seconds in times.seconds.items()},
        )
        run.model.require_unchanged()
        done = Done(proof, audit, agreed, work, total - before, round(time.perf_counter() - started, 6), proof_seconds)
        manifest = _manifest(config, storage, run, commits, done, finished)
    return Scored(manifest, resumed, done.scored_here, done.wall_seconds)


@dataclass(frozen=True)
class Done:
    """What the process that finishes a run knows beside the commits; `scored_here` rows took `wall_seconds`."""

    proof: Proof
    audit: Audit
    agreement: Agreement | None
    work: WorkTime
    scored_here: int
    wall_seconds: float
    proof_seconds: float


def _score_rest(workers: Workers, run: Run, commits: dict[int, ChunkCommit], progress: Progress) -> None:
    """Score what is not committed yet; adds to `commits`."""
    total, done = run.frozen.snapshot.rows, sum(commit.rows for commit in commits.values())
    progress.at("scoring", done, total)
    for commit in workers.map(Scorer.score, [chunk for chunk in run.plan if chunk.number not in commits]):
        commits[commit.number] = commit
        done += commit.rows
        progress.at("scoring", done, total)


def _agreement(workers: Workers, run: Run) -> Agreement | None:
    """For a lower precision: how it compares with float32. Raises PrecisionRejected before a chunk is scored."""
    if run.settings.precision == "float32" or not run.plan:
        return None
    for chunk in run.plan:
        (found,) = workers.map(agreement, [chunk])
        if found.rows:
            found.require(run.settings.max_difference, run.settings.min_rank_agreement)
            return found
    return None  # not a single row is to be scored


def _audit(workers: Workers, run: Run, commits: dict[int, ChunkCommit]) -> Audit:
    """Score some rows again. Raises ProofFailed, naming chunk and key, if a value is another."""
    rows, scored = (sum(getattr(commit, name) for commit in commits.values()) for name in ("rows", "scored"))
    left_out = rows / scored - 1 if scored else 0.0  # for each row that was scored; a quarter more are drawn for chance
    settings, snapshot = run.settings, run.frozen.snapshot
    drawn = draw(snapshot, run.plan, settings.audit_groups, math.ceil(settings.audit_rows * (1 + 1.25 * left_out)))
    samples = [
        Sample(chunk, places, commit.environment, commit.batch_rows, commit.rejects)
        for chunk, places in drawn
        for commit in [commits[chunk.number]]
    ]
    compared = list(workers.map(compare, samples))
    faults = [one.fault for one in compared if one.fault]
    if faults:
        raise ProofFailed(f"The audit of {run.folder} failed: {'; '.join(faults)}.")
    audited = sum(one.rows for one in compared)
    return Audit(
        row_groups=len(compared),
        rows=audited,
        bit_equal=sum(one.bit_equal for one in compared),
        detects=detection(snapshot, run.plan, drawn, audited, scored),
    )


def scoring_task(config: PipelineConfig, storage: Storage, run: Run) -> ScoringTask:
    """What the workers are told, after the columns were compared with what the model takes."""
    card = run.model.card
    reader = SnapshotReader(storage, run.frozen.folder, run.frozen.snapshot)
    card.contract.require(reader.schema(), f"The snapshot of {config.name} {run.day}")
    return ScoringTask(
        storage=storage,
        snapshot=run.frozen.snapshot,
        snapshot_folder=run.frozen.folder,
        contract=card.contract,
        head=card.head,
        histogram_edges=card.baseline.edges,
        settings=run.settings,
        run_id=run.run_id,
        run_folder=run.folder,
        day=run.day,
        model_version=run.model.version,
        model_sha256=card.model_sha256,
        library=card.runtime.versioned(),
        load=PredictorLoader(run.model.storage, run.model.path, card.model_sha256, card.runtime),
    )


def _manifest(
    config: PipelineConfig,
    storage: Storage,
    run: Run,
    commits: dict[int, ChunkCommit],
    done: Done,
    earlier: LogEntry[Manifest] | None,
) -> Manifest:
    """Write the run's manifest after an earlier one, or take the one that another process wrote meanwhile.

    Raises:
        ProofFailed: an earlier manifest of the run, whose files were lost since, says other values.
    """
    files = manifest_files(storage, run.folder, run.plan, commits)
    ordered = [commits[chunk.number] for chunk in run.plan]
    card = run.model.card
    manifest = Manifest(
        run_id=run.run_id,
        pipeline=config.name,
        partition=run.day,
        folder=run.folder,
        snapshot=run.frozen.snapshot.digest,
        snapshot_folder=run.frozen.folder,
        model=ModelPin(name=run.model.name, version=run.model.version, digest=run.model.digest, sha256=card.model_sha256),
        approval=run.model.approval,
        contract=config.features.contract.fingerprint(),
        rows=sum(commit.rows for commit in ordered),
        scored=sum(commit.scored for commit in ordered),
        excluded=sum(commit.excluded for commit in ordered),
        dead_lettered=sum(commit.dead_lettered for commit in ordered),
        values=sum((commit.values for commit in ordered), Digest()),
        proof=done.proof,
        audit=done.audit,
        agreement=done.agreement,
        histogram=sum((commit.histogram for commit in ordered), Histogram.empty(card.baseline.edges)),
        record=card.head.record,
        labels=added((commit.labels for commit in ordered), card.head.record),
        files=files,
        batch_rows=min((commit.batch_rows for commit in ordered), default=run.settings.batch_rows),
        environments=_distinct(commit.environment for commit in ordered),
        seconds=_summed(commit.seconds for commit in ordered),
        work=done.work,
        scored_here=done.scored_here,
        wall_seconds=done.wall_seconds,
        proof_seconds=done.proof_seconds,
        versions={
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("batch-assets", "numpy", "pyarrow")},
            card.runtime.library: card.runtime.version(),
        },
    )
    if earlier is not None:
        manifest = _with_replays_of(earlier.body, manifest, storage)
        if earlier.body.values != manifest.values:
            raise ProofFailed(f"{run.folder}: what was scored again has other values than manifest {earlier.number} says.")
    snapshots, sizes = current_log(storage, config.name, run.day), batch_size_log(config, storage, run.day, run.model)
    seen: list[NumberedLog[Any]] = [snapshots, sizes, *run.model.logs]
    change = Change(manifest, "lost chunks were scored again" if earlier else "all chunks are committed", seen)
    in_force = manifest_log(storage, run.folder).update(lambda latest: change if latest == earlier else latest)
    if in_force is None or in_force.body != manifest:
        return read_manifest(storage, run.folder) or manifest
    return manifest


def _with_replays_of(earlier: Manifest, manifest: Manifest, storage: Storage) -> Manifest:
    """A manifest of the same commits with the replays that an earlier one names, as far as their files are still there."""
    there = storage.names(earlier.folder)
    replays = [file for file in earlier.files if file.is_replay]
    if any(there.get(file.name) != file.size for file in replays):
        raise ProofFailed(
            f"{earlier.folder}: files of replayed dead letters are lost; remove its newest manifest and replay them again."
        )
    commits = sum((file.values for file in earlier.files if not file.is_replay), Digest())
    if commits != manifest.values:
        return manifest  # which the caller refuses
    replayed = Histogram.empty(manifest.histogram.edges), [0] * len(manifest.labels)
    known = {"histogram": earlier.histogram, "labels": earlier.labels}
    return manifest.with_replays(replays, *replayed).model_copy(update=known)


def _distinct(environments: Iterable[dict[str, str]]) -> tuple[dict[str, str], ...]:
    found: list[dict[str, str]] = []
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return tuple(found)


def _summed(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for timing in timings:
        for stage, seconds in timing.items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 6)
    return total
