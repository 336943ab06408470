"""Judge a run, write the verdict, and accept the run if the verdict is good.

Checks, command line, serving gate and summary read the verdict; none of them computes its own. A verdict is appended
only when it says something new, so that judging again costs nothing and history stays readable.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

from pydantic import BaseModel, ConfigDict

from batch_assets.config import PipelineConfig
from batch_assets.errors import LostRace, NotFound
from batch_assets.features.profile import read_profile
from batch_assets.models.registry import ModelVersion
from batch_assets.numbered_log import LogEntry, NumberedLog
from batch_assets.pipeline.freeze import Frozen, check_contract
from batch_assets.pipeline.score import Run, plan_run
from batch_assets.quality.completeness import judge_completeness
from batch_assets.quality.drift import judge_baseline, judge_drift, judge_scores
from batch_assets.quality.expectations import judge_profile
from batch_assets.quality.outcome import CheckOutcome, none_blocks
from batch_assets.scoring.commit import day_folder
from batch_assets.scoring.manifest import Manifest, latest_manifest, read_manifest
from batch_assets.storage import Storage


class Verdict(BaseModel):
    """Every outcome on one subject (a snapshot or a run), and the runs that it was compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    settings: str
    outcomes: tuple[CheckOutcome, ...]
    compared_with: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing blocks."""
        return none_blocks(self.outcomes)

    def outcome(self, name: str) -> CheckOutcome:
        """One outcome by its check's name. Raises NotFound: a check that did not run has not passed."""
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise NotFound(f"The verdict on {self.subject} says nothing about {name}: judge it again.")


def accepted_log(storage: Storage, pipeline: str, day: str) -> NumberedLog:
    """Which run of a day is accepted: entries with `run_id` (None after a withdrawal), its `folder` and `approval`."""
    return NumberedLog(storage, f"{day_folder(pipeline, day)}/_current")


@dataclass(frozen=True)
class Accepted:
    """A day's accepted run, and the approval under which it was accepted."""

    run_id: str
    folder: str
    approval: int


