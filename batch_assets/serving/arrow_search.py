"""Many keys at once: binary search for all of them together, each in its batch, over the memory of one file.

A place is counted in bytes from the beginning of the memory; Arrow begins every column at a multiple of eight.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
"""A number for each asked key; shape (asked,)."""

UInt64Array = npt.NDArray[np.uint64]

Compared = Callable[[Ints], Ints]
"""From a row for each asked key: below zero where the key in it comes before the asked one, zero where it is the same."""

APART = 512
"""Rows between the keys of a batch that are kept in memory."""

NEAR = 16
"""Rows between those of which the first bytes are kept, if they are text."""


class Rows(NamedTuple):
    """A batch that was compared.

    `signposts` are some of its keys in a list, which is searched faster than `keys` are; `fields` are the bits of each field;
    `places` say where in the file keys and fields lie, in bytes; `heads` are of keys that are text.
    """

    rows: int
    signposts: Sequence[Any]
    keys: Sequence[Any]
    fields: Sequence[Any]
    places: Sequence[int]
    heads: "Heads | None"


class Search(NamedTuple):
    """Where each asked key must be, if it is there: among `counts` rows from `starts` on."""

    compared: Compared
    starts: Ints
    counts: Ints


class Asked(Protocol):
    """Keys that are looked for, ordered by the batches in which they must be; `order` is where each of them stood before.

    A batch is the last one that does not begin after a key, -1 where all do.
    """

    order: Ints
    batches: Ints

    def among(self, memory: pa.Buffer, batches: Sequence[Rows], each: Ints) -> Search:
        """The search in these batches, in each of which so many of the keys must be."""


def find(search: Search) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The last of its rows (or the first) that does not come after the asked key, and whether it is that key."""
    rows, last = search.starts, search.starts + search.counts - 1
    for power in reversed(range(int(search.counts.max(initial=1) - 1).bit_length())):
        further = np.minimum(rows + (1 << power), last)
        rows = np.where(search.compared(further) <= 0, further, rows)
    return rows, search.compared(rows) == 0


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
    """Whole numbers; in the file they are of the type `kind`. In ascending order neighbours meet in the processor's cache."""

    def __init__(self, asked: Ints, firsts: Sequence[Any], kind: npt.DTypeLike) -> None:
        self.order: Ints = np.argsort(asked)
        self._asked, self._kind = asked[self.order], kind
        self.batches: Ints = np.searchsorted(np.array(firsts), self._asked, side="right") - 1

    def among(self, memory: pa.Buffer, batches: Sequence[Rows], each: Ints) -> Search:
        """As `Asked` says."""
        counts, places = np.repeat([[one.rows, one.places[0]] for one in batches], each, axis=0).T
        column = column_of(memory, self._kind, places)

        def compared(rows: Ints) -> Ints:
            found = column(rows)
            return np.subtract(found > self._asked, found < self._asked, dtype=np.int64)

        return Search(compared, np.zeros_like(counts), counts)


