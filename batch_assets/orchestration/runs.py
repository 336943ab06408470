"""What Dagster's runs say: whose they are, and why they failed."""

import dagster as dg

from batch_assets.config import PipelineConfig


def belongs_to(config: PipelineConfig, run: dg.DagsterRun) -> bool:
    """Whether a run is of a pipeline's job or, launched from the UI or by a backfill, of some of its assets."""
    return run.job_name == config.name or any(key.path[0] == config.name for key in run.asset_selection or ())


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
    """Why steps of a run failed, each with the sentence of its innermost error."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    found = []
    for record in records:
        event = record.event_log_entry.dagster_event
        error = event.step_failure_data.error if event else None
        while error and error.cause:
            error = error.cause
        if event and error:
            found.append(f"{event.step_key}: {error.message.strip()}")
    return found
