"""When a pipeline runs by itself: every night, for yesterday."""

from datetime import timedelta

import dagster as dg

from batch_assets.clock import today
from batch_assets.config import PipelineConfig


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
