"""Which runs somebody is told of: those that failed for good, those that were blocked, and those with many dead letters."""

import time

import dagster as dg

from batch_assets.alerts import LIMIT, Alert, send
from batch_assets.config import PipelineConfig
from batch_assets.orchestration.assets import asset_key
from batch_assets.orchestration.liveness import COMMAND_LINE
from batch_assets.orchestration.metadata import WARNING
from batch_assets.orchestration.runs import belongs_to, blocking_findings, step_failures
from batch_assets.orchestration.sensors import will_be_tried_again

_HISTORY = 100
"""How many materializations of a day are looked at."""

_SECONDS_EACH = 1.0
"""How long a run's receivers are waited for after the runs before it in the same tick have used up the limit."""


def build_alert_sensors(config: PipelineConfig) -> list[dg.SensorDefinition]:
    """One sensor for runs that failed and one for runs that succeeded; none if there is nobody to tell.

    They look at every run of the instance and pick the pipeline's own: a filter by job would miss the runs of backfills and
    of the UI, and one by code location those of the command line, which have none.
    """
    if not config.alerts:
        return []
    told_of_failures, told_of_dead_letters = Ticks(), Ticks()

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.FAILURE,
        name=f"{config.name}_alerts",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the receivers of runs that failed and will not be retried.",
    )
    def failures(context: dg.RunStatusSensorContext) -> None:
        alert = of_failure(config, context.instance, context.dagster_run, context.dagster_event.message or "")
        told_of_failures.send(config, context, alert)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name=f"{config.name}_dead_letter_alerts",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the receivers of days with many dead letters.",
    )
    def dead_letters(context: dg.RunStatusSensorContext) -> None:
        alert = of_dead_letters(config, context.instance, context.dagster_run)
        told_of_dead_letters.send(config, context, alert)

    return [failures, dead_letters]


def of_failure(config: PipelineConfig, instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> Alert | None:
    """What is told of a failed run: nothing if it is not the pipeline's or will be retried."""
    by_hand = run.tags.get(COMMAND_LINE) == run.run_id  # Dagster says that it will retry it too, and cannot
    if not belongs_to(config, run) or (run.tags.get("dagster/will_retry") == "true" and not by_hand):
        return None
    day = run.tags.get("dagster/partition")
    subject = f"{config.name} {day}" if day else config.name
    findings = blocking_findings(config, instance, run.run_id)
    if findings:
        return Alert("blocked", config.name, day, f"{subject} is blocked", _of_run(run, "; ".join(findings)), run.run_id)
    if will_be_tried_again(run):
        return None
    reasons = step_failures(instance, run.run_id)
    return Alert("failed", config.name, day, f"{subject} failed", _of_run(run, "; ".join(reasons) or message), run.run_id)


def of_dead_letters(config: PipelineConfig, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Alert | None:
    """What is told of a run that published a day: nothing if few enough rows are dead letters, or if it was told before."""
    if not belongs_to(config, run):
        return None
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    for made in (event.asset_materialization for event in events):
        if made is None or made.asset_key != asset_key(config, "serving_table") or made.partition is None:
            continue
        warning = made.metadata.get(f"{WARNING}dead_letters")
        if warning is not None and _published_first(instance, made) == run.run_id:
            title = f"{config.name} {made.partition} has many dead letters"
            about = str(made.metadata["run_id"].value)
            return Alert("dead_letters", config.name, made.partition, title, _of_run(run, str(warning.value)), about)
    return None


def _published_first(instance: dg.DagsterInstance, made: dg.AssetMaterialization) -> str:
    """The Dagster run that published the same scoring run first, and told of it."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=made.asset_key, asset_partitions=[str(made.partition)]), limit=_HISTORY
    ).records
    found = [(record.run_id, record.asset_materialization) for record in records]
    return [run_id for run_id, one in found if one and one.metadata["run_id"] == made.metadata["run_id"]][-1]


def _of_run(run: dg.DagsterRun, message: str) -> str:
    return f"{message.rstrip('.')}. (Dagster run {run.run_id})"


class Ticks:
    """Sends the alerts of one sensor, and keeps the receivers from making one of its ticks long.

    Dagster calls a sensor for up to five runs in a tick, one after the other, and repeats a tick that takes more than a minute;
    until then no other sensor is looked at. The runs of one tick come with the same log.
    """

    def __init__(self) -> None:
        self._log: object = None
        self._until = 0.0

    def send(self, config: PipelineConfig, context: dg.RunStatusSensorContext, alert: Alert | None) -> None:
        """Send an alert, if there is one. Raises AlertFailed, which shows in the tick."""
        if alert is None:
            return
        now = time.monotonic()
        if context.log is not self._log:
            self._log, self._until = context.log, now + LIMIT
        send(config.alerts, alert, wait=max(self._until - now, _SECONDS_EACH))
