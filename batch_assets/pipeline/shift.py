"""How far two model versions are apart, from their probabilities of the same rows or of two days."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.arrow import as_numpy
from batch_assets.histogram import Histogram
from batch_assets.quality.distance import Distance
from batch_assets.quality.drift import Shift, between
from batch_assets.scoring.commit import read_committed
from batch_assets.scoring.manifest import Manifest
from batch_assets.scoring.precision import spearman
from batch_assets.storage import Storage

_ROWS = 1 << 20
"""How many rows of two runs are compared, about: whole chunks, evenly spread."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """The distance between two versions' scores over the bins between `edges`, and what it amounts to."""

    distance: Distance
    edges: tuple[float, ...]
    shift: Shift


def compared(before: Floats, after: Floats, partition: str, against: str, *, same_rows: bool) -> Compared | None:
    """Compare two versions' probabilities, over a hundred equal parts of the old ones. None if there is nothing to compare.

    NaN stands where a row was not scored.

    With `same_rows`, both have shape (rows,) and the same order; else ranks cannot be compared and count as equal.
    """
    if same_rows:
        both = np.isfinite(before) & np.isfinite(after)
        before, after = before[both], after[both]
    else:
        before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not len(before) or not len(after):
        return None
    edges = tuple(np.unique(np.quantile(before, np.arange(1, 100) / 100)).tolist())
    found = between(Histogram.of(before, edges), Histogram.of(after, edges))
    tenth = max(1, len(before) // 10)
    overlap = rank = 1.0
    if same_rows:
        tops = [set(np.argsort(-scores, kind="stable")[:tenth].tolist()) for scores in (before, after)]
        overlap = len(tops[0] & tops[1]) / tenth
        rank = spearman(before.astype(np.float64), after.astype(np.float64))
    shift = Shift(
        partition=partition,
        against=against,
        rows=len(before),
        psi=round(found.psi.value, 6),
        ks=round(found.ks.value, 6),
        js=round(found.js.value, 6),
        top_decile_overlap=round(overlap, 6),
        rank_correlation=round(rank, 6),
    )
    return Compared(found, edges, shift)


def between_runs(storage: Storage, before: Manifest, after: Manifest, key: str) -> Compared | None:
    """The shift from one finished run to another, from the predictions that they committed: of the same snapshot row by row.

    Raises:
        CommitBroken: a file cannot be read.
    """
    same_rows = before.snapshot == after.snapshot
    chunks = [[(chunk.name, chunk.rows) for chunk, _ in run.by_chunk()] for run in (before, after)]
    every = max(1, after.rows // _ROWS) if same_rows and chunks[0] == chunks[1] else 1
    old, new = (_scores(storage, run, key, every) for run in (before, after))
    if same_rows:
        places = pc.index_in(new.column(key), old.column(key).combine_chunks())
        there = places.is_valid()
        old, new = old.take(places.drop_null()), new.filter(there)
    ours, theirs = (as_numpy(table.column("probability")) for table in (old, new))
    return compared(ours, theirs, before.partition, before.model.version, same_rows=same_rows)


def _scores(storage: Storage, run: Manifest, key: str, every: int) -> pa.Table:
    """Key and probability of every n-th chunk of a run."""
    files = [file for chunk, replays in run.by_chunk()[::every] for file in (chunk, *replays)]
    return pa.concat_tables(
        [read_committed(storage, f"{run.folder}/{file.name}", [key, "probability"]) for file in files],
        promote_options="permissive",
    )
