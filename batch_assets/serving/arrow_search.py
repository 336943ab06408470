"""Many keys at once: binary search for all of them together, each in its batch, over the memory of one file.

Keys are looked for in ascending order, so that neighbours meet in the processor's cache. A place is counted in bytes from the
beginning of the memory; Arrow begins every column at a multiple of eight.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
"""A number for each asked key; shape (asked,)."""

Compared = Callable[[Ints], Ints]
"""From a row for each asked key: below zero where the key in it comes before the asked one, zero where it is the same."""


class Asked(Protocol):
    """Keys that are looked for, in ascending order; `order` is where each of them stood before."""

    order: Ints

    def batches(self, firsts: Sequence[Any]) -> Ints:
        """The last batch that does not begin after a key, by the batches' first keys; -1 where all do."""

    def among(self, memory: pa.Buffer, places: Sequence[Ints]) -> Compared:
        """Compares with the keys of their batches: numbers at a place, or texts at that of their offsets and that of bytes."""


def find(compared: Compared, counts: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The last row (or the first) that does not come after the asked key, of `counts` rows, and whether it is that key."""
    rows, last = np.zeros_like(counts), counts - 1
    for power in reversed(range(int(last.max(initial=0)).bit_length())):
        further = np.minimum(rows + (1 << power), last)
        rows = np.where(compared(further) <= 0, further, rows)
    return rows, compared(rows) == 0


def column_of(memory: pa.Buffer, kind: npt.DTypeLike, places: Ints) -> Callable[[Ints], npt.NDArray[Any]]:
    """From a row for each asked key what stands in it, in columns with values of a type that lie at some places."""
    dtype = np.dtype(kind)
    if 8 % dtype.itemsize:
        return lambda rows: anywhere(memory, dtype)[places + dtype.itemsize * rows]
    column, starts = np.frombuffer(memory, dtype, memory.size // dtype.itemsize), places // dtype.itemsize
    return lambda rows: column[starts + rows]


def anywhere(memory: pa.Buffer, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of a type that begin at each place of a memory; shape (places,)."""
    return np.ndarray(len(memory) - np.dtype(dtype).itemsize + 1, dtype, memory, strides=(1,))


class Numbers:
    """Whole numbers; in the file they are of the type `kind`."""

    def __init__(self, asked: Ints, kind: npt.DTypeLike) -> None:
        self.order: Ints = np.argsort(asked)
        self._asked, self._kind = asked[self.order], kind

    def batches(self, firsts: Sequence[int]) -> Ints:
        """As `Asked` says."""
        return np.searchsorted(np.array(firsts), self._asked, side="right") - 1

    def among(self, memory: pa.Buffer, places: Sequence[Ints]) -> Compared:
        """As `Asked` says."""
        column = column_of(memory, self._kind, places[0])

        def compared(rows: Ints) -> Ints:
            found = column(rows)
            return np.subtract(found > self._asked, found < self._asked, dtype=np.int64)

        return compared


class Texts:
    """Bytes, or the UTF-8 bytes of texts."""

    def __init__(self, asked: Sequence[bytes]) -> None:
        self.order = np.array(sorted(range(len(asked)), key=asked.__getitem__))
        self._asked = [asked[place] for place in self.order.tolist()]
        self._memory = pa.py_buffer(b"".join(self._asked) + bytes(8))
        self._lengths = np.array([len(one) for one in self._asked])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def batches(self, firsts: Sequence[bytes]) -> Ints:
        """As `Asked` says."""
        return np.array([bisect_right(firsts, one) for one in self._asked]) - 1

    def among(self, memory: pa.Buffer, places: Sequence[Ints]) -> Compared:
        """As `Asked` says; eight bytes at a time, where all before were the same."""
        offsets = column_of(memory, "<i4", places[0])

        def compared(rows: Ints) -> Ints:
            starts = offsets(rows) + places[1]
            lengths = offsets(rows + 1) + places[1] - starts
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

        return compared


def _words(memory: pa.Buffer, starts: Ints, left: Ints) -> npt.NDArray[np.uint64]:
    """Eight bytes of each text as a number that is ordered as they are; behind the `left` bytes that it has there are zeros."""
    words: npt.NDArray[np.uint64] = anywhere(memory, "<u8")[starts].byteswap()
    spare = (64 - 8 * np.clip(left, 0, 8)).astype(np.uint64)
    return (words >> spare) << spare
