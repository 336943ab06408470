"""Rows that a contract permits, for a model to be tried on before there is a night."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.features.contract import Column, FeatureContract, ModelInput
from batch_assets.histogram import Spread, float_edges
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET

ROWS = 3 * SHAPE

Values = npt.NDArray[Any]


def permitted_rows(contract: FeatureContract, spreads: Mapping[str, Spread], rows: int = ROWS) -> pa.Table:
    """Rows that a contract permits, the same each time: spread as known, else within bounds; lists of every notable length.

    A number without bounds is a standard normal one; a whole number without them is one of the first that are permitted.
    """
    random = np.random.default_rng(0)
    inputs = {one.name: one for one in contract.inputs}
    columns = {}
    for column in contract.columns:
        model_input = inputs[column.input]
        null = np.arange(rows) % 8 == 7 if column.nullable else None
        if column.length is None:
            values = _drawn(column, model_input, rows, spreads.get(column.name), random)
            columns[column.name] = pa.array(values, _arrow_type(column), mask=null)
            continue
        lengths = (
            np.full(rows, column.length)
            if isinstance(column.length, int)
            else random.permutation(np.resize(_notable(model_input.max_length), rows))
        )
        flat = pa.array(_drawn(column, model_input, int(lengths.sum()), None, random), _arrow_type(column))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns[column.name] = (
            pa.FixedSizeListArray.from_arrays(flat, column.length)
            if isinstance(column.length, int)
            else pa.ListArray.from_arrays(offsets, flat)
        )
    return pa.table(columns)


def _notable(max_length: int) -> list[int]:
    """No element, one, as many as fit into a bucket and one more, and as many as are permitted."""
    edges = [SHORTEST_BUCKET << n for n in range(max(1, math.ceil(math.log2(max_length / SHORTEST_BUCKET)) + 1))]
    lengths = {0, 1, max_length, *edges, *(edge + 1 for edge in edges)}
    return sorted(length for length in lengths if length <= max_length)


def _arrow_type(column: Column) -> pa.DataType:
    return pa.bool_() if column.dtype == "bool" else pa.type_for_alias(column.dtype)


def _drawn(column: Column, model_input: ModelInput, count: int, spread: Spread | None, random: np.random.Generator) -> Values:
    """Permitted values of a column, shape (count,); of whole numbers the least and the largest are among them."""
    if column.dtype == "bool":
        return random.integers(0, 2, count).astype(bool)
    if not column.dtype.startswith("float"):
        return _whole(column, model_input, count, spread, random)
    low, high = column.min, column.max
    if spread is not None and spread.counts:
        values = _spread(spread, count, random)
    elif low is not None and high is not None:
        values = random.uniform(low, high, count)
    else:
        away = random.exponential(1.0, count)
        values = low + away if low is not None else high - away if high is not None else random.standard_normal(count)
    return np.clip(values, low, high).astype(column.dtype)


def _whole(column: Column, model_input: ModelInput, count: int, spread: Spread | None, random: np.random.Generator) -> Values:
    limits = np.iinfo(column.dtype)
    few_values = 1 if model_input.dtype == "int64" else 9  # whole numbers that are looked up: nothing says how many there are
    high = None if column.max is None else min(math.floor(column.max), int(limits.max))
    low = math.ceil(column.min) if column.min is not None else 0 if high is None or high >= 0 else high - few_values
    low = max(low, int(limits.min))
    high = min(low + few_values, int(limits.max)) if high is None else max(low, high)
    if spread is not None and spread.counts:
        drawn = _spread(spread, count, random) if column.categories is None else _chosen(spread, count, random)
        values = np.clip(np.round(drawn), low, high).astype(np.int64)
    else:
        values = random.integers(low, high, count, endpoint=True)
    if count >= 2:
        values[random.permutation(count)[:2]] = low, high
    return values.astype(column.dtype)


def _chosen(spread: Spread, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Bins, as often as they were seen."""
    shares = np.asarray(spread.counts, dtype=np.float64)
    return random.choice(np.asarray(spread.bins), count, p=shares / shares.sum())


def _spread(spread: Spread, count: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Values from the bins in which a feature's were."""
    edges = float_edges()
    bins = _chosen(spread, count, random)
    first, last = edges[bins], edges[np.minimum(bins + 1, len(edges) - 1)]
    inside = first + random.random(count) * (last - first)
    return np.where(np.isfinite(inside), inside, first)
