"""The verdict on a day, and a person's decision that what blocks it does not."""

from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import ModelError, NotFound, OverrideInvalid
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.pipeline.freeze import frozen
from batch_assets.pipeline.judge import finished_run, judge
from batch_assets.pipeline.recorded import newest_run
from batch_assets.pipeline.verdict import Verdict, override, read_verdict, verdict_log
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.scoring.commit import run_folder
from batch_assets.storage import Storage


def verdict_of(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> dict[str, Any]:
    """The verdict in force on a day, in plain values; `error` says what blocks, if anything does.

    Raises:
        NotFound: nothing of the day was judged.
    """
    model = _approved(config, storage, registry, day)
    run_id = finished_run(config, storage, day, model)[1].run_id if model else newest_run(storage, config.name, day)
    folder = run_folder(config.name, day, run_id) if run_id else ""
    subject = f"run {run_id}"
    if not run_id or read_verdict(storage, folder) is None:
        folder, subject = frozen(config, storage, day).folder, "features"
    entry = verdict_log(storage, folder).latest()
    if entry is None:
        raise NotFound(f"{config.name} {day} was not judged yet: materialize user_features first.")
    verdict = Verdict.model_validate(entry.body)
    reasons = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in verdict.blocking)
    return {
        "pipeline": config.name,
        "partition": day,
        "subject": subject,
        "good": verdict.good,
        "checks": [outcome.as_mapping() for outcome in verdict.outcomes],
        "compared_with": list(verdict.compared_with),
        "recorded": {"number": entry.number, "when": entry.when, "who": entry.who, "why": entry.why},
        **({} if verdict.good else {"error": f"{config.name} {day} is blocked by {reasons}"}),
    }


def override_day(
    config: PipelineConfig, storage: Storage, registry: Registry, day: str, *, by: str, why: str
) -> tuple[CheckOutcome, ...]:
    """Decide that what blocks a day does not: its features, and the run by the approved version if it is finished.

    That run is accepted then, and the next `run` of the day publishes it.

    Raises:
        OverrideInvalid: nothing blocks the day, something else does than the verdict says, or name or reason is missing.
        NotFound: the day was not judged.
    """
    features = frozen(config, storage, day).folder
    overridden: tuple[CheckOutcome, ...] = ()
    verdict = read_verdict(storage, features)
    if verdict is not None and verdict.blocking:
        overridden += override(storage, features, by=by, why=why)
    model = _approved(config, storage, registry, day)
    if model is not None:
        run, _ = finished_run(config, storage, day, model)
        seen, now = read_verdict(storage, run.folder), judge(config, storage, day, model)
        if _blocking(now) - (_blocking(seen) if seen else set()):
            raise OverrideInvalid(f"{config.name} {day} is blocked by something else than before: look at its verdict again.")
        if now.blocking:
            overridden += override(storage, run.folder, by=by, why=why)
            judge(config, storage, day, model)
    if not overridden:
        raise OverrideInvalid(f"Nothing blocks {config.name} {day}: there is nothing to override.")
    return overridden


def _blocking(verdict: Verdict) -> set[tuple[str, str]]:
    return {(outcome.name, outcome.message) for outcome in verdict.blocking}


def _approved(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> ModelVersion | None:
    """The approved version if its run of the day is finished."""
    try:
        model = registry.resolve(config.model)
        finished_run(config, storage, day, model)
    except (ModelError, NotFound):
        return None
    return model