def accepted_run(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> Accepted | None:
    """The run of a day that is accepted, leaving out what was accepted under approvals that were withdrawn since."""
    log = accepted_log(storage, pipeline, day)
    for number in reversed(log.numbers()):
        body = log.entry(number).body
        if body["approval"] not in withdrawn:
            return Accepted(body["run_id"], body["folder"], body["approval"]) if body["run_id"] else None
    return None


def read_verdict(storage: Storage, folder: str) -> Verdict | None:
    """The verdict in force on a snapshot or a run, by its folder."""
    entry = NumberedLog(storage, f"{folder}/_verdict").latest()
    return Verdict.model_validate(entry.body) if entry else None


def judge_features(config: PipelineConfig, storage: Storage, frozen: Frozen) -> Verdict:
    """Judge a snapshot's columns: the contract, and the suite over the column profile."""
    allow_empty = config.quality.completeness.allow_empty
    text = f"{config.features.contract.model_dump_json()}{config.quality.expectations.model_dump_json()}{allow_empty}"
    settings = hashlib.sha256(text.encode()).hexdigest()
    before = read_verdict(storage, frozen.folder)
    if before is not None and before.settings == settings:
        return before
    differences = check_contract(config, storage, frozen)
    contract = CheckOutcome(
        name="contract",
        asset="user_features",
        passed=not differences,
        severity="error",
        observed=float(len(differences)),
        threshold=0.0,
        message="; ".join(differences) or f"{len(config.features.contract.columns)} columns as agreed.",
    )
    profile = read_profile(storage, frozen.folder)
    expectations = judge_profile(profile, config.features.contract, config.quality.expectations, allow_empty=allow_empty)
    verdict = Verdict(subject=frozen.snapshot.digest, settings=settings, outcomes=(contract, expectations))
    return _record(storage, frozen.folder, verdict)


def judge(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> Verdict:
    """Judge a finished run together with its features; a good one becomes the day's accepted run.

    Raises:
        NotFound: the run is not finished.
    """
    run, manifest = finished_run(config, storage, day, model)
    features = judge_features(config, storage, run.frozen)
    withdrawn = model.withdrawn()
    trailing = _trailing(config, storage, manifest, withdrawn)
    histograms = {partition: other.histogram for partition, other in trailing.items()}
    quality = config.quality
    verdict = Verdict(
        subject=manifest.run_id,
        settings=hashlib.sha256(quality.model_dump_json().encode()).hexdigest(),
        outcomes=(
            *features.outcomes,
            judge_completeness(
                rows=manifest.rows,
                scored=manifest.scored,
                excluded=manifest.excluded,
                dead_lettered=manifest.dead_lettered,
                proven_rows=manifest.proof.rows,
                settings=quality.completeness,
            ),
            judge_scores(manifest.histogram),
            judge_drift(manifest.histogram, histograms, quality.drift),
            judge_baseline(manifest.histogram, model.card.baseline, model.card.baseline_partition, quality.drift),
        ),
        compared_with=tuple(other.run_id for other in trailing.values()),
    )
    verdict = _record(storage, run.folder, verdict)
    _accept(config, storage, run, verdict, withdrawn)
    return verdict


def finished_run(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> tuple[Run, Manifest]:
    """The run of a day by a model, and its manifest. Raises NotFound if it is not finished."""
    run = plan_run(config, storage, day, model)
    manifest = read_manifest(storage, run.folder)
    if manifest is None:
        raise NotFound(f"{config.name} {day} is not scored by {model.name} {model.version} yet: materialize predictions first.")
    return run, manifest


def _trailing(config: PipelineConfig, storage: Storage, manifest: Manifest, withdrawn: Collection[int]) -> dict[str, Manifest]:
    """Earlier accepted days within reach that the same model scored, by partition, oldest first."""
    found = {}
    for back in range(config.quality.drift.trailing_days, 0, -1):
        day = (date.fromisoformat(manifest.partition) - timedelta(days=back)).isoformat()
        accepted = accepted_run(storage, config.name, day, withdrawn)
        other = latest_manifest(storage, accepted.folder) if accepted else None
        if other is not None and other.model == manifest.model:
            found[day] = other
    return found


def _record(storage: Storage, folder: str, verdict: Verdict) -> Verdict:
    """Append a verdict unless it says what the one in force says."""
    log = NumberedLog(storage, f"{folder}/_verdict")
    while True:
        latest = log.latest()
        if latest is not None and Verdict.model_validate(latest.body) == verdict:
            return verdict
        try:
            why = "good" if verdict.good else "blocked"
            log.append(verdict.model_dump(mode="json"), after=latest.number if latest else 0, why=why)
        except LostRace:
            continue  # somebody judged in the same moment: compare with what they wrote
        return verdict


def _kept(storage: Storage, acceptance: LogEntry) -> bool:
    """Whether the run that an acceptance names is still there; a withdrawal names none and stands."""
    return acceptance.body["run_id"] is None or latest_manifest(storage, acceptance.body["folder"]) is not None


def _accept(config: PipelineConfig, storage: Storage, run: Run, verdict: Verdict, withdrawn: Collection[int]) -> None:
    """Let the day's acceptance follow a verdict.

    A good run becomes the accepted one, unless its approval was withdrawn or a later approval's run is; a run that was pruned
    does not count. An accepted run that is judged again and is not good any more is withdrawn: no later day is compared with
    it. What is live stays live until another release is published.
    """
    log = accepted_log(storage, config.name, run.day)
    while True:
        latest = log.latest()
        if verdict.good:
            body = {"run_id": run.run_id, "folder": run.folder, "approval": run.model.approval}
            later = latest is not None and latest.body["approval"] > run.model.approval
            overruled = later and latest is not None and latest.body["approval"] not in withdrawn and _kept(storage, latest)
            settled = run.model.approval in withdrawn or overruled or (latest is not None and latest.body == body)
        else:
            body = {"run_id": None, "withdrawn": run.run_id, "approval": run.model.approval}
            settled = latest is None or latest.body["run_id"] != run.run_id
        if settled:
            return
        try:
            why = f"verdict {'good' if verdict.good else 'blocked'}, model {run.model.version}"
            log.append(body, after=latest.number if latest else 0, why=why)
        except LostRace:
            continue  # somebody judged the same day in the same moment: decide again
        return
