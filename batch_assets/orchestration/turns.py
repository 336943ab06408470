"""Command lines and the runs of the UI take turns in a pool.

Command lines with one Dagster home do so by a file lock for each pool, which the system drops when its holder dies. For all
other runs, those of command lines elsewhere too, the runs in progress are looked at, after the dead were failed.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.nightly.progress import Progress
from batch_assets.orchestration.liveness import at_work, fail_dead_runs, named, of_command_line
from batch_assets.orchestration.pools import limit_of, pool_of, pools_of
from batch_assets.process import Process

_LOOK_SECONDS = 0.5


@contextmanager
def own_turn(
    instance: dg.DagsterInstance,
    config: PipelineConfig,
    progress: Progress,
    take: Callable[[], object] = lambda: None,
    let_go: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Wait until the pipeline's pool has a place for a run of a command line.

    Dagster itself would not wait: where a pool counts whole runs, only its queue does, in which runs of the UI stand while a
    command line's is in progress. `take` gets what the run needs; as that may take its time, the pool is looked at once more
    then. `let_go` gives it back before a wait, as others may need it.
    """
    pool = pool_of(config)
    with (Path(instance.root_directory) / f".turn.{pool}").open("a+") as lock:
        if not _locked(lock):
            let_go()
            lock.seek(0)
            progress.say(f"Another command line is at work in the pool {pool!r} ({lock.read().strip()}); waiting for it.")
        while not _locked(lock):
            time.sleep(_LOOK_SECONDS)
        lock.truncate(0)
        lock.write(str(Process.current()))
        lock.flush()
        told: set[str] = set()
        taken = False
        while (reasons := _reasons_to_wait(instance, config, progress)) or not taken:
            if not reasons:
                take()
                taken = True
                continue
            let_go()
            taken = False
            for reason in sorted(reasons - told):
                progress.say(reason)
            told |= reasons
            time.sleep(_LOOK_SECONDS)
        yield


def give_way(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Wait, in a run that the queue began, for command lines' runs if its pool has not a place for all.

    Queue and command line each look, and then begin: both may have found the same place. The command line's run goes on, as
    it may hold what others need, like the executors of a Spark cluster; one of the queue holds nothing before its first step.
    """
    if of_command_line(run):
        return
    for pool in pools_of(run):
        told = False
        while others := _too_many(instance, pool):
            if not told:
                instance.report_engine_event(
                    f"Waiting in the pool {pool!r} for a command line: {', '.join(map(named, others))}.", run
                )
            told = True
            time.sleep(_LOOK_SECONDS)


def _reasons_to_wait(instance: dg.DagsterInstance, config: PipelineConfig, progress: Progress) -> set[str]:
    """Why a command line has no place now, after the dead were failed; nothing if it has one."""
    for failed in fail_dead_runs(instance, config, turn=True):
        progress.say(f"Dagster run {failed} was left by a dead process; it is marked as failed now.")
    pool = pool_of(config)
    holders, limit = at_work(instance, pool), limit_of(instance, pool)
    limit = 1 if limit is None else limit  # the queue waits for nobody then; what is on the same cores does
    if len(holders) < limit:
        return set()
    if not holders:
        return {f"The pool {pool!r} takes no runs, as its limit is {limit}; this run waits until somebody sets another."}
    return {
        f"Dagster run {named(run)} is at work in the pool {pool!r}; this run waits for its place. If it is dead, terminate it "
        "in the UI."
        for run in holders
    }


def _too_many(instance: dg.DagsterInstance, pool: str) -> list[dg.DagsterRun]:
    """The command lines' runs in a pool in which more runs are at work than it has places for."""
    runs, limit = at_work(instance, pool), limit_of(instance, pool)
    return [run for run in runs if of_command_line(run)] if limit is not None and len(runs) > limit else []


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
