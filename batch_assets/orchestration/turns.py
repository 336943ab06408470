"""Command lines and the runs of the UI take turns in a pool.

Command lines with one Dagster home do so by a file lock for each pool, which the system drops when its holder dies. For all
other runs, those of command lines elsewhere too, the runs in progress are looked at, after the dead were failed.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.nightly.progress import Progress
from batch_assets.orchestration.liveness import fail_dead_runs, scoring_elsewhere
from batch_assets.orchestration.pools import pool_of
from batch_assets.process import Process


@contextmanager
def own_turn(instance: dg.DagsterInstance, config: PipelineConfig, progress: Progress) -> Iterator[None]:
    """Wait until no other run on this instance is at work in the pipeline's pool.

    Dagster would wait too, at the pool, but spinning and deaf to Ctrl-C. Runs of the UI wait in Dagster's queue while a command
    line's run is in progress.
    """
    pool = pool_of(config)
    with (Path(instance.root_directory) / f".turn.{pool}").open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            progress.say(f"Another command line is at work in the pool {pool!r} ({lock.read().strip()}); waiting for it.")
        while not _locked(lock):
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(str(Process.current()))
        lock.flush()
        told: set[str] = set()
        while True:
            for failed in fail_dead_runs(instance, config, turn=True):
                progress.say(f"Dagster run {failed} was left by a dead process; it is marked as failed now.")
            holders = set(scoring_elsewhere(instance, pool))
            if not holders:
                break
            for holder in sorted(holders - told):
                progress.say(
                    f"Dagster run {holder} is at work in the pool {pool!r}; this run waits for it. If it is dead, terminate it "
                    "in the UI."
                )
            told |= holders
            time.sleep(0.5)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