class Texts:
    """Bytes, or the UTF-8 bytes of texts."""

    def __init__(self, asked: Sequence[bytes], firsts: Sequence[bytes]) -> None:
        self._memory, starts, lengths = _joined(asked)
        mine, known = _words(self._memory, starts, lengths), _words(*_joined(firsts))
        batches = np.searchsorted(known, mine, side="right") - 1
        for place in np.flatnonzero(known[batches] == mine).tolist():  # eight bytes do not say it
            batches[place] = bisect_right(firsts, asked[place]) - 1
        self.order: Ints = np.argsort(batches, kind="stable")
        self.batches: Ints = batches[self.order]
        self._starts, self._lengths = starts[self.order], lengths[self.order]

    def among(self, memory: pa.Buffer, batches: Sequence[Rows], each: Ints) -> Search:
        """As `Asked` says. Who does not begin as all texts of a batch do is not there, wherever it is looked for."""
        texts = [(one, one.heads) for one in batches if one.heads]
        offsets, data, shared = np.repeat([[*one.places[:2], heads.shared] for one, heads in texts], each, axis=0).T
        mine = _words(self._memory, self._starts + np.minimum(shared, self._lengths), self._lengths - shared)
        column = column_of(memory, "<i4", offsets)

        def compared(rows: Ints) -> Ints:
            starts, ends = column(rows), column(rows + 1)
            theirs = _words(memory, data + starts + shared, ends - starts - shared)
            order = np.subtract(theirs > mine, theirs < mine, dtype=np.int64)
            alike = np.flatnonzero(order == 0)
            if len(alike):
                order[alike] = self._all_bytes(alike, memory, (data + starts)[alike], (ends - starts)[alike])
            return order

        spans = zip(texts, np.split(mine, np.cumsum(each)[:-1]), strict=True)
        starts, ends = np.concatenate([heads.rows(some, one.rows) for (one, heads), some in spans], axis=1)
        return Search(compared, starts, ends - starts)

    def _all_bytes(self, asked: Ints, memory: pa.Buffer, starts: Ints, lengths: Ints) -> Ints:
        """Compares texts, that lie in a memory, with some of the asked ones, eight bytes at a time."""
        own_starts, own_lengths = self._starts[asked], self._lengths[asked]
        order: Ints = lengths - own_lengths  # if one begins with the other, the shorter comes first
        alike, at = np.arange(len(asked)), 0
        while len(alike):
            theirs = _words(memory, starts[alike] + at, lengths[alike] - at)
            mine = _words(self._memory, own_starts[alike] + at, own_lengths[alike] - at)
            differ = theirs != mine
            order[alike[differ]] = np.where(theirs > mine, 1, -1)[differ]
            at += 8
            alike = alike[~differ & (np.minimum(lengths, own_lengths)[alike] > at)]
        return order


class Heads:
    """Of a batch of texts how many bytes all of them begin with, and a word of some: the eight bytes behind these."""

    def __init__(self, memory: pa.Buffer, offsets: npt.NDArray[np.int32], data: int, first: bytes, last: bytes) -> None:
        """Read them where they lie.

        Args:
            memory: that of the file.
            offsets: where each text of the batch begins, and where the last one ends, from `data` on.
            data: where their bytes lie.
            first: its first text.
            last: its last text.
        """
        differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
        self.shared = next(differ, min(len(first), len(last)))
        starts, ends = offsets[:-1:NEAR].astype(np.int64), offsets[1::NEAR]
        self._words = _words(memory, data + starts + self.shared, ends - starts - self.shared)

    def rows(self, words: UInt64Array, rows: int) -> npt.NDArray[np.int64]:
        """From which row on and up to which one texts with these words must be, of so many; shape (2, words)."""
        first = np.searchsorted(self._words, words)
        after = first.copy()
        if len(same := np.flatnonzero(self._words[np.minimum(first, len(self._words) - 1)] == words)):
            after[same] = np.searchsorted(self._words, words[same], side="right")
        return np.array([NEAR * np.maximum(first - 1, 0), np.minimum(NEAR * np.maximum(after, 1), rows)])


_MASKS = np.array([((1 << 64) - 1) ^ ((1 << (64 - 8 * left)) - 1) for left in range(9)], dtype=np.uint64)
"""What is kept of a word by how many bytes of it belong to a text."""


def _joined(texts: Sequence[bytes]) -> tuple[pa.Buffer, Ints, Ints]:
    """Some texts in one memory, which words may be read from; where each begins, and its bytes."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return pa.py_buffer(b"".join(texts) + bytes(8)), np.cumsum(lengths) - lengths, lengths


def _words(memory: pa.Buffer, starts: Ints, left: Ints) -> UInt64Array:
    """Eight bytes of each text as a number that is ordered as they are; behind the `left` bytes that it has there are zeros."""
    words: UInt64Array = anywhere(memory, "<u8")[starts].byteswap(inplace=True)
    words &= _MASKS[np.minimum(np.maximum(left, 0), 8)]
    return words
