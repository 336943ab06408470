"""Score a night: from its snapshot and one approved model to a finished run, proven complete."""

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from batch_assets.clock import utc_now
from batch_assets.digest import Digest
from batch_assets.engines.engine import Engine, Workers
from batch_assets.errors import ProofFailed
from batch_assets.histogram import Histogram
from batch_assets.logs import Change, LogEntry
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.process import MemoryWatch
from batch_assets.proof.agreement import agreement
from batch_assets.proof.audit import Sample, compare, detection, draw
from batch_assets.proof.keys import prove
from batch_assets.runs.bottleneck import WorkTime
from batch_assets.runs.commit import read_commits
from batch_assets.runs.commits import Commits
from batch_assets.runs.evidence import Agreement, Audit, Proof
from batch_assets.runs.manifest import (
    Manifest,
    ModelPin,
    damage,
    finished_entry,
    manifest_files,
    read_manifest,
)
from batch_assets.scoring.scorer import Scorer
from batch_assets.storage import Storage, require_space
from batch_assets.storage.lease import lease

BYTES_PER_ROW = 160
"""A generous estimate of what one row writes: its prediction and its record in the release."""

SPARE_BYTES = 32 << 20
"""What must stay free beside it: logs, footers, the file system's own needs."""


@dataclass(frozen=True)
class Scored:
    """A finished night; `resumed_chunks` were committed before, `rows_now` were scored in `seconds_now` by this call.

    `finished_before` is when the run was finished (UTC, ISO 8601), if that was before this call.
    """

    night: Night
    manifest: Manifest
    resumed_chunks: int
    rows_now: int
    seconds_now: float
    finished_before: str = ""


def score(night: Night, engine: Engine, progress: Progress) -> Scored:
    """Score a night, or what is missing of it, and write the manifest with the proof.

    Raises:
        ContractBroken: the snapshot does not have the columns that the model was trained on; no row was scored.
        StorageFull: there is not enough space for what would be written; no row was scored.
        ProofFailed: rows are missing, doubled or foreign.
        ModelChanged: the model's files were changed while they were used; there is no manifest then.
        BatchAssetsError: whatever a chunk raised.
    """
    night = night.begun()
    config, storage, model = night.config, night.storage, night.model
    run = f"Run {night.run_id} of {night.day}"
    finished = finished_entry(storage, night.folder)
    broken = damage(storage, finished.body) if finished else []
    if finished is not None and not broken:
        progress.say(f"{run} is finished: all {len(night.plan)} chunks were committed before.")
        return Scored(
            night, finished.body, len(night.plan), rows_now=0, seconds_now=0.0, finished_before=finished.body.finished
        )
    if broken:
        progress.say(f"{run} was finished, but {'; '.join(broken)}: what is missing is scored again.")
    started = time.perf_counter()
    config.features.contract.require_same(model.card.contract, f"{model.name} {model.version}")
    config.answers.require(model.card.head, f"{model.name} {model.version}")
    task = night.task()
    with lease(storage, night.folder) as others, MemoryWatch() as memory:
        for other in others.alive:
            progress.say(f"{run} is active elsewhere too ({other}); commits are shared, rows are not doubled.")
        commits = Commits(model.card.baseline.edges, model.card.head.record)
        for commit in read_commits(storage, night.folder, night.plan, night.run_id):
            commits.add(commit)
        resumed, before = len(commits), commits.rows
        if resumed:
            progress.say(f"{run} resumes: {resumed} of {len(night.plan)} chunks are committed.")
        total = night.frozen.snapshot.rows
        require_space(storage, total * BYTES_PER_ROW + SPARE_BYTES, f"Scoring and publishing {total:,} rows")
        with engine.open(task, progress.say, died=others.died > 0) as workers:
            agreed = _agreement(workers, night)
            _score_rest(workers, night, commits, progress)
            scored = time.perf_counter()
            proof = prove(storage, night.frozen.snapshot, night.frozen.folder, night.folder, night.plan, commits)
            audit = _audit(workers, night, commits)
            proof_seconds = round(time.perf_counter() - scored, 6)
            times = workers.times()
        work = WorkTime(
            workers=times.workers,
            wall_seconds=round(times.wall, 6),
            lifetimes=round(times.lifetimes, 6),
            seconds={stage: round(seconds, 6) for stage, seconds in times.seconds.items()},
            received=times.received,
            engine=times.engine,
        )
        model.require_unchanged()
        seconds = round(time.perf_counter() - started, 6)
        done = Done(proof, audit, agreed, work, total - before, seconds, proof_seconds, memory.peak)
        manifest = _manifest(night, commits, done, finished)
    return Scored(night, manifest, resumed, done.scored_here, done.wall_seconds)


