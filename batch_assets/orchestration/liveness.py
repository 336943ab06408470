"""Which process executes a run, and what becomes of runs whose process died.

A run that was killed outright stays STARTED and keeps its place in the pool; the next run would wait for it for ever. Every
run is therefore tagged with its process; runs of dead processes on this host are failed and their places freed, by a sensor
and before a command line starts one.
"""

import math
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.pools import pool_of, pool_tag
from batch_assets.orchestration.runs import belongs_to
from batch_assets.process import Process

_TAG = "batch_assets/"
_OWN = f"{_TAG}run"
COMMAND_LINE = f"{_TAG}command_line"
"""The tag of a run that a command line executes itself; its value is the run's id, because a re-execution inherits tags."""

_HOME = f"{_TAG}home"
"""The tag that says by which Dagster home a command line takes turns with others."""

_SILENT_SECONDS = 300.0
"""A run tags itself before its first step, within seconds of its start."""

_IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def process_tags(run_id: str) -> dict[str, str]:
    """The tags that say that this process executes a run. They name the run, because a retry inherits its parent's tags."""
    fields = {**Process.current().as_mapping(), "run": run_id}
    return {f"{_TAG}{name}": str(value) for name, value in fields.items()}


def command_line_tags(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """The same of a run that a command line executes itself."""
    return {**process_tags(run_id), COMMAND_LINE: run_id, _HOME: _home(instance)}


def fail_dead_runs(instance: dg.DagsterInstance, config: PipelineConfig, *, turn: bool = False) -> list[str]:
    """End runs whose process is dead, and free the places of a pipeline's pool that runs hold which are over.

    They are failed, or canceled if somebody had asked for that; returns their ids. So is a run of the pipeline that started
    long ago and never said which process it is. Dead are those of the pipeline, or of everybody if it is the caller's turn.

    `turn` says that the caller holds the lock that every command line with this Dagster home and pool holds while it lives, so
    theirs are dead even if they were started under another host name, as in a container that was replaced.
    """
    pool = pool_of(config)
    locked = {run.run_id for run in at_work(instance, pool) if _takes_turns(run, instance)} if turn else set()
    failed = []
    for run, process in _running(instance):
        dead = not process.alive() or run.run_id in locked
        if dead and (turn or belongs_to(config, run)):
            now = instance.get_run_by_id(run.run_id)  # it may have ended well after its status was read
            if now is None or now.is_finished:
                continue
            message = f"The process of this run ({process}) is dead."
            if now.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(now, message=message)
            else:
                instance.report_run_failed(now, message=message)
            failed.append(run.run_id)
    for run in _silent(instance, config):
        instance.report_run_failed(run, message="The process of this run died before it could say which one it is.")
        failed.append(run.run_id)
    for slot in instance.event_log_storage.get_concurrency_info(pool).claimed_slots:
        holder = instance.get_run_by_id(slot.run_id)
        if holder is None or holder.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(slot.run_id)
    return failed


def at_work(instance: dg.DagsterInstance, pool: str) -> list[dg.DagsterRun]:
    """The runs in progress that have a part in a pool."""
    return list(instance.get_runs(filters=dg.RunsFilter(statuses=_IN_PROGRESS, tags=pool_tag(pool))))


def of_command_line(run: dg.DagsterRun) -> bool:
    """Whether a command line executes a run itself."""
    return run.tags.get(COMMAND_LINE) == run.run_id


def named(run: dg.DagsterRun) -> str:
    """A run and its process, for messages."""
    return f"{run.run_id} ({_process(run) or 'process unknown'})"


def _takes_turns(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    """Whether it is that of a command line with this Dagster home."""
    return of_command_line(run) and run.tags.get(_HOME) == _home(instance)


def _home(instance: dg.DagsterInstance) -> str:
    """What only this Dagster home is called, on whatever host it is mounted; two of them can share one database."""
    file, own = Path(instance.root_directory) / ".home", uuid.uuid4().hex
    if not file.exists():
        made = file.with_name(f".home-{own}")
        made.write_text(own)
        with suppress(FileExistsError):  # another process was faster
            os.link(made, file)
        made.unlink()
    return file.read_text()


def _silent(instance: dg.DagsterInstance, config: PipelineConfig) -> list[dg.DagsterRun]:
    """Runs of a pipeline in its pool that started long ago, and say of no process that it executes them."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=pool_tag(pool_of(config)))
    return [
        record.dagster_run
        for record in instance.get_run_records(started)
        if record.dagster_run.tags.get(_OWN) != record.dagster_run.run_id
        and time.time() - (record.start_time or math.inf) > _SILENT_SECONDS
        and belongs_to(config, record.dagster_run)
    ]


def _running(instance: dg.DagsterInstance) -> list[tuple[dg.DagsterRun, Process]]:
    """Runs in progress that are tagged with their own process."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=_IN_PROGRESS))
    return [(run, process) for run in runs if (process := _process(run))]


def _process(run: dg.DagsterRun) -> Process | None:
    """The process that a run is tagged with, if the tags are its own."""
    if run.tags.get(_OWN) != run.run_id:
        return None
    return Process.from_mapping({name.removeprefix(_TAG): tag for name, tag in run.tags.items() if name.startswith(_TAG)})
