"""What starts by itself: the roll-out of an approval, a store that catches up, and the end of runs whose process died."""

from datetime import datetime

import dagster as dg

from batch_assets.clock import Clock, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import ModelError
from batch_assets.nightly.tables import owed_days, unreachable
from batch_assets.operations.releases import lagging
from batch_assets.operations.rollout import Plan, Rollout, expected, outstanding
from batch_assets.orchestration.assets import asset_key
from batch_assets.orchestration.liveness import fail_dead_runs
from batch_assets.orchestration.pins import pin_tags
from batch_assets.orchestration.remembered import require_remembered
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import belongs_to, blocking_findings
from batch_assets.serving.live import current_log as live_log

_KEY = "batch_assets/rollout"
"""The tag of a roll-out's runs: approval, sha256 and day, the same for every attempt at them."""

_CATCH_UP_SECONDS = 600
"""A store that lags is published to once in so many seconds, as long as it answers."""

_IN_PROGRESS = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]

_PAUSES = (30, 120, 600, 3600)
"""Seconds after which a run that failed is tried again; then a person decides."""


def build_rollout_sensor(config: PipelineConfig, clock: Clock = utc_now) -> dg.SensorDefinition:
    """`<pipeline>_approved_model`: a new approval scores the newest days again and publishes the newest."""

    @dg.sensor(
        name=f"{config.name}_approved_model",
        job_name=config.name,
        description=f"Scores the newest days again when a version of {config.model.name} is approved.",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def approved_model(context: dg.SensorEvaluationContext, batch_assets_root: StorageRoot) -> dg.SensorResult:
        storage, registry = batch_assets_root.storage(), batch_assets_root.registry()
        require_remembered(config, context.instance, storage, None)  # nothing is rolled out on a history that was cut
        registry.follow(config.model)
        latest = registry.approvals(config.model.name, config.model.alias).latest()
        if latest is None or context.cursor == str(latest.number):
            why = "No new approval." if latest else f"{config.model.name} has no approval yet."
            return dg.SensorResult(cursor=context.cursor, skip_reason=why)
        rollout = outstanding(config, storage, registry)
        if rollout is None or not rollout.days:
            return dg.SensorResult(cursor=str(latest.number), skip_reason=f"Approval {latest.number} is rolled out.")
        attempts = {day: _next_attempt(config, context.instance, rollout, day, clock()) for day in rollout.days}
        plan = expected(latest, config.name)
        given_up = all(attempt is None for attempt in attempts.values())
        return dg.SensorResult(
            run_requests=[_request(config, rollout, day, attempt, plan) for day, attempt in attempts.items() if attempt],
            cursor=str(latest.number) if given_up else context.cursor,
        )

    return approved_model


def will_be_tried_again(run: dg.DagsterRun) -> bool:
    """Whether a failed run of a roll-out gets another attempt."""
    _, _, attempt = run.tags.get("dagster/run_key", "").partition("/")
    return _KEY in run.tags and int(attempt or 1) <= len(_PAUSES)


def _next_attempt(
    config: PipelineConfig, instance: dg.DagsterInstance, rollout: Rollout, day: str, now: datetime
) -> int | None:
    """The number of the attempt that is due now: 0 while none is, None if there will be no other."""
    records = instance.get_run_records(filters=dg.RunsFilter(tags={_KEY: _key(rollout, day)}))
    if not records:
        return 1
    newest, attempts = records[0], len({record.dagster_run.tags.get("dagster/run_key") for record in records})
    run = newest.dagster_run
    if not run.is_finished or run.tags.get("dagster/will_retry") == "true":
        return 0
    if run.status is not dg.DagsterRunStatus.FAILURE or attempts > len(_PAUSES):
        return None  # somebody canceled it, or it failed too often: a person decides
    if blocking_findings(config, instance, run.run_id):
        return None  # it would be blocked again
    waited = now.timestamp() - (newest.end_time or newest.update_timestamp.timestamp())
    return attempts + 1 if waited >= _PAUSES[attempts - 1] else 0


def _request(config: PipelineConfig, rollout: Rollout, day: str, attempt: int, plan: Plan | None) -> dg.RunRequest:
    key = _key(rollout, day)
    return dg.RunRequest(
        run_key=key if attempt == 1 else f"{key}/{attempt}",
        partition_key=day,
        run_config={"ops": {f"{config.name}__predictions": {"config": {"approval": rollout.model.approval}}}},
        tags={_KEY: key, **pin_tags(config.name, rollout.model), **_told(plan)},
    )


def _key(rollout: Rollout, day: str) -> str:
    return f"{rollout.model.approval}-{rollout.model.card.model_sha256[:16]}-{day}"


def _told(plan: Plan | None) -> dict[str, str]:
    """What the approver was told, as tags of the run."""
    if plan is None:
        return {}
    told = {"rows": f"{plan.rows:,}", "minutes": plan.minutes, "cost": plan.cost and f"{plan.cost} {plan.currency}"}
    if plan.shift:
        told |= {name: getattr(plan.shift, name) for name in ("psi", "top_decile_overlap", "rank_correlation")}
    return {f"batch_assets/expected_{name}": str(value) for name, value in told.items() if value is not None}


def build_store_sensors(config: PipelineConfig, clock: Clock = utc_now) -> list[dg.SensorDefinition]:
    """`<pipeline>_stores`: a store or a table that was down when a day was published gets it by itself.

    None where there is one store, without which no day is published, and no table.
    """
    if len(config.stores) == 1 and not config.tables:
        return []

    @dg.sensor(
        name=f"{config.name}_stores",
        job_name=config.name,
        description="Publishes what is live again when a store or a table that lags answers: it catches up.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def stores(context: dg.SensorEvaluationContext, batch_assets_root: StorageRoot) -> dg.SensorResult | dg.SkipReason:
        storage = batch_assets_root.storage()
        require_remembered(config, context.instance, storage, None)
        live = live_log(storage, config.name).latest()
        behind = list(lagging(config, storage)) if live else []
        owed = list(dict.fromkeys(day for day, _ in owed_days(config, storage)))
        if live is None or not (behind or owed):
            return dg.SkipReason("Every store and table has what is live.")
        down = unreachable(config) if owed else {}
        troubles = [f"{one.store}: {one.trouble}" for one in behind]
        troubles += [f"tables have not got {', '.join(owed)}"] if owed else []
        said = "; ".join([*troubles, *(f"{table}: {why}" for table, why in down.items())])
        if all(one.down for one in behind) and (down or not owed):
            return dg.SkipReason(said)
        running = context.instance.get_run_records(
            dg.RunsFilter(statuses=_IN_PROGRESS, tags={"dagster/partition": live.body.partition})
        )
        if any(belongs_to(config, record.dagster_run) for record in running):
            return dg.SkipReason(f"A run of {live.body.partition} is under way; {said}")
        try:
            model = batch_assets_root.registry().resolve(config.model, live.body.approval)
        except ModelError as error:
            return dg.SkipReason(f"{error} {said}")
        request = dg.RunRequest(
            run_key=f"stores/{live.number}/{int(clock().timestamp()) // _CATCH_UP_SECONDS}",
            partition_key=live.body.partition,
            asset_selection=[asset_key(config, "serving_table")],
            tags=pin_tags(config.name, model),
        )
        return dg.SensorResult(run_requests=[request])

    return [stores]


def build_dead_runs(config: PipelineConfig) -> dg.SensorDefinition:
    """`<pipeline>_dead_runs`: a run that was killed outright would keep its place for ever."""

    @dg.sensor(
        name=f"{config.name}_dead_runs",
        description="Marks runs whose process died as failed, so that nothing waits for them.",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        failed = fail_dead_runs(context.instance, config)
        return dg.SkipReason(
            f"Marked as failed: {', '.join(failed)}." if failed else "Every run in progress has a living process."
        )

    return dead_runs