@dataclass(frozen=True)
class Done:
    """What the process that finishes a run knows beside the commits; see `Manifest`."""

    proof: Proof
    audit: Audit
    agreement: Agreement | None
    work: WorkTime
    scored_here: int
    wall_seconds: float
    proof_seconds: float
    peak_bytes: int


def _score_rest(workers: Workers, night: Night, commits: Commits, progress: Progress) -> None:
    """Score what is not committed yet; adds to `commits`."""
    total = night.frozen.snapshot.rows
    progress.at("scoring", commits.rows, total)
    for commit in workers.map(Scorer.score, [chunk for chunk in night.plan if chunk.number not in commits]):
        commits.add(commit)
        progress.at("scoring", commits.rows, total)


def _agreement(workers: Workers, night: Night) -> Agreement | None:
    """For a lower precision: how it compares with float32. Raises PrecisionRejected before a chunk is scored."""
    if night.settings.precision == "float32" or not night.plan:
        return None
    for chunk in night.plan:
        (found,) = workers.map(agreement, [chunk])
        if found.rows:
            found.require(night.settings.max_difference, night.settings.min_rank_agreement)
            return found
    return None  # not a single row is to be scored


def _audit(workers: Workers, night: Night, commits: Commits) -> Audit:
    """Score some rows again. Raises ProofFailed, naming chunk and key, if a value is another."""
    scored = commits.scored
    left_out = commits.rows / scored - 1 if scored else 0.0  # for each row that was scored; a quarter more are drawn for chance
    settings, snapshot = night.settings, night.frozen.snapshot
    drawn = draw(snapshot, night.plan, settings.audit_groups, math.ceil(settings.audit_rows * (1 + 1.25 * left_out)))
    samples = [
        Sample(chunk, places, commit.environment, commit.batch_rows, commit.rejects)
        for chunk, places in drawn
        for commit in [commits[chunk.number]]
    ]
    compared = list(workers.map(compare, samples))
    faults = [one.fault for one in compared if one.fault]
    if faults:
        raise ProofFailed(f"The audit of {night.folder} failed: {'; '.join(faults)}.")
    audited = sum(one.rows for one in compared)
    return Audit(
        row_groups=len(compared),
        rows=audited,
        bit_equal=sum(one.bit_equal for one in compared),
        detects=detection(snapshot, night.plan, drawn, audited, scored),
    )


def _manifest(
    night: Night,
    commits: Commits,
    done: Done,
    earlier: LogEntry[Manifest] | None,
) -> Manifest:
    """Write the run's manifest after an earlier one, or take the one that another process wrote meanwhile.

    Raises:
        ProofFailed: an earlier manifest of the run, whose files were lost since, says other values.
    """
    config, storage, model = night.config, night.storage, night.model
    files = manifest_files(storage, night.folder, night.plan, commits)
    card = model.card
    manifest = Manifest(
        run_id=night.run_id,
        pipeline=config.name,
        partition=night.day,
        folder=night.folder,
        snapshot=night.frozen.snapshot.digest,
        snapshot_folder=night.frozen.folder,
        model=ModelPin(name=model.name, version=model.version, digest=model.digest, sha256=card.model_sha256),
        approval=model.approval,
        contract=config.features.contract.fingerprint(),
        rows=commits.rows,
        scored=commits.scored,
        excluded=commits.excluded,
        dead_lettered=commits.dead_lettered,
        values=commits.digest,
        proof=done.proof,
        audit=done.audit,
        agreement=done.agreement,
        histogram=commits.histogram,
        record=card.head.record,
        labels=commits.labels,
        files=files,
        batch_rows=min((commit.batch_rows for commit in commits.values()), default=night.settings.batch_rows),
        environments=_distinct(commits[chunk.number].environment for chunk in night.plan),
        seconds=commits.seconds,
        work=done.work,
        scored_here=done.scored_here,
        wall_seconds=done.wall_seconds,
        proof_seconds=done.proof_seconds,
        peak_bytes=done.peak_bytes,
        finished=utc_now().isoformat(timespec="microseconds"),
        versions={
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("batch-assets", "numpy", "pyarrow")},
            card.runtime.library: card.runtime.version(),
        },
    )
    if earlier is not None:
        manifest = _with_replays_of(earlier.body, manifest, storage).model_copy(update={"left_out": earlier.body.left_out})
        if earlier.body.values != manifest.values:
            raise ProofFailed(f"{night.folder}: what was scored again has other values than manifest {earlier.number} says.")
    why = "lost chunks were scored again" if earlier else "all chunks are committed"
    change = Change(manifest, why, night.made_from())
    in_force = night.log().update(lambda latest: change if latest == earlier else latest)
    if in_force is None or in_force.body != manifest:
        return read_manifest(storage, night.folder) or manifest
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
