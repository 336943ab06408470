"""From a table of features to the model's inputs: staged once per chunk, handed out in batches of fixed shape.

Single values and lists of fixed length are copied, column by column, into one preallocated buffer per input, of shape (width,
rows); a batch is a view of it, which a matrix product takes as it is. Lists of variable length stay as Arrow has them until a
batch is made: rows of similar length share a batch, so its padded size is bounded, not only its rows.

Rows that must not be scored are replaced in place by a row that is, so a batch keeps its shape and the others keep their bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_numpy
from batch_assets.features.contract import Column, FeatureContract, ModelInput

Array = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

SHAPE = 64
"""Every forward pass has a multiple of so many rows: a row's bits were seen to depend on other shapes."""

SHORTEST_BUCKET = 16
"""Elements; lists up to this length share the first bucket, the next ones are each twice as long; max_length ends the last."""


@dataclass(frozen=True)
class Batch:
    """One forward pass of `size` rows: the rows of the chunk at `rows` stand at `slots` of it.

    Lists are padded to `length`, or to their input's max_length if that is less.
    """

    rows: Places
    slots: Places
    size: int
    length: int = 0

    def take(self, chosen: "Mask | Places | slice") -> "Batch":
        """A pass of the same shape with only some of the rows, in their places."""
        return Batch(self.rows[chosen], self.slots[chosen], self.size, self.length)

    def halves(self) -> "tuple[Batch, Batch]":
        """Two passes of about half the size, for when there was no memory for one."""
        middle = -(-self.size // (2 * SHAPE)) * SHAPE
        first = self.slots < middle
        second = Batch(self.rows[~first], self.slots[~first] - middle, self.size - middle, self.length)
        return Batch(self.rows[first], self.slots[first], middle, self.length), second


class Staging:
    """Preallocated buffers for the features of one chunk at a time."""

    def __init__(self, contract: FeatureContract, rows: int) -> None:
        self._contract = contract
        self._buffers = {
            model_input.name: np.zeros((width, rows), dtype=model_input.dtype)
            for model_input in contract.inputs
            if (width := contract.width_of(model_input.name)) is not None
        }

    def fill(self, table: pa.Table) -> "Staged":
        """Stage a table's rows; the buffers belong to them until the next call."""
        faults: list[tuple[str, Mask]] = []
        matrices, sequences, scalars = {}, {}, {}
        for model_input in self._contract.inputs:
            columns = self._contract.columns_of(model_input.name)
            if model_input.name in self._buffers:
                matrix = self._buffers[model_input.name][:, : len(table)]
                position = 0
                for column in columns:
                    width = column.length if isinstance(column.length, int) else 1
                    target = matrix[position : position + width]
                    position += width
                    fault = _copy(table.column(column.name), target, column)
                    faults += [] if fault is None else [(f"missing or non-finite feature: {column.name}", fault)]
                    if column.length is None:
                        scalars[column.name] = target[0]
                matrices[model_input.name] = matrix
            else:
                sequence, found = _sequence_of(table.column(columns[0].name), columns[0], model_input)
                faults += found
                sequences[model_input.name] = sequence
        return Staged(self._contract, len(table), matrices, sequences, scalars, tuple(faults))


@dataclass(frozen=True)
class _Sequence:
    values: Array
    offsets: npt.NDArray[np.int64]
    pad: float
    max_length: int

    def padded(self, rows: Places, length: int) -> Array:
        """The lists of some rows, shape (length, rows), or (max_length, rows) if that is less."""
        length = min(length, self.max_length)
        if not len(self.values):
            return np.full((length, len(rows)), self.pad, dtype=self.values.dtype)
        positions = self.offsets[rows] + np.arange(length)[:, None]
        inside = positions < self.offsets[rows + 1]
        gathered = self.values[np.minimum(positions, len(self.values) - 1)]
        padded: Array = np.where(inside, gathered, np.asarray(self.pad, dtype=self.values.dtype))
        return padded


@dataclass(frozen=True)
class Staged:
    """A chunk's features. `scalars` are the single-valued columns; `faults` say what about which rows is not permitted."""

    contract: FeatureContract
    rows: int
    matrices: dict[str, Array]
    sequences: dict[str, _Sequence]
    scalars: dict[str, Array]
    faults: tuple[tuple[str, Mask], ...]

    def batches(self, scored: Mask, batch_rows: int) -> list[Batch]:
        """Fixed shapes that cover the rows that are scored; a batch without any is left out."""
        if not self.sequences:
            starts = range(0, self.rows, batch_rows)
            whole = bool(scored.all())
            windows = (_window(scored, start, min(start + batch_rows, self.rows), batch_rows, whole) for start in starts)
            return [batch for batch in windows if len(batch.rows)]
        longest = np.max([np.diff(sequence.offsets) for sequence in self.sequences.values()], axis=0)
        permitted = max(sequence.max_length for sequence in self.sequences.values())
        bucket = SHORTEST_BUCKET * 2 ** np.ceil(np.log2(np.maximum(longest, SHORTEST_BUCKET) / SHORTEST_BUCKET)).astype(int)
        bucket = np.minimum(bucket, permitted)
        found: list[Batch] = []
        for length in np.unique(bucket[scored]).tolist():
            rows = np.flatnonzero(scored & (bucket == length))
            size = max(SHAPE, batch_rows * SHORTEST_BUCKET // max(length, SHORTEST_BUCKET) // SHAPE * SHAPE)
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                found.append(Batch(some, np.arange(len(some)), size, length))
        return found

    def arrays(self, batch: Batch) -> tuple[Array, ...]:
        """The model's inputs for a batch with at least one row, in the model's order, each of shape (width, batch.size)."""
        if len(batch.rows) == batch.size and not self.sequences and batch.rows[-1] - batch.rows[0] + 1 == batch.size:
            first = int(batch.rows[0])
            return tuple(self.matrices[one.name][:, first : first + batch.size] for one in self.contract.inputs)
        rows = np.full(batch.size, batch.rows[0])
        rows[batch.slots] = batch.rows
        return tuple(
            _columns(self.matrices[one.name], rows)
            if one.name in self.matrices
            else self.sequences[one.name].padded(rows, batch.length)
            for one in self.contract.inputs
        )

    def reasons(self, faulty: Mask) -> dict[int, str]:
        """Place -> what is not permitted about the row, for the rows of a mask."""
        places = np.flatnonzero(faulty)
        if not len(places):
            return {}
        pattern = np.stack([mask[places] for _, mask in self.faults])
        kinds, which = np.unique(pattern, axis=1, return_inverse=True)
        texts = [_joined([phrase for (phrase, _), hit in zip(self.faults, kind, strict=True) if hit]) for kind in kinds.T]
        return dict(zip(places.tolist(), (texts[index] for index in which.ravel()), strict=True))


def _columns(matrix: Array, rows: Places) -> Array:
    """Some columns of a matrix in C order, as a view of it is: in another order the matrix product has other bits."""
    chosen: npt.NDArray[Any] = np.take(matrix, rows, axis=1)
    return chosen


def _window(scored: Mask, start: int, end: int, size: int, whole: bool) -> Batch:
    slots = np.arange(end - start) if whole else np.flatnonzero(scored[start:end])
    return Batch(start + slots, slots, size)


def _joined(phrases: Sequence[str]) -> str:
    """Phrases with the same beginning share it: missing or non-finite feature: x, z."""
    heads: dict[str, list[str]] = {}
    for phrase in phrases:
        head, _, column = phrase.rpartition(": ")
        heads.setdefault(head, []).append(column)
    return "; ".join(f"{head}: {', '.join(columns)}" for head, columns in heads.items())


def _copy(values: pa.ChunkedArray, target: Array, column: Column) -> Mask | None:
    """Copy a column into its rows of a buffer, cast as the buffer is; which rows have no permitted value, if any."""
    start = 0
    missing: Mask | None = None
    for piece in values.chunks:
        place = slice(start, start + len(piece))
        start += len(piece)
        if piece.null_count:
            missing = np.zeros(target.shape[1], dtype=bool) if missing is None else missing
            missing[place] = as_numpy(piece.is_null())
        with np.errstate(over="ignore", invalid="ignore"):
            if column.length is None:
                target[0, place] = _numbers(piece, target.dtype)
            elif piece.null_count:
                present = np.flatnonzero(~as_numpy(piece.is_null()))
                target[:, place] = 0
                target[:, place.start + present] = _numbers(piece.flatten(), target.dtype).reshape(len(present), -1).T
            else:
                target[:, place] = _numbers(piece.flatten(), target.dtype).reshape(len(piece), -1).T
            if column.length is not None and target.dtype.kind != "f" and piece.flatten().null_count:
                holes = as_numpy(piece.flatten().is_null()).reshape(-1, target.shape[0]).any(axis=1)
                missing = np.zeros(target.shape[1], dtype=bool) if missing is None else missing
                present = np.flatnonzero(~as_numpy(piece.is_null()))
                missing[place.start + present[holes]] = True
    if column.nullable:
        if missing is not None and column.length is not None:
            target[:, missing] = np.nan
        return None
    if target.dtype.kind == "f" and not _sums_up(target):
        finite = np.isfinite(target)
        bad: Mask = np.logical_not(np.logical_and.reduce(finite, axis=0))
        missing = bad if missing is None else np.logical_or(bad, missing)
    return missing if missing is not None and missing.any() else None


def _sums_up(values: npt.NDArray[Any]) -> bool:
    """Whether the sum is finite; then every value is. Many times faster than a look at each."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum(dtype=values.dtype)))


def _numbers(piece: pa.Array, dtype: "np.dtype[Any]") -> npt.NDArray[np.generic]:
    """An Arrow array's values; null is NaN where there is one, else 0."""
    if piece.null_count:
        piece = piece.cast(pa.from_numpy_dtype(dtype), safe=False).fill_null(np.nan if dtype.kind == "f" else 0)
    values: npt.NDArray[np.generic] = as_numpy(piece)
    return values


def _sequence_of(column: pa.ChunkedArray, meaning: Column, model_input: ModelInput) -> tuple[_Sequence, list[tuple[str, Mask]]]:
    """A column of lists as values and offsets; lists that are null, hold a null or NaN, or are too long are empty and told."""
    joined = column.combine_chunks()
    lists = pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
    dtype = np.dtype(model_input.dtype)
    lengths = as_numpy(lists.value_lengths().fill_null(0)).astype(np.int64)
    values = _numbers(lists.flatten(), dtype).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bad = as_numpy(lists.is_null())
    elements = as_numpy(lists.flatten().is_null())
    if dtype.kind == "f" and not meaning.nullable:
        elements = elements | ~np.isfinite(values)
    if not meaning.nullable and elements.any():
        owners = np.repeat(np.arange(len(lengths)), lengths)
        bad = bad.copy()
        bad[owners[elements]] = True
    found = [(f"missing or non-finite feature: {meaning.name}", bad)] if bad.any() and not meaning.nullable else []
    long = lengths > model_input.max_length
    if long.any():
        found.append((f"list of more than {model_input.max_length:,} elements: {meaning.name}", long))
    return _Sequence(values, offsets, model_input.pad, model_input.max_length), found
