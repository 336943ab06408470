"""Many keys at once: binary search for all of them together, each in its batch, over the memory of one file.

A place is counted in bytes from the beginning of that memory. Where the keys of a batch lie is one place of numbers, and two of
texts: that of their offsets and that of their bytes.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
"""A number for each asked key; shape (asked,)."""


class Asked(Protocol):
    """Keys that are looked for."""

    def batches(self, firsts: Sequence[Any]) -> Ints:
        """The last batch that does not begin after a key, by the batches' first keys; -1 where all do."""

    def compared(self, memory: memoryview, where: Sequence[Ints], rows: Ints) -> Ints:
        """Below zero where the key in a row comes before the asked one, zero where it is that, above zero where it comes after.

        Args:
            memory: of the file.
            where: where the keys of the batch lie.
            rows: which of them.
        """


def find(asked: Asked, memory: memoryview, where: Sequence[Ints], counts: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The row of its batch in which a key would be, and whether it is there; `counts` are the rows of that batch, not zero."""
    low, high = np.zeros_like(counts), counts
    for _ in range(int(counts.max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        before = asked.compared(memory, where, np.minimum(middle, counts - 1)) < 0
        low, high = np.where(before & (low < high), middle + 1, low), np.where(before, high, middle)
    rows = np.minimum(low, counts - 1)
    return rows, asked.compared(memory, where, rows) == 0


def anywhere(memory: memoryview | bytes, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of some type that begin at each place of a memory; shape (places,)."""
    dtype = np.dtype(kind)
    return np.ndarray(len(memory) - dtype.itemsize + 1, dtype, memory, strides=(1,))


class Numbers:
    """Whole numbers; in the file they are of the type `kind`."""

    def __init__(self, values: Ints, kind: npt.DTypeLike) -> None:
        self._values, self._kind = values, np.dtype(kind)

    def batches(self, firsts: Sequence[int]) -> Ints:
        """As `Asked` says."""
        return np.searchsorted(np.array(firsts), self._values, side="right") - 1

    def compared(self, memory: memoryview, where: Sequence[Ints], rows: Ints) -> Ints:
        """As `Asked` says."""
        found = anywhere(memory, self._kind)[where[0] + self._kind.itemsize * rows]
        order: Ints = (found > self._values).astype(np.int64) - (found < self._values)
        return order


class Texts:
    """Bytes, or the UTF-8 bytes of texts."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts, self._memory = texts, b"".join(texts) + bytes(8)
        self._lengths = np.array([len(text) for text in texts])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def batches(self, firsts: Sequence[bytes]) -> Ints:
        """As `Asked` says."""
        return np.array([bisect_right(firsts, text) for text in self._texts]) - 1

    def compared(self, memory: memoryview, where: Sequence[Ints], rows: Ints) -> Ints:
        """As `Asked` says; eight bytes at a time, where all before were the same."""
        offsets = anywhere(memory, "<i4")
        starts, ends = (offsets[where[0] + 4 * row] + where[1] for row in (rows, rows + 1))
        lengths = ends - starts
        order: Ints = lengths - self._lengths  # if one begins with the other, the shorter comes first
        alike, at = np.arange(len(rows)), 0
        while len(alike):
            theirs = _words(memory, starts[alike] + at, lengths[alike] - at)
            asked = _words(self._memory, self._starts[alike] + at, self._lengths[alike] - at)
            differ = theirs != asked
            order[alike[differ]] = np.where(theirs > asked, 1, -1)[differ]
            at += 8
            alike = alike[~differ & (np.minimum(lengths, self._lengths)[alike] > at)]
        return order


def _words(memory: memoryview | bytes, starts: Ints, left: Ints) -> npt.NDArray[np.uint64]:
    """Eight bytes of each text as a number that is ordered as they are; behind the `left` bytes that it has there are zeros."""
    words: npt.NDArray[np.uint64] = anywhere(memory, "<u8")[starts].byteswap()
    spare = (64 - 8 * np.clip(left, 0, 8)).astype(np.uint64)
    return (words >> spare) << spare
