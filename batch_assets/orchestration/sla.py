"""Whether yesterday will meet its SLA; Dagster's FreshnessPolicy does not look at partitions.

A run that publishes judges the SLA itself, by its check `sla`. The sensor says what no run can say: that a day may
not be there in time, or is not. Yesterday is looked at every minute, and each day since the last look
once more: else an SLA that was missed while Dagster was down, or at the very end of a day, would never be told.

Dagster plans the check with each run of the day, and shows a plan that came to nothing in place of what was found before. So
what a run that failed leaves open is filled in by the sensor.
"""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from batch_assets.alerts import Alert, AlertKind, send_all
from batch_assets.clock import Clock, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError
from batch_assets.nightly.publish import live_since
from batch_assets.orchestration import metadata
from batch_assets.orchestration.assets import asset_key
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import belongs_to
from batch_assets.quality.sla import Sla, SlaState, deadline_of
from batch_assets.storage import Storage

_SECONDS, _HISTORY, _NEWEST = 60, 1_000, 20
_MOST_DAYS, _LAST_RUNS = 5, 5
_RUNNING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_TOLD: dict[SlaState, tuple[AlertKind, str]] = {
    SlaState.at_risk: ("at_risk", "may not be published in time"),
    SlaState.missed: ("missed", "is not published in time"),
}
_SETTLED = (SlaState.missed, SlaState.late, SlaState.kept)


def build_sla_sensors(config: PipelineConfig, clock: Clock = utc_now) -> list[dg.SensorDefinition]:
    """The sensor of a pipeline that has an SLA; none for partitions with an end."""
    if config.sla is None or config.partitions.end:
        return []

    @dg.sensor(
        name=f"{config.name}_sla",
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Is yesterday published by {config.sla.published_by}?",
    )
    def sla(context: dg.SensorEvaluationContext, batch_assets_root: StorageRoot) -> dg.SensorResult | dg.SkipReason:
        return look(config, context, batch_assets_root.storage(), clock())

    return [sla]


