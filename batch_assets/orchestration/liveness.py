"""Which process executes a run, and what becomes of runs whose process died.

A run that was killed outright stays STARTED and keeps its pool slot; the next run would wait for it for ever. Every run
is therefore tagged with its process, and before a new one starts, runs of dead processes on this host are failed and
their slots freed.
"""

import dagster as dg

from batch_assets.process import Process

_TAG = "batch_assets/"
POOL = "scoring"
"""One run at a time scores; runs that would fight for the same cores or GPU wait for each other."""


def process_tags() -> dict[str, str]:
    """The tags that name the process that calls."""
    return {f"{_TAG}{name}": str(value) for name, value in Process.current().as_mapping().items()}


def tag_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tag a run with the process that executes it."""
    instance.add_run_tags(run_id, process_tags())


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Fail runs whose process is dead and free their slots; returns their ids."""
    buried = []
    for run, process in _running(instance):
        if not process.alive():
            instance.report_run_failed(run, message=f"The process of this run ({process}) is dead.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            buried.append(run.run_id)
    return buried


def _running(instance: dg.DagsterInstance) -> list[tuple[dg.DagsterRun, Process]]:
    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=statuses))
    fields = ("host", "pid", "started")
    return [
        (run, Process.from_mapping({field: run.tags[_TAG + field] for field in fields}))
        for run in runs
        if all(_TAG + field in run.tags for field in fields)
    ]
