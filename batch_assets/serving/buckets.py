"""Buckets: keys by a stable hash, for stores that keep many keys together and for consumers who want shards.

The bucket of a key is the first hash of its digest (`batch_assets.digest`: splitmix64 over a whole number or a day as 64 bits,
or over the 8-byte words of a text and then its length) modulo the number of buckets. Whoever reads a store in another language
computes it so; `batch_assets_tests/serving/test_buckets.py` has vectors.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.digest import hash_keys
from batch_assets.records import Records, RecordType
from batch_assets.serving.store import Batch, Batches, Release
from batch_assets.storage import Storage

ROWS_AT_ONCE = 1 << 22
"""Rows that are sorted in memory at once; of more, each part is kept in a file until its turn."""

_SEED, _MASK, _EPOCH = 0x8E9D5AAB4C1F7A35, (1 << 64) - 1, date(1970, 1, 1)


@dataclass(frozen=True)
class Group:
    """Whole buckets from `first` on, in order: rows `starts[n]` to `starts[n + 1]` are those of bucket `first + n`, if any."""

    first: int
    starts: npt.NDArray[np.int64]
    keys: pa.Array
    records: Records


def count_of(rows: int, each: int) -> int:
    """How many buckets there are for so many rows, of about `each`."""
    return max(1, -(-rows // each))


def bucket_of(key: Any, count: int) -> int:
    """The bucket of one key, as a store is given it: an integer, text, a day, or bytes."""
    if isinstance(key, date):
        key = (key - _EPOCH).days
    if isinstance(key, int):
        return _splitmix64((key & _MASK) ^ _SEED) % count
    data = key.encode() if isinstance(key, str) else key
    found = _SEED
    for start in range(0, len(data), 8):
        found = _splitmix64(found ^ int.from_bytes(data[start : start + 8], "little"))
    return _splitmix64(found ^ len(data)) % count


def buckets_of(keys: pa.Array, count: int) -> npt.NDArray[np.int64]:
    """The bucket of each key; shape (rows,)."""
    return (hash_keys(keys).a % np.uint64(count)).astype(np.int64)


def grouped(storage: Storage, release: Release, batches: Batches, count: int) -> Iterator[Group]:
    """A release's rows by their bucket, each bucket once and whole, its keys in ascending order.

    Args:
        storage: lends room for rows that do not fit into memory together.
        release: how many rows there are, and of which types.
        batches: in ascending order of their keys.
        count: the number of buckets.
    """
    parts = count_of(release.rows, ROWS_AT_ONCE)
    if parts == 1:
        yield _group(release.record, _table(release, list(batches)), 0, count, count)
        return
    bounds = np.array([part * count // parts for part in range(parts + 1)])
    with storage.scratch() as folder:
        _spill(folder, release, batches, bounds)
        for part in range(parts):
            path = folder / f"part-{part}.arrow"
            with pa.memory_map(str(path)) as file:
                yield _group(
                    release.record, pa.ipc.open_stream(file).read_all(), int(bounds[part]), int(bounds[part + 1]), count
                )
            path.unlink()


def _spill(folder: Path, release: Release, batches: Batches, bounds: npt.NDArray[np.int64]) -> None:
    """Write rows into a file for each part; bucket b is of part p where bounds[p] <= b < bounds[p + 1]."""
    schema = _table(release, []).schema
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_stream(str(folder / f"part-{part}.arrow"), schema))
            for part in range(len(bounds) - 1)
        ]
        for batch in batches:
            part = np.searchsorted(bounds, buckets_of(batch[0], int(bounds[-1])), side="right") - 1
            order = np.argsort(part, kind="stable")
            ends = np.searchsorted(part[order], np.arange(len(files) + 1))
            table = _table(release, [batch]).take(order)
            for number, file in enumerate(files):
                file.write_table(table.slice(ends[number], ends[number + 1] - ends[number]))


def _group(record: RecordType, table: pa.Table, first: int, end: int, count: int) -> Group:
    """The rows of a table by their bucket, from `first` up to `end`."""
    keys = table.column(0).combine_chunks()
    buckets = buckets_of(keys, count)
    order = np.argsort(buckets, kind="stable")
    starts = np.searchsorted(buckets[order], np.arange(first, end + 1))
    packed = np.ascontiguousarray(np.frombuffer(table.column(1).combine_chunks().buffers()[1], record.dtype, len(keys))[order])
    return Group(first, starts, keys.take(pa.array(order)), record.unpacked(packed))


def _table(release: Release, batches: list[Batch]) -> pa.Table:
    """Rows as a table of keys and packed records."""
    kind = pa.binary(release.record.dtype.itemsize)
    packed = [
        pa.FixedSizeBinaryArray.from_buffers(kind, len(keys), [None, pa.py_buffer(records.packed())])
        for keys, records in batches
    ]
    columns = [pa.chunked_array([keys for keys, _ in batches], release.key_type), pa.chunked_array(packed, kind)]
    return pa.table(columns, names=["key", "record"])


def _splitmix64(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
