"""When a pipeline runs by itself: every night, for yesterday; and when what nobody needs any more is removed."""

from datetime import date, datetime, timedelta

import dagster as dg

from batch_assets.clock import today
from batch_assets.config import PartitionSettings, PipelineConfig
from batch_assets.nightly.progress import Progress
from batch_assets.operations.prune import prune
from batch_assets.orchestration.history import prune_history
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import pruning_job

MOST_NIGHTS = 31
"""So many nights are caught up with after Dagster was down; more than that is a backfill, which a person asks for."""


def build_schedules(config: PipelineConfig) -> list[dg.ScheduleDefinition]:
    """The nightly schedule; none for partitions with an end, whose last day it would ask for again every night.

    Where features depend on assets of others, the sensor that waits for them takes its place.

    Dagster ticks once on every date of the time zone: on the night when 02:30 does not exist at 03:00, and on the one when
    it is there twice at the second. What is asked for is the date before the tick's, with the nights before it that nobody
    asked for because Dagster was down; the day is the run key too, so none is asked for twice.
    """
    if config.partitions.end or config.features.deps:
        return []
    zone = config.partitions.timezone
    hour, minute = config.nightly.at.split(":")

    @dg.schedule(
        name=f"{config.name}_nightly",
        job_name=config.name,
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Yesterday, every night, and the nights that were missed.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        asked = _last_asked_for(context.instance, f"{config.name}_nightly")
        days = nights_due(config.partitions, context.scheduled_execution_time, asked)
        if not days:
            return dg.SkipReason(f"The first day, {config.partitions.start}, is not over yet.")
        return [dg.RunRequest(run_key=day, partition_key=day) for day in days]

    return [nightly]


def nights_due(partitions: PartitionSettings, moment: datetime, asked: date | None) -> list[str]:
    """The days that a tick of a moment asks for, oldest first: yesterday, and those after the last that was asked for."""
    yesterday = today(moment, partitions.timezone) - timedelta(days=1)
    if yesterday < partitions.start:
        return []
    missed = min((yesterday - asked).days - 1, MOST_NIGHTS - 1) if asked else 0
    return [(yesterday - timedelta(days=back)).isoformat() for back in range(max(missed, 0), -1, -1)]


def _last_asked_for(instance: dg.DagsterInstance, schedule: str) -> date | None:
    """The newest day that a schedule asked for, or None if it never ran. A re-execution of an old day has its tags too."""
    runs = instance.get_runs(filters=dg.RunsFilter(tags={"dagster/schedule_name": schedule}), limit=MOST_NIGHTS)
    days = [date.fromisoformat(run.tags["dagster/partition"]) for run in runs if "dagster/partition" in run.tags]
    return max(days, default=None)


def build_pruning(config: PipelineConfig) -> list[dg.ScheduleDefinition]:
    """Pruning every noon, a job of its own; none unless the pipeline asks for it."""
    if not config.retention.schedule:
        return []

    @dg.op(name=f"{config.name}_prune_op")
    def prune_op(
        context: dg.OpExecutionContext, batch_assets_root: StorageRoot, batch_assets_progress: dg.ResourceParam[Progress]
    ) -> None:
        found = prune(config, batch_assets_root.storage(), None, False, batch_assets_progress)
        counts = {**found.counts, "dagster runs": prune_history(config, context.instance)}
        context.add_output_metadata({name: count for name, count in counts.items() if count})

    @dg.job(name=pruning_job(config), description="Removes what nothing live and no recent day needs, here and in Dagster.")
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
