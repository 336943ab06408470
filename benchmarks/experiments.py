"""What is measured once and not in rounds: peak memory, and the price of a kill at 99 %."""

import math
from pathlib import Path
from typing import Any

import processes
import pyarrow as pa
import pyarrow.parquet as pq
from bench import Bench, prediction_files
from processes import Peaks
from workload import CHUNK_ROWS

KILL_AT = 0.99
"""The share of rows that shall be written when the process is killed."""

IN_FLIGHT = 2
"""Chunks that two workers commit between the look at the folder and the arrival of the kill."""


def memory(bench: Bench, sizes: tuple[int, int]) -> dict[str, Any]:
    """Peak USS in MB of `ours_ray`, by number of rows: of its driver and of the largest worker; and large : small."""
    found: dict[str, Any] = {"measure": "USS, sampled every 50 ms"}
    for rows in sizes:
        peaks = Peaks()
        with bench.job("ours_ray", rows) as (arguments, _):
            finished = processes.run(arguments, peaks.sample_memory)
        workers = sorted(round(size / 2**20, 1) for size in peaks.workers.values())
        driver = round(peaks.driver / 2**20, 1)
        found[str(rows)] = {"worker_mb": workers[-1], "workers_mb": workers, "driver_mb": driver, "total_s": finished.seconds}
    small, large = (found[str(rows)] for rows in sizes)
    found["worker_ratio"] = large["worker_mb"] / small["worker_mb"]
    found["driver_ratio"] = large["driver_mb"] / small["driver_mb"]
    return found


def resume(bench: Bench, rows: int) -> dict[str, Any]:
    """Seconds and bytes read of an undisturbed run and of one that follows a kill, for `ours_ray` and Ray Data's checkpoints.

    Read are the bytes that Ray's workers asked files for, until the last sample of each (50 ms apart). Most of a short run's
    are imports; if a full run reads the snapshot once, what it reads beyond the snapshot's size is not data. By that the
    resumed run's share of the snapshot is estimated; `rows_scored_again_share` is exact.

    The files of a subject are large, so a kill seldom falls between 99 and 100 %: `rows_at_kill` says where it fell.
    """
    chunks = -(-rows // CHUNK_ROWS)
    last = max(1, math.ceil(KILL_AT * chunks) - IN_FLIGHT) * CHUNK_ROWS
    found = {"ours_ray": _resumed(bench, "ours_ray", rows, last)}
    found["ray_data"] = _resumed(bench, "ray_data", rows, min(math.ceil(KILL_AT * rows), rows - 1))
    return found


def _resumed(bench: Bench, name: str, rows: int, kill_at: int) -> dict[str, Any]:
    snapshot = sum(file.stat().st_size for file in bench.prepared(rows).files)
    with bench.job(name, rows) as (arguments, output):
        full, full_read = _watched([*arguments, *_checkpoint(name, output, "full")])
    with bench.job(name, rows) as (arguments, output):
        arguments += _checkpoint(name, output, "killed")
        written = _Written(output)
        killed = processes.run_until(arguments, lambda: written.rows() >= kill_at)
        before = written.rows()
        again, again_read = _watched(arguments)
        after = written.rows()
    return {
        "full_s": full.seconds,
        "killed_after_s": killed,
        "rows_at_kill": before,
        "rows_in_the_end": after,
        "resumed_s": again.seconds,
        "rows_scored_again_share": (after - before) / rows,
        "read_bytes_full": full_read,
        "read_bytes_resumed": again_read,
        "snapshot_bytes": snapshot,
        "snapshot_read_again_share": max(0, again_read - (full_read - snapshot)) / snapshot,
        "said": again.said,
    }


def _watched(arguments: list[str]) -> tuple[processes.Finished, int]:
    peaks = Peaks()
    finished = processes.run(arguments, peaks.sample_read)
    return finished, sum(peaks.read.values())


def _checkpoint(name: str, output: Path, which: str) -> list[str]:
    return [f"--checkpoint={output.parent / f'checkpoint-{which}'}"] if name == "ray_data" else []


class _Written:
    """Counts the rows in finished files; a file is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counted: dict[Path, int] = {}

    def rows(self) -> int:
        for path in prediction_files(self._folder):
            if path not in self._counted:
                try:
                    self._counted[path] = pq.read_metadata(path).num_rows
                except (OSError, pa.ArrowException):  # still being written
                    continue
        return sum(self._counted.values())
