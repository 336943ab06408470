"""The verdict on a day, and a person's decision that what blocks it does not.

A day's verdict is that on the snapshot which it uses now, and on the run that was made of that one. What was made of an earlier
snapshot, published or not, says nothing about it.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import ModelError, NotFound, OverrideInvalid
from batch_assets.features.snapshot import current_log
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.freeze import Frozen, frozen
from batch_assets.nightly.judge import judge, run_verdict
from batch_assets.nightly.judge_features import features_verdict, judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.verdict import OLDEST, Decision, Recorded, override, recorded_verdict
from batch_assets.operations.recorded import newest_run
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.commit import run_folder
from batch_assets.runs.manifest import Manifest, read_manifest
from batch_assets.storage import Storage


@dataclass(frozen=True)
class DayVerdict:
    """The verdicts in force on a day's snapshot and on the run that was made of it.

    `run` is None while there is none; `notes` are sentences about what is not judged, or was judged beside something else than
    it would be now; `pending` is why the day is not good although nothing blocks.
    """

    pipeline: str
    partition: str
    snapshot: str
    features: Recorded
    run: Recorded | None
    subject: str
    notes: tuple[str, ...] = ()
    pending: str = ""

    @property
    def outcomes(self) -> tuple[CheckOutcome, ...]:
        """Those of the features, and after them those of the run."""
        return (*self.features.verdict.outcomes, *(self.run.verdict.of("predictions") if self.run else ()))

    @property
    def blocking(self) -> tuple[Decision, ...]:
        """Every finding that blocks, with the name of its check."""
        return tuple((outcome.name, finding) for outcome in self.outcomes for finding in outcome.blocking)

    @property
    def error(self) -> str:
        """What blocks, in a sentence, or why else the day is not good; empty if it is."""
        reasons = "; ".join(f"{one.name}: {one.message}" for one in self.outcomes if one.blocks)
        return f"{self.pipeline} {self.partition} is blocked by {reasons}" if reasons else self.pending

    def as_mapping(self) -> dict[str, Any]:
        """Plain values for the command line and its JSON."""
        newest = self.run or self.features
        return {
            "pipeline": self.pipeline,
            "partition": self.partition,
            "subject": self.subject,
            "snapshot": self.snapshot,
            "good": not self.error,
            "checks": [outcome.as_mapping() for outcome in self.outcomes],
            "compared_with": list(newest.verdict.compared_with),
            "recorded": {name: getattr(newest.entry, name) for name in ("number", "when", "who", "why")},
            "notes": list(self.notes),
            **({"error": self.error} if self.error else {}),
        }


def verdict_of(
    config: PipelineConfig, storage: Storage, registry: Registry, day: str, *, of_any_version: bool = True
) -> DayVerdict:
    """The verdict in force on a day; nothing is judged, and nothing written.

    The run is that of the approved version; if there is none, the one that was finished last, unless that is ruled out.

    Raises:
        NotFound: the day is not frozen, or the snapshot that it uses was not judged.
        SnapshotChanged: a frozen file was changed.
    """
    current = frozen(config, storage, day)
    features = recorded_verdict(storage, current.folder)
    if features is None:
        since = current_log(storage, config.name, day).latest()
        how = f" ({since.why} on {since.when[:16]})" if since else ""
        raise NotFound(
            f"{config.name} {day} was not judged yet with the features that it uses now{how}: materialize user_features first."
        )
    stale = features_verdict(config, storage, current, day, features.verdict).basis != features.verdict.basis
    found = DayVerdict(config.name, day, current.snapshot.digest, features, None, "features")
    model = _usable(config, registry)
    night, manifest = _made_of(config, storage, day, current, model, of_any_version)
    if manifest is None:
        notes = _of_other_snapshots(config, storage, registry, day)
        return replace(found, notes=(*notes, *([_STALE] if stale else [])))
    name = f"run {manifest.run_id} by {manifest.model.name} {manifest.model.version}"
    judged = recorded_verdict(storage, manifest.folder)
    if judged is None:
        pending = f"{config.name} {day}: {name} is finished, but was not judged yet: materialize predictions again."
        return replace(found, pending=pending)
    if night is not None and not stale:
        now = run_verdict(night, manifest, features.verdict, judged.verdict)
        stale = now.basis != judged.verdict.basis
    notes = [] if night else ["The version that is approved now has not scored these features yet."]
    return replace(found, run=judged, subject=name, notes=(*notes, *([_STALE] if stale else [])))


_STALE = "It would be compared with something else now: the next `run` judges it anew."


def _usable(config: PipelineConfig, registry: Registry) -> ModelVersion | None:
    """The approved version, if there is one and its files are in order."""
    try:
        return registry.resolve(config.model)
    except ModelError:
        return None


def _made_of(
    config: PipelineConfig, storage: Storage, day: str, current: Frozen, model: ModelVersion | None, of_any_version: bool
) -> tuple[Night | None, Manifest | None]:
    """The finished run of a snapshot by the approved version, or else the one that was finished last, without its plan."""
    if model is not None:
        try:
            night = Night.open(config, storage, day, model)
            return night, night.manifest()
        except NotFound:
            pass
    run_id = newest_run(storage, config.name, day, current.snapshot.digest) if of_any_version else None
    return None, read_manifest(storage, run_folder(config.name, day, run_id)) if run_id else None


def _of_other_snapshots(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> list[str]:
    """What there is of a day that was made of other snapshots than it uses now."""
    if newest_run(storage, config.name, day) is None:
        return []
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    accepted = accepted_run(storage, config.name, day, withdrawn)
    stands = f" Run {accepted.run_id}, which is accepted, was made of an earlier one." if accepted else ""
    return [f"The features were frozen again since the day was scored, and no run of these is finished.{stands}"]


def look_again(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> DayVerdict:
    """The verdict on a day after it was judged again: what somebody can decide on.

    Raises:
        OverrideInvalid: nothing blocks the day, or something else does than the verdict said that could be seen before.
        NotFound: the day was not judged.
    """
    seen = verdict_of(config, storage, registry, day, of_any_version=False)
    judge_features(config, storage, frozen(config, storage, day), day)
    if model := _usable(config, registry):
        with suppress(NotFound):  # it has not scored this snapshot
            judge(Night.open(config, storage, day, model))
    now = verdict_of(config, storage, registry, day, of_any_version=False)
    if now.snapshot != seen.snapshot or set(now.blocking) - set(seen.blocking):
        raise OverrideInvalid(f"{config.name} {day} is blocked by something else than before: look at its verdict again.")
    if not now.blocking:
        raise OverrideInvalid(f"Nothing blocks {config.name} {day}: there is nothing to override.")
    return now


def override_day(
    config: PipelineConfig,
    storage: Storage,
    registry: Registry,
    seen: DayVerdict,
    *,
    by: str,
    why: str,
    until: str | None = None,
) -> tuple[Decision, ...]:
    """Decide that what blocks a day does not: in its features, and in the run that was made of them.

    That run is accepted then, and the next `run` of the day publishes it.

    Args:
        config: the pipeline.
        storage: the storage root.
        registry: the models.
        seen: what whoever decides has looked at; see `look_again`.
        by: who decides.
        why: the reason.
        until: the last day on which the same findings pass too.

    Raises:
        OverrideInvalid: the verdict is another one now, a name or a reason is missing, or it would hold for too long.
    """
    day, last = seen.partition, require_range(seen.partition, until)
    now = verdict_of(config, storage, registry, day, of_any_version=False)
    if (now.snapshot, now.features, now.run) != (seen.snapshot, seen.features, seen.run):
        raise OverrideInvalid(f"{config.name} {day} was judged again since its verdict was shown: look at it again.")
    passed: tuple[Decision, ...] = ()
    if seen.run and any(one.blocks for one in seen.run.verdict.of("predictions")):
        passed += override(storage, seen.run, "predictions", by=by, why=why, until=last)
    if not seen.features.verdict.good:
        passed += override(storage, seen.features, "user_features", by=by, why=why, until=last)
    if seen.run and (model := _usable(config, registry)):
        judge(Night.open(config, storage, day, model))
    return passed


def require_range(day: str, until: str | None) -> str:
    """The last day for which an override on a day holds. Raises OverrideInvalid if that is no day, or too late."""
    if until is None:
        return day
    last = (date.fromisoformat(day) + timedelta(days=OLDEST)).isoformat()
    try:
        until = date.fromisoformat(until).isoformat()
    except ValueError:
        raise OverrideInvalid(f"{until!r} is not a day: write YYYY-MM-DD.") from None
    if not day <= until <= last:
        raise OverrideInvalid(
            f"An override on {day} can hold until {last}, not until {until}: a day is compared with those of the {OLDEST} days "
            "before, so whoever wants it for longer decides again then."
        )
    return until
