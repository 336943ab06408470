"""How many rows a forward pass should have: measured by a sweep on real rows, and remembered.

A sweep is remembered per model sha256, device, precision and version of the model's library. It runs in a process of its own
whose memory is limited, so that the boundary is an error that can be caught and not the end of somebody's work.
"""

import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from batch_assets.errors import OutOfMemory
from batch_assets.logs import Change, NumberedLog
from batch_assets.runs.chunks import Chunk
from batch_assets.scoring.forward import Predictor
from batch_assets.scoring.inputs import SHAPE, Batch, Mask, Staged
from batch_assets.scoring.poison import first_line
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.storage import Storage

if TYPE_CHECKING:
    from batch_assets.scoring.scorer import ScoringTask

KNEE = 0.97
"""The smallest size that reaches this share of the best rate is picked: larger ones buy nothing."""

MEMORY_SHARE = 0.8
"""A size that needs more of the memory than this is not picked."""

_SECONDS = 0.2
_REPEATS = 3
_SLOW_SECONDS = 2.0
_LONGEST_SECONDS = 5.0
"""A batch that takes longer is the last one that is measured: trees need so little memory that there would be no end."""


class Measured(BaseModel):
    """One batch size: its rate, and the most memory that the process had held when it was done, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_rows: int
    rows_per_s: float
    memory: int


class Sweep(BaseModel):
    """What a sweep found; `ended` says why no larger size was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    device: str
    precision: str
    library: str
    memory_limit: int
    measured: tuple[Measured, ...]
    ended: str
    batch_rows: int


class BatchSize(BaseModel):
    """The batch size with which a day was begun."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_rows: int


def sweep_log(storage: Storage, model_sha256: str, settings: ScoringSettings, library: str) -> NumberedLog[Sweep]:
    """What sweeps of a model found; the highest entry is in force."""
    return NumberedLog(storage, f"sweeps/{model_sha256[:16]}-{settings.device}-{settings.precision}-{library}", Sweep)


def resolved(storage: Storage, settings: ScoringSettings, model_sha256: str, library: str) -> ScoringSettings:
    """Settings with a number in place of `auto`: what the latest sweep picked, else the default."""
    if settings.batch_size != "auto":
        return settings
    entry = sweep_log(storage, model_sha256, settings, library).latest()
    return settings.model_copy(update={"batch_size": entry.body.batch_rows if entry else settings.batch_rows})


def pin(log: NumberedLog[BatchSize], settings: ScoringSettings) -> ScoringSettings:
    """Settings with the batch size that a log says, after it was written there if it was not.

    A day keeps the size that it was first scored with: a later sweep would make another run of it in the middle of the night.
    """
    first = Change(BatchSize(batch_rows=settings.batch_rows), "the day is scored for the first time")
    entry = log.update(lambda latest: latest or first)
    return settings.model_copy(update={"batch_size": entry.body.batch_rows})


def pick(measured: Sequence[Measured], memory_limit: int) -> int:
    """The knee: the smallest permitted shape within 3 % of the best rate of those that need at most 80 % of the memory.

    Raises:
        OutOfMemory: none does.
    """
    fitting = [one for one in measured if one.batch_rows % SHAPE == 0 and one.memory <= MEMORY_SHARE * memory_limit]
    if not fitting:
        raise OutOfMemory(
            f"No batch of {SHAPE} rows or more was scored within {MEMORY_SHARE:.0%} of {memory_limit / 1e9:,.1f} GB."
        )
    best = max(one.rows_per_s for one in fitting)
    return min(one.batch_rows for one in fitting if one.rows_per_s >= KNEE * best)


def measure(task: "ScoringTask", chunk: Chunk, memory_limit: int) -> Iterator[Measured | str]:
    """Measure batches of 1, 2, 4, … rows of a chunk until memory or patience ends; the last is a sentence that says which.

    Args:
        task: what to load; nothing is written.
        chunk: where the rows are from; a batch that is larger repeats them.
        memory_limit: bytes that the measuring process may use.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(task, chunk, memory_limit, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            try:
                found: Measured | str = receiver.recv()
            except EOFError:
                process.join()
                yield f"the measuring process was ended by the system (exit status {process.exitcode})"
                return
            yield found
            if isinstance(found, str):
                return
    finally:
        process.terminate()
        process.join()


def _measure(task: "ScoringTask", chunk: Chunk, memory_limit: int, sender: Connection) -> None:
    """Runs in a process of its own."""
    scorer = task.open()
    predictor = scorer.predictor
    with scorer.staged(chunk, {}) as (staged, rows):
        if not rows.rejects.scored.any():
            sender.send(f"{chunk.name} has no row that can be scored")
            return
        if task.settings.device == "cpu":
            held, reserved = _memory()
            bound = reserved + max(0, memory_limit - held)  # what is reserved and not used does not count
            resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        size = 1
        while True:
            try:
                rate = _rate(predictor, staged, rows.rejects.scored, size)
            except Exception as error:
                if isinstance(error, MemoryError) or predictor.out_of_memory(error):
                    sender.send(f"{size:,} rows do not fit into {memory_limit / 1e9:,.1f} GB")
                    return
                sender.send(f"the model raises on {size:,} rows ({type(error).__name__}: {first_line(error)})")
                raise
            sender.send(Measured(batch_rows=size, rows_per_s=rate, memory=predictor.peak_memory()))
            if size >= SHAPE and size > rate * _LONGEST_SECONDS:
                sender.send(f"{size:,} rows take more than {_LONGEST_SECONDS:g} s")
                return
            size *= 2


def _memory() -> tuple[int, int]:
    """Bytes of memory that this process holds, and bytes of data that it has reserved."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[1]) * resource.getpagesize(), int(pages[5]) * resource.getpagesize()


def _rate(predictor: Predictor, staged: Staged, scored: Mask, size: int) -> float:
    """Rows per second, the best of a few times; inputs are made beforehand, as a worker's other thread makes them."""
    batches = _batches(staged, scored, size)
    arrays = [staged.arrays(batch) for batch in batches]
    rows = sum(len(batch.rows) for batch in batches)
    rates = []
    for _ in range(_REPEATS):
        calls, started = 0, time.perf_counter()
        while not calls or time.perf_counter() - started < _SECONDS:
            for _ in predictor.forward(arrays):
                pass
            calls += 1
        seconds = time.perf_counter() - started
        rates.append(calls * rows / seconds)
        if seconds > _SLOW_SECONDS:
            break
    return max(rates)


def _batches(staged: Staged, scored: Mask, size: int) -> list[Batch]:
    """A few batches of a size, of different rows as far as there are so many."""
    if staged.sequences:
        return staged.batches(scored, max(size, SHAPE))[:8]
    places = np.flatnonzero(scored)
    count = max(1, min(8, len(places) // size))
    return [Batch(np.resize(np.roll(places, -number * size), size), np.arange(size), size) for number in range(count)]
