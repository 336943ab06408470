"""What is in a bucket of Redis: how its keys and records are written, read back, and asked for.

A hash has one field for each key, its value is the packed record. Records of more than 64 bytes would make a hash large, so
such a bucket is one string: the number of keys (4 bytes), where each key ends (4 bytes each), the keys in ascending order one
after another, and their records. Numbers are little-endian.
"""

import struct
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.buckets import Group
from batch_assets.serving.redis.wire import Command, command, packed
from batch_assets.serving.store import Batch, Release

LARGEST_FIELD = 64
"""Bytes of a value that keep a hash a listpack (`hash-max-listpack-value`)."""

_EPOCH = date(1970, 1, 1)


class Bucket:
    """The buckets of one release."""

    def __init__(self, release: Release) -> None:
        self._name, self._record, self._key_type = release.name, release.record, release.key_type
        self._size = release.record.dtype.itemsize
        self.is_hash = self._size <= LARGEST_FIELD
        self._is_number = pa.types.is_integer(self._key_type) or pa.types.is_date32(self._key_type)

    def written(self, group: Group, stem: str) -> Iterator[Command]:
        """The commands that write the buckets of a group, whose names are `stem` and the bucket."""
        keys = self._as_bytes(group.keys)
        return self._hashes(group, keys, stem) if self.is_hash else self._strings(group, keys, stem)

    def read(self, key: str) -> Command:
        """The command that reads a bucket."""
        return command("HGETALL" if self.is_hash else "GET", key)

    def batch(self, read: Sequence[Any]) -> Batch:
        """The keys and records of buckets that were read. Raises ReleaseBroken if they cannot be."""
        pairs = [self._fields(one) if self.is_hash else self._entries(one) for one in read]
        keys = [key for some, _ in pairs for key in some]
        data = b"".join(record for _, some in pairs for record in some)
        if len(data) != len(keys) * self._size:
            raise ReleaseBroken(f"Release {self._name} has records of other sizes in Redis: publish it again.")
        found = pa.array(keys, pa.binary())
        try:
            typed = found if self._key_type == pa.binary() else self._typed(found.cast(pa.string()))
        except pa.ArrowInvalid as error:
            raise ReleaseBroken(f"Release {self._name} has other keys in Redis ({error}): publish it again.") from error
        return typed, self._record.unpacked(np.frombuffer(data, self._record.dtype))

    def field(self, key: Any) -> bytes:
        """A key as it stands in a bucket."""
        if isinstance(key, date):
            key = (key - _EPOCH).days
        if isinstance(key, int):
            return b"%d" % key
        return key.encode() if isinstance(key, str) else bytes(key)

    def find(self, bucket: bytes, field: bytes) -> bytes | None:
        """A key's record in a bucket that is one string, or None."""
        ends, at, records = self._places(bucket)
        start = 0
        for number, end in enumerate(ends):
            if end - start == len(field) and bucket[at + start : at + end] == field:
                return bucket[records + number * self._size : records + (number + 1) * self._size]
            start = end
        return None

    def _hashes(self, group: Group, keys: pa.Array, stem: str) -> Iterator[Command]:
        """A command for each bucket; Arrow puts the fields and values of all of them together."""
        length = pc.binary_length(keys).cast(pa.string()).cast(pa.large_binary())
        records = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(self._size), len(keys), [None, pa.py_buffer(group.records.packed())]
        ).cast(pa.large_binary())
        middle = b"\r\n$%d\r\n" % self._size
        parts = [b"$", length, b"\r\n", keys, middle, records, b"\r\n"]
        arguments = [pa.scalar(one, pa.large_binary()) if isinstance(one, bytes) else one for one in parts]
        joined = pc.binary_join_element_wise(*arguments, pa.scalar(b"", pa.large_binary()))
        offsets, data = _offsets(joined), memoryview(joined.buffers()[2] or b"")
        starts = group.starts.tolist()
        for number, (start, end) in enumerate(pairwise(starts)):
            name = f"{stem}{group.first + number}"
            if start == end:
                yield command("HSET", name, "", "")
            else:
                fields = data[offsets[start] : offsets[end]]
                yield Command(name, [packed("HSET", name, more=2 * (end - start)), fields])

    def _strings(self, group: Group, keys: pa.Array, stem: str) -> Iterator[Command]:
        offsets, data = _offsets(keys), memoryview(keys.buffers()[2] or b"")
        records = memoryview(group.records.packed().tobytes())
        starts = group.starts.tolist()
        for number, (start, end) in enumerate(pairwise(starts)):
            name = f"{stem}{group.first + number}"
            ends = (offsets[start + 1 : end + 1] - offsets[start]).astype("<u4").tobytes()
            value = b"".join(
                [
                    struct.pack("<I", end - start),
                    ends,
                    data[offsets[start] : offsets[end]],
                    records[start * self._size : end * self._size],
                ]
            )
            yield Command(name, [packed("SET", name, more=1), b"$%d\r\n" % len(value), value, b"\r\n"])

    def _fields(self, found: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Fields and values of a hash; one that has only the empty one has none."""
        if len(found) == 2 and not found[1]:
            return [], []
        return found[::2], found[1::2]

    def _entries(self, found: bytes) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Keys and records of a string."""
        ends, at, records = self._places(found)
        keys = [found[at + start : at + end] for start, end in zip((0, *ends), ends, strict=False)]
        return keys, [found[start : start + self._size] for start in range(records, len(found), self._size)]

    def _places(self, found: bytes) -> tuple[Sequence[int], int, int]:
        """Where the keys of a string end, where the first begins, and where the records begin. Raises ReleaseBroken."""
        try:
            (count,) = struct.unpack_from("<I", found)
            ends = struct.unpack_from(f"<{count}I", found, 4)
        except struct.error:
            count, ends = -1, ()
        at = 4 + 4 * count
        records = at + (ends[-1] if ends else 0)
        if len(found) != records + count * self._size:
            raise ReleaseBroken(f"Release {self._name} has a damaged bucket in Redis: publish it again.")
        return ends, at, records

    def _as_bytes(self, keys: pa.Array) -> pa.Array:
        numbers = keys.cast(pa.int32()) if pa.types.is_date32(keys.type) else keys
        return (numbers.cast(pa.string()) if self._is_number else numbers).cast(pa.large_binary())

    def _typed(self, texts: pa.Array) -> pa.Array:
        if pa.types.is_date32(self._key_type):
            return texts.cast(pa.int32()).cast(pa.date32())
        return texts.cast(self._key_type)


def _offsets(texts: pa.Array) -> Any:
    """Where each of them begins, and the last ends."""
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