def look(
    config: PipelineConfig, context: dg.SensorEvaluationContext, storage: Storage, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    """Tell of a day that is at risk or missed, of each once; the cursor remembers which states of which day were told.

    However many days there are to tell of, the receivers keep the tick no longer than one delivery may take.
    """
    yesterday = config.partitions.last(now)
    if yesterday < config.partitions.start:
        return dg.SkipReason(f"The first day, {config.partitions.start}, is not over yet.")
    before: dict[str, list[str]] = json.loads(context.cursor or "{}")
    since = max(date.fromisoformat(min(before, default=yesterday.isoformat())), yesterday - timedelta(days=_MOST_DAYS - 1))
    days = [(since + timedelta(days=n)).isoformat() for n in range((yesterday - since).days + 1)]
    told = {day: before.get(day, []) for day in days}
    stand = {day: standing(config, context.instance, storage, date.fromisoformat(day), now) for day in days}
    news = [found for day, found in stand.items() if found.state in _TOLD and found.state not in told[day]]
    undelivered = _tell(config, context, news)
    evaluations = []
    for found, fault in zip(news, undelivered, strict=True):
        day = found.day.isoformat()
        told[day].append(found.state.value)
        if found.state is SlaState.missed and not _recorded(config, context.instance, day):
            evaluations.append(_evaluation(config, found, fault))
    _fill_in(config, context.instance, storage, now)
    said = "; ".join([*(f"{day}: {found.state}" for day, found in stand.items()), *filter(None, undelivered)])
    cursor = json.dumps({yesterday.isoformat(): told[yesterday.isoformat()]})
    return dg.SensorResult(asset_events=evaluations, cursor=cursor, skip_reason=said)


def standing(config: PipelineConfig, instance: dg.DagsterInstance, storage: Storage, day: date, now: datetime) -> Sla:
    """How the SLA of a day stands. Raises ConfigError if there is none."""
    if config.sla is None:
        raise ConfigError(f"{config.name} has no SLA: set `sla` in its defs.yaml.")
    published = live_since(config, storage, day.isoformat())
    low, high = (None, None) if published else expected(config, instance, day.isoformat(), now)
    return Sla(
        day=day,
        now=now,
        deadline=deadline_of(day, config.sla, config.partitions.timezone),
        zone=config.sla.timezone or config.partitions.timezone,
        published=published,
        eta_low=low,
        eta_high=high,
    )


def expected(
    config: PipelineConfig, instance: dg.DagsterInstance, day: str, now: datetime
) -> tuple[datetime, datetime] | tuple[None, None]:
    """Between when and when a day is expected to be published; not before now.

    What the running step says of itself and how long publishing took last time; before it says anything, its run's start and
    how long the slowest of the last runs took (one that found its work done says little); with no run, one that starts at
    night, or now. Nothing of that is known before the first good run.
    """
    runs = instance.get_run_records(dg.RunsFilter(statuses=_RUNNING, tags={"dagster/partition": day}))
    running = {record.dagster_run.run_id: record for record in runs if belongs_to(config, record.dagster_run)}
    took, publishing = _last_time(config, instance)
    observed = _observed(config, instance, day, set(running))
    if observed is not None:
        return max(now, observed[0] + publishing), max(now, observed[1] + publishing)
    if took is None:
        return None, None
    begun = [datetime.fromtimestamp(record.start_time, UTC) for record in running.values() if record.start_time]
    night = config.partitions.morning_after(day, config.nightly.at)
    moment = max(now, min(begun, default=max(now, night)) + took)
    return moment, moment


def _observed(
    config: PipelineConfig, instance: dg.DagsterInstance, day: str, running: set[str]
) -> tuple[datetime, datetime] | None:
    """When the scoring under way will be done, as its newest observation says."""
    of_day = dg.AssetRecordsFilter(asset_key=asset_key(config, "predictions"), asset_partitions=[day])
    for record in instance.fetch_observations(of_day, limit=1).records:
        observation = record.asset_observation
        left = metadata.seconds_left(observation.metadata) if observation and record.run_id in running else None
        at = datetime.fromtimestamp(record.timestamp, UTC)
        return (at + timedelta(seconds=left[0]), at + timedelta(seconds=left[1])) if left else None
    return None


def _last_time(config: PipelineConfig, instance: dg.DagsterInstance) -> tuple[timedelta | None, timedelta]:
    """How long the slowest of the last good runs of the job took, and how long it took from its predictions to its release."""
    good = dg.RunsFilter(job_name=config.name, statuses=[dg.DagsterRunStatus.SUCCESS])
    records = instance.get_run_records(good, limit=_LAST_RUNS)
    if not records:
        return None, timedelta()
    slowest = max(records, key=lambda record: (record.end_time or 0.0) - (record.start_time or 0.0))
    events = instance.get_records_for_run(slowest.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    made = {event.asset_key: event.timestamp for event in events}
    scored, published = (made.get(asset_key(config, asset)) for asset in ("predictions", "serving_table"))
    took = timedelta(seconds=(slowest.end_time or 0.0) - (slowest.start_time or 0.0))
    return took, timedelta(seconds=published - scored) if scored and published else timedelta()


def _tell(config: PipelineConfig, context: dg.SensorEvaluationContext, news: Sequence[Sla]) -> list[str]:
    """Alert the receivers; for each finding what went wrong with that, if anything.

    A failure is not raised: the tick would be repeated every minute, and whoever was told would be told again each time.
    """
    alerts = []
    for found in news:
        kind, words = _TOLD[found.state]
        title = f"{config.name} {found.day} {words}"
        alerts.append(Alert(kind, config.name, found.day.isoformat(), title, found.outcome().message))
    undelivered = send_all(config.alerts, alerts)
    for fault in filter(None, undelivered):
        context.log.error(fault)
    return undelivered


def _fill_in(config: PipelineConfig, instance: dg.DagsterInstance, storage: Storage, now: datetime) -> None:
    """Evaluate the newest check of a day that a run planned and, because it failed before that, did not make."""
    history = instance.event_log_storage.get_asset_check_execution_history(_check(config), limit=_NEWEST)
    for day, record in {one.partition: one for one in reversed(history) if one.partition}.items():
        run = instance.get_run_by_id(record.run_id) if record.run_id and record.status.value == "PLANNED" else None
        if run is None or not run.is_finished:
            continue
        found = standing(config, instance, storage, date.fromisoformat(day), now)
        if found.state in _SETTLED:
            event = dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
                job_name=run.job_name,
                event_specific_data=_evaluation(config, found, ""),
            )
            instance.report_dagster_event(event, run.run_id)


def _check(config: PipelineConfig) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(asset_key(config, "serving_table"), "sla")


def _recorded(config: PipelineConfig, instance: dg.DagsterInstance, day: str) -> bool:
    """Whether a day has an evaluation without a run. Dagster takes one and raises on the next, in every tick from then on."""
    history = instance.event_log_storage.get_asset_check_execution_history(_check(config), limit=_HISTORY)
    return any(record.partition == day and not record.run_id for record in history)


def _evaluation(config: PipelineConfig, found: Sla, undelivered: str) -> dg.AssetCheckEvaluation:
    outcome = found.outcome()
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(config, outcome.asset),
        check_name=outcome.name,
        passed=outcome.passed,
        severity=metadata.severity(outcome),
        metadata=metadata.of_outcome(outcome, "") | ({"not_delivered": undelivered} if undelivered else {}),
        partition=found.day.isoformat(),
    )
