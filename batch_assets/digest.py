"""Order-free digests of keys and of keyed values: what proves that no row is missing, doubled or foreign.

A digest is (count, sum of one 64-bit hash, sum of another), both sums modulo 2**64. Sums do not care about order and can be
merged, so chunks may be written by anybody in any order. The hash is splitmix64 (G. Steele, D. Lea, C. Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014) under two seeds. Integer keys are hashed as int64, so 42 is the
same key in every width; text is hashed over the 8-byte words of its UTF-8 bytes and then its length.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from batch_assets.arrow import as_numpy

UInt64Array = npt.NDArray[np.uint64]

_SEEDS = (np.uint64(0x8E9D5AAB4C1F7A35), np.uint64(0x3C79AC492BA7B653))
_MASK = (1 << 64) - 1

_ROWS_AT_ONCE = 1 << 14
"""Words of so many rows (128 KiB) stay in the processor's cache, and memory for them is not asked of the system each time."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Digest:
    """How many rows, and two sums of hashes modulo 2**64.

    A driver holds one for each row group of a day, tens of thousands: so it is no larger than what it says.
    """

    count: int = 0
    a: int = 0
    b: int = 0

    def __add__(self, other: "Digest") -> "Digest":
        return Digest(count=self.count + other.count, a=(self.a + other.a) & _MASK, b=(self.b + other.b) & _MASK)

    def __sub__(self, other: "Digest") -> "Digest":
        return Digest(count=self.count - other.count, a=(self.a - other.a) & _MASK, b=(self.b - other.b) & _MASK)

    def hex(self) -> str:
        """48 hex digits: the count and both sums."""
        return f"{self.count:016x}{self.a:016x}{self.b:016x}"


class RowHashes(NamedTuple):
    """Two 64-bit hashes per row, each of shape (rows,)."""

    a: UInt64Array
    b: UInt64Array

    def digest(self) -> Digest:
        """The rows' sum."""
        return Digest(count=len(self.a), a=int(self.a.sum(dtype=np.uint64)), b=int(self.b.sum(dtype=np.uint64)))

    def take(self, selection: npt.NDArray[np.bool_]) -> "RowHashes":
        """The hashes of some rows."""
        return RowHashes(self.a[selection], self.b[selection])

    def with_values(self, columns: Sequence[npt.NDArray[Any]]) -> "RowHashes":
        """The hashes of (key, values): the columns' bits are folded in, in this order; every column of shape (rows,)."""
        a, b = self
        for word in _words(columns):
            a, b = _splitmix64(a ^ word), _splitmix64(b ^ word)
        return RowHashes(a, b)


def hash_keys(keys: "pa.Array | pa.ChunkedArray") -> RowHashes:
    """Hash a column of keys without nulls, whole numbers, days, text or bytes; shape (rows,)."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    return RowHashes(*(hash_under(keys, seed) for seed in _SEEDS))


def hash_under(keys: pa.Array, seed: np.uint64) -> UInt64Array:
    """One hash of each key under a seed; shape (rows,)."""
    if pa.types.is_date32(keys.type):
        keys = keys.cast(pa.int32())
    if pa.types.is_integer(keys.type):
        return _splitmix64(as_numpy(keys.cast(pa.int64())).view(np.uint64) ^ seed)
    return _hash_text(keys.cast(pa.large_binary() if pa.types.is_binary(keys.type) else pa.large_string()), seed)


def keyed_digest(keys: pa.Array, columns: Sequence[npt.NDArray[Any]]) -> Digest:
    """The digest of rows by their keys and values, without keeping their hashes; each column of shape (rows,)."""
    found = Digest()
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        found = found + hash_keys(keys[rows]).with_values([column[rows] for column in columns]).digest()
    return found


def key_digest(keys: "pa.Array | pa.ChunkedArray") -> Digest:
    """The digest of a column of keys."""
    return hash_keys(keys).digest()


def _hash_text(texts: "pa.LargeStringArray | pa.LargeBinaryArray", seed: np.uint64) -> UInt64Array:
    _, offset_buffer, byte_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    starts, lengths = offsets[:-1] - offsets[:1], np.diff(offsets)
    data = b"" if byte_buffer is None else memoryview(byte_buffer)[int(offsets[0]) : int(offsets[-1])]
    padded = np.frombuffer(bytes(data) + bytes(8), dtype=np.uint8)
    # A 64-bit word at every byte position, read where a row's n-th word begins.
    words = np.ndarray(shape=(len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    hashes = np.full(len(texts), seed, dtype=np.uint64)
    for first in range(0, int(lengths.max(initial=0)), 8):
        rows = np.flatnonzero(lengths > first)
        word = words[starts[rows] + first]
        spare = np.maximum(8 - (lengths[rows] - first), 0).astype(np.uint64) * np.uint64(8)
        hashes[rows] = _splitmix64(hashes[rows] ^ ((word << spare) >> spare))
    return _splitmix64(hashes ^ lengths.astype(np.uint64))


def bits(column: npt.NDArray[Any]) -> UInt64Array:
    """The bits of each value of a column of shape (rows,): equal where the values are bit for bit the same."""
    column = np.ascontiguousarray(column)
    return column.view(f"u{column.dtype.itemsize}").astype(np.uint64)


def _words(columns: Sequence[npt.NDArray[Any]]) -> Iterator[UInt64Array]:
    """The bits of each row's values side by side, the first in the lowest, in as few words as none of them is cut."""
    word, used = np.empty(0, dtype=np.uint64), 64
    for column in columns:
        width = 8 * column.dtype.itemsize
        if used + width > 64:
            if len(word):
                yield word
            word, used = bits(column), width
        else:
            word |= bits(column) << np.uint64(used)
            used += width
    if len(word):
        yield word


def _splitmix64(x: UInt64Array) -> UInt64Array:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
