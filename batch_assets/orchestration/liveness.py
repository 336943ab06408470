"""Which process executes a run, and what becomes of runs whose process died.

A run that was killed outright stays STARTED and keeps its place in the pool; the next run would wait for it for ever. Every
run is therefore tagged with its process; runs of dead processes on this host are failed and their places freed, by a sensor
and before a command line starts one.
"""

import math
import time

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.runs import belongs_to
from batch_assets.process import Process

_TAG = "batch_assets/"
_OWN = f"{_TAG}run"
COMMAND_LINE = "batch_assets/command_line"
"""The tag of a run that a command line executes itself; its value is the run's id, because a re-execution inherits tags."""

POOL = "scoring"
"""One run at a time scores; runs that would fight for the same cores or GPU wait for each other."""

_IN_POOL = {f".dagster/pool/{POOL}": "true"}
"""The tag that Dagster gives to runs that have a part in the pool."""

_SILENT_SECONDS = 300.0
"""A run tags itself before its first step, within seconds of its start."""

_IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def process_tags(run_id: str) -> dict[str, str]:
    """The tags that say that this process executes a run. They name the run, because a retry inherits its parent's tags."""
    fields = {**Process.current().as_mapping(), "run": run_id}
    return {f"{_TAG}{name}": str(value) for name, value in fields.items()}


def fail_dead_runs(
    instance: dg.DagsterInstance, *, of: PipelineConfig | None = None, command_lines_are_dead: bool = False
) -> list[str]:
    """End runs whose process is dead, and free the slots of runs that are over; returns the ids of the dead.

    They are failed, or canceled if somebody had asked for that. So is a run that started long ago and never said which process
    it is. `of` says whose; by default those of all pipelines.

    `command_lines_are_dead` says that the caller holds the lock that every command line holds while it lives, so theirs are
    dead even if they were started under another host name, as in a container that was replaced.
    """
    failed = []
    for run, process in _running(instance):
        dead = not process.alive() or (command_lines_are_dead and run.tags.get(COMMAND_LINE) == run.run_id)
        if dead and (of is None or belongs_to(of, run)):
            now = instance.get_run_by_id(run.run_id)  # it may have ended well after its status was read
            if now is None or now.is_finished:
                continue
            message = f"The process of this run ({process}) is dead."
            if now.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(now, message=message)
            else:
                instance.report_run_failed(now, message=message)
            failed.append(run.run_id)
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=_IN_POOL)
    for record in instance.get_run_records(started):
        run = record.dagster_run
        silent = run.tags.get(_OWN) != run.run_id and time.time() - (record.start_time or math.inf) > _SILENT_SECONDS
        if silent and (of is None or belongs_to(of, run)):
            instance.report_run_failed(run, message="The process of this run died before it could say which one it is.")
            failed.append(run.run_id)
    for slot in instance.event_log_storage.get_concurrency_info(POOL).claimed_slots:
        holder = instance.get_run_by_id(slot.run_id)
        if holder is None or holder.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(slot.run_id)
    return failed


def scoring_elsewhere(instance: dg.DagsterInstance) -> list[str]:
    """The runs in progress that have a part in the pool, each as a phrase."""
    known = {run.run_id: str(process) for run, process in _running(instance)}
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=_IN_PROGRESS, tags=_IN_POOL))
    return [f"{run.run_id} ({known.get(run.run_id, 'process unknown')})" for run in runs]


def _running(instance: dg.DagsterInstance) -> list[tuple[dg.DagsterRun, Process]]:
    """Runs in progress that are tagged with their own process."""
    found = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_IN_PROGRESS)):
        fields = {name.removeprefix(_TAG): value for name, value in run.tags.items() if name.startswith(_TAG)}
        if run.tags.get(_OWN) == run.run_id:
            found.append((run, Process.from_mapping(fields)))
    return found
