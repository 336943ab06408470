"""When a pipeline runs by itself: every night, for yesterday; and when what nobody needs any more is removed."""

from datetime import timedelta

import dagster as dg

from batch_assets.clock import today
from batch_assets.config import PipelineConfig
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.pipeline.prune import prune
from batch_assets.pipeline.watch import Watch


def build_schedules(config: PipelineConfig) -> list[dg.ScheduleDefinition]:
    """The nightly schedule; none for partitions with an end, whose last day it would ask for again every night.

    Dagster ticks once on every date of the time zone: on the night when 02:30 does not exist at 03:00, and on the one when
    it is there twice at the second. The day asked for is the date before the tick's, and is the run key too.
    """
    if config.partitions.end:
        return []
    zone = config.partitions.timezone
    hour, minute = config.nightly.at.split(":")

    @dg.schedule(
        name=f"{config.name}_nightly",
        job_name=config.name,
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Yesterday, every night.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        yesterday = today(context.scheduled_execution_time, zone) - timedelta(days=1)
        if yesterday < config.partitions.start:
            return dg.SkipReason(f"The first day, {config.partitions.start}, is not over yet.")
        return dg.RunRequest(run_key=yesterday.isoformat(), partition_key=yesterday.isoformat())

    return [nightly]


def build_pruning(config: PipelineConfig) -> list[dg.ScheduleDefinition]:
    """Pruning every noon, a job of its own; none unless the pipeline asks for it."""
    if not config.retention.schedule:
        return []

    @dg.op(name=f"{config.name}_prune_op")
    def prune_op(context: dg.OpExecutionContext, storage_root: StorageRoot, watch: dg.ResourceParam[Watch]) -> None:
        found = prune(config, storage_root.storage(), None, False, watch)
        context.add_output_metadata({name: count for name, count in found.counts.items() if count})

    @dg.job(name=f"{config.name}_prune", description="Removes what nothing live and no recent day needs.")
    def pruning() -> None:
        prune_op()

    return [
        dg.ScheduleDefinition(
            name=f"{config.name}_prune_daily",
            job=pruning,
            cron_schedule="0 12 * * *",
            execution_timezone=config.partitions.timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
    ]
