"""The value audit: a few random rows are scored again, alone, from the snapshot, and compared with what was committed.

The proof shows that every key is there once; only a second look at values shows that they are the right ones. Which rows
are looked at is drawn after everything was committed. How likely a fault is to be found is stated with the result.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.arrow import as_arrow, as_numpy
from batch_assets.digest import bits
from batch_assets.features.snapshot import Snapshot
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import RejectsFile, read_committed
from batch_assets.runs.evidence import ONE_IN_A_HUNDRED
from batch_assets.scoring.postprocess import Predictions, predictions_of
from batch_assets.scoring.scorer import Scorer

BOUND = 1e-4
"""By how much a probability may differ where device, kernels, library or batch shape are not those of the commit."""


@dataclass(frozen=True)
class Sample:
    """Places of a chunk to be scored again; environment, batch shape and rejects file of its commit."""

    chunk: Chunk
    places: tuple[int, ...]
    environment: dict[str, str]
    batch_rows: int
    rejects: RejectsFile | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"the audit of {self.chunk.name}"


@dataclass(frozen=True)
class Compared:
    """One chunk's rows: how many were compared, how many bit for bit, and what was wrong with the first wrong one."""

    chunk: str
    rows: int
    bit_equal: int
    fault: str


Drawn = list[tuple[Chunk, tuple[int, ...]]]
"""Places of row groups, as places of their chunks; none of row groups of which nothing is drawn."""


def draw(snapshot: Snapshot, plan: Sequence[Chunk], groups: int, rows: int) -> Drawn:
    """Random places of random row groups, as places of their chunks, from the system's own randomness.

    `groups` x `rows` places are drawn, or all that there are: where row groups are few or small, more of each or more of them.
    """
    source = random.SystemRandom()
    windows = _windows(snapshot, plan)
    source.shuffle(windows)
    wanted, taken = groups * rows, list[tuple[Chunk, int, int]]()
    while windows and (len(taken) < groups or sum(end - first for _, first, end in taken) < wanted):
        taken.append(windows.pop())
    found = []
    for left, (chunk, first, end) in zip(range(len(taken), 0, -1), sorted(taken, key=_length), strict=True):
        count = min(end - first, math.ceil(wanted / left))  # what a small group cannot give, the larger ones do
        found.append((chunk, tuple(sorted(source.sample(range(first, end), count)))))
        wanted -= count
    return found


@dataclass(frozen=True)
class Again:
    """Rows that were scored again: their keys and predictions, and whether the bits of the commit are due.

    They are where environment and batch shape are those of the commit; else BOUND is.
    """

    keys: pa.Array
    predictions: Predictions
    exact: bool


def score_again(scorer: Scorer, sample: Sample) -> Again:
    """Score a sample's rows once more; those that were not scored then, or cannot be now, are left out."""
    task, chunk = scorer.task, sample.chunk
    staged, rows = scorer.sampled(chunk, sample.places)
    if sample.rejects is not None:  # a row that was not scored may be one that stops or kills
        table = read_committed(task.storage, f"{task.run_folder}/{sample.rejects.name}", [task.contract.key.name])
        rejected = as_numpy(pc.is_in(rows.keys, value_set=table.column(task.contract.key.name).combine_chunks()))
        rows.rejects.scored[rejected] = False
    passed = scorer.passed(staged, rows, chunk, {})
    predictions, _ = scorer.finished(passed, rows)
    exact = scorer.predictor.environment == sample.environment and passed.smallest == sample.batch_rows
    return Again(rows.keys.filter(as_arrow(rows.rejects.scored)), predictions, exact)


def same_bits(ours: Predictions, theirs: Predictions) -> npt.NDArray[np.bool_]:
    """Which rows have the same probability, decile and label, bit for bit."""
    pairs = zip(ours, theirs, strict=True)
    found: npt.NDArray[np.bool_] = np.logical_and.reduce([bits(np.asarray(one)) == bits(np.asarray(two)) for one, two in pairs])
    return found


def compare(scorer: Scorer, sample: Sample) -> Compared:
    """Score a sample's rows again and compare them with the commit; rows that were not scored then are left out."""
    task, chunk = scorer.task, sample.chunk
    again = score_again(scorer, sample)
    table = read_committed(task.storage, f"{task.run_folder}/{chunk.name}.parquet")
    places = pc.index_in(again.keys, table.column(task.contract.key.name).combine_chunks())
    there = as_numpy(places.is_valid())
    ours, places = again.predictions.take(there), as_numpy(places.drop_null())
    committed = predictions_of(table, task.outputs).take(places)
    equal = same_bits(ours, committed)
    right = equal if again.exact else np.abs(ours.probability - committed.probability) <= BOUND
    fault = ""
    if not right.all():
        wrong = int(np.flatnonzero(~right)[0])
        key = again.keys.filter(as_arrow(there))[wrong].as_py()
        fault = (
            f"{chunk.name} says {committed.probability[wrong]:.9g} for {task.contract.key.name} {key!r}, "
            f"scored again it is {ours.probability[wrong]:.9g}"
        )
    return Compared(chunk.name, len(places), int(equal.sum()), fault)


def detection(snapshot: Snapshot, plan: Sequence[Chunk], drawn: Drawn, compared: int, scored: int) -> dict[str, float]:
    """The probability that an audit meets a fault, by kind of fault.

    Args:
        snapshot: what was scored.
        plan: its chunks.
        drawn: what was drawn to be compared.
        compared: how many of those rows had been scored, and were compared.
        scored: how many rows of the day were scored.
    """
    windows = _windows(snapshot, plan)
    if not windows or not scored:
        return {}
    pairs = sum(
        swapped_pair(end - first, len(places))
        for drawn_of, places in drawn
        for chunk, first, end in windows
        if chunk == drawn_of and first <= places[0] < end
    )
    return {
        ONE_IN_A_HUNDRED: round(_met(scored, compared, 100), 6),
        "one row in a thousand, anywhere": round(_met(scored, compared, 1_000), 6),
        "one whole row group": round(len(drawn) / len(windows), 6),
        "two rows of one row group swapped": round(pairs / len(windows), 9),
    }


def _met(rows: int, compared: int, of: int) -> float:
    """The probability that one of `compared` different rows is among those, one in `of`, that are wrong."""
    wrong = math.ceil(rows / of)
    return 1 - math.comb(rows - wrong, compared) / math.comb(rows, compared)


def swapped_pair(length: int, rows: int) -> float:
    """The probability that `rows` of the `length` rows of a row group hold one of two rows of it."""
    return 1 - math.comb(length - 2, rows) / math.comb(length, rows) if length >= 2 else 0.0


def _length(window: tuple[Chunk, int, int]) -> int:
    _, first, end = window
    return end - first


def _windows(snapshot: Snapshot, plan: Sequence[Chunk]) -> list[tuple[Chunk, int, int]]:
    """Every row group, or its part in a chunk: the chunk, and the first place and the end in it."""
    found = []
    for index, file in enumerate(snapshot.files):
        ends = list(accumulate(group.rows for group in file.row_groups))
        for chunk in (chunk for chunk in plan if chunk.file == index):
            marks = sorted(
                {0, chunk.rows, *(end - chunk.start for end in ends if chunk.start < end < chunk.start + chunk.rows)}
            )
            found += [(chunk, first, end) for first, end in pairwise(marks)]
    return found
