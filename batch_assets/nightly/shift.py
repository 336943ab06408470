"""How far two model versions are apart, from their scores of the same rows or of two days."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.arrow import as_numpy
from batch_assets.config import PipelineConfig
from batch_assets.errors import ModelError
from batch_assets.features.keys import identity
from batch_assets.histogram import Histogram
from batch_assets.models.registry import ModelVersion
from batch_assets.quality.drift import between
from batch_assets.quality.model_shift import Shift
from batch_assets.quality.statistics import Distance, spearman
from batch_assets.runs.manifest import Manifest, ManifestFile, read_scored
from batch_assets.storage import Storage

_ROWS = 1 << 20
"""How many rows of two runs are compared, about: whole chunks, evenly spread."""

_KEYS = "\0keys"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """The distance between two versions' scores over the bins between `edges`, and what it amounts to."""

    distance: Distance
    edges: tuple[float, ...]
    shift: Shift


def compared(before: Floats, after: Floats, partition: str, against: str) -> Compared | None:
    """Compare two versions' scores of the same rows, in the same order, each of shape (rows,).

    The distance is over a hundred equal parts of the old ones. A row that one of them has no finite score of is left
    out; None if no row remains.
    """
    both = np.isfinite(before) & np.isfinite(after)
    before, after = before[both], after[both]
    return _compared(before, after, before, after, partition, against)


def between_runs(storage: Storage, before: Manifest, after: Manifest, key: Sequence[str]) -> Compared | None:
    """Compare two finished runs, from the predictions that they committed: their scores, and the ranks of the keys in both.

    Of large runs some chunks are compared, evenly spread; of a large earlier run, the chunks that hold the same keys.

    Raises:
        CommitBroken: a file cannot be read.
    """
    if before.record.score != after.record.score:
        return None  # a probability and a sum of money have no distance
    every = -(-after.rows // _ROWS)
    new = [_scores(storage, after, files, key) for files in after.scored_chunks()[every // 2 :: max(every, 1)]]
    windows = [(table.column(_KEYS)[0].as_py(), table.column(_KEYS)[-1].as_py()) for table in new]
    old = []
    for files in before.scored_chunks() if windows else ():
        table = _scores(storage, before, files, key)
        low, high = table.column(_KEYS)[0].as_py(), table.column(_KEYS)[-1].as_py()
        if before.rows <= _ROWS or any(low <= last and first <= high for first, last in windows):
            old.append(table)
        elif low > windows[-1][1]:
            break  # chunks are in the order of their keys
    if not old:
        return None
    ours, theirs = pa.concat_tables(old), pa.concat_tables(new)
    places = pc.index_in(theirs.column(_KEYS), ours.column(_KEYS).combine_chunks())
    joined = ours.take(places.drop_null()), theirs.filter(places.is_valid())
    scores = [as_numpy(table.column(after.record.score)) for table in (ours, theirs, *joined)]
    return _compared(scores[0], scores[1], scores[2], scores[3], before.partition, before.model.version)


def _compared(before: Floats, after: Floats, one: Floats, other: Floats, partition: str, against: str) -> Compared | None:
    """`one` and `other` are the scores of the keys in both, in the same order."""
    if not len(before) or not len(after):
        return None
    edges = tuple(np.unique(np.quantile(before, np.arange(1, 100) / 100)).tolist())
    found = between(Histogram.of(before, edges), Histogram.of(after, edges))
    tenth = max(1, len(one) // 10)
    tops = [set(np.argsort(-scores, kind="stable")[:tenth].tolist()) for scores in (one, other)]
    shift = Shift(
        partition=partition,
        against=against,
        rows=len(one),
        psi=round(found.psi.value, 6),
        ks=round(found.ks.value, 6),
        js=round(found.js.value, 6),
        top_decile_overlap=round(len(tops[0] & tops[1]) / tenth, 6),
        rank_correlation=round(spearman(one.astype(np.float64), other.astype(np.float64)), 6),
    )
    return Compared(found, edges, shift)


def _scores(storage: Storage, run: Manifest, files: list[ManifestFile], key: Sequence[str]) -> pa.Table:
    """What the rows of a chunk with its replays are about, `_KEYS`, and their scores, by key."""
    table = read_scored(storage, run, files, key, [run.record.score])
    return pa.table({_KEYS: identity(table, key), run.record.score: table.column(run.record.score)})


def expected_shift(config: PipelineConfig, model: ModelVersion) -> Shift | None:
    """What the plan of the approval in use said about scores, or None if it said nothing."""
    if not model.alias:
        return None
    plan = model.registry.approvals(model.name, model.alias).number(model.approval).plan or {}
    told: list[dict[str, Any]] = [one for one in plan.get("pipelines", []) if one["pipeline"] == config.name]
    return Shift.model_validate(told[0]["shift"]) if told and told[0].get("shift") else None


def model_before(config: PipelineConfig, model: ModelVersion) -> ModelVersion | None:
    """The version that a version replaces, or None if there is none (any more).

    Of an approved one it is the other one that was approved before; one that is not approved would replace today's.
    """
    approvals = model.registry.approvals(config.model.name, config.model.alias)
    withdrawn = approvals.withdrawn()
    earlier = [one for one in approvals.history() if not model.approval or one.number < model.approval]
    others = [one for one in earlier if one.version != model.version and one.number not in withdrawn]
    try:
        return model.registry.version(model.name, others[-1].version) if others else None
    except ModelError:
        return None
