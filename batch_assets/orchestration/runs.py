"""What Dagster's runs say: whose they are, and why they failed."""

import re
from datetime import UTC, datetime

import dagster as dg

from batch_assets.config import PipelineConfig

_OUR_OWN = re.compile(r"^batch_assets\.errors\.\w+: ")
"""In front of an error that is a sentence for its reader; the class of any other says what it is."""


def belongs_to(config: PipelineConfig, run: dg.DagsterRun) -> bool:
    """Whether a run is of a pipeline's jobs or, launched from the UI or by a backfill, of some of its assets or checks."""
    selected = [*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())]
    return run.job_name in (config.name, pruning_job(config)) or any(key.path[0] == config.name for key in selected)


def began(instance: dg.DagsterInstance, run_id: str) -> str:
    """When a run began to work (UTC, ISO 8601): what was judged before was not judged by it."""
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return ""
    moment = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")


def pruning_job(config: PipelineConfig) -> str:
    """The name of the job that prunes a pipeline."""
    return f"{config.name}_prune"


def blocking_findings(config: PipelineConfig, instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What the failed blocking checks of a run on a pipeline's assets say."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    evaluations = [record.event_log_entry.asset_check_evaluation for record in records]
    return [
        f"the check {evaluation.check_name}: {evaluation.metadata['message'].value}"
        for evaluation in evaluations
        if evaluation
        and evaluation.asset_key.path[0] == config.name
        and evaluation.blocking
        and not evaluation.passed
        and evaluation.severity is dg.AssetCheckSeverity.ERROR
    ]


def step_failures(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Why steps of a run failed: what the asset raised, without Dagster's wrapper and without what had caused it."""
    return [f"{step}: {sentence}" for step, _, sentence in _errors(instance, run_id)]


def first_error(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str]:
    """The class and the text of what the first step that failed raised."""
    return next(((kind, sentence) for _, kind, sentence in _errors(instance, run_id)), ("an unknown error", ""))


def _errors(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str, str, str]]:
    """Step, class and text of each error."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    found = []
    for record in records:
        event = record.event_log_entry.dagster_event
        failure = event.step_failure_data.error if event else None
        if event and failure:
            error = failure.cause or failure
            text = error.message.strip().removeprefix(f"{error.cls_name}: ")
            found.append((str(event.step_key), str(error.cls_name), _OUR_OWN.sub("", text)))
    return found
