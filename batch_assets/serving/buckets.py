"""Buckets: keys by a stable hash, for stores that keep many keys together and for consumers who want shards.

The bucket of a key is the first hash of its digest (`batch_assets.digest`: splitmix64 over a whole number or a day as 64 bits,
or over the 8-byte words of a text and then its length) modulo the number of buckets. Whoever reads a store in another language
computes it so; `batch_assets_tests/serving/test_buckets.py` has vectors.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.digest import hash_keys
from batch_assets.features.keys import identity
from batch_assets.records import Records
from batch_assets.serving.store import Batches, Release
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


@dataclass(frozen=True)
class Part:
    """Some rows, and whole buckets of them from `first` on.

    Rows `order[starts[n]]` to `order[starts[n + 1]]` of the table are those of bucket `first + n`, in the order of their keys.
    """

    first: int
    starts: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    table: pa.Table


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
    schema = pa.schema([("key", release.key_type), ("record", pa.binary(release.record.dtype.itemsize))])
    tables = (_table(schema, keys, records) for keys, records in batches)
    for part in parted(storage, schema, ["key"], tables, release.rows, count):
        keys, packed = part.table.column(0).combine_chunks(), part.table.column(1).combine_chunks()
        records = np.ascontiguousarray(np.frombuffer(packed.buffers()[1], release.record.dtype, len(keys))[part.order])
        yield Group(part.first, part.starts, keys.take(pa.array(part.order)), release.record.unpacked(records))


def parted(
    storage: Storage, schema: pa.Schema, key: Sequence[str], tables: Iterable[pa.Table], rows: int, count: int
) -> Iterator[Part]:
    """The rows of tables by the bucket of their key, each bucket once and whole.

    Args:
        storage: lends room for rows that do not fit into memory together.
        schema: of the tables.
        key: the columns that are their key.
        tables: in ascending order of their keys.
        rows: how many there are in all of them.
        count: the number of buckets.
    """
    parts = count_of(rows, ROWS_AT_ONCE)
    if parts == 1:
        yield _part(pa.concat_tables([schema.empty_table(), *tables]), key, 0, count, count)
        return
    bounds = np.array([part * count // parts for part in range(parts + 1)])
    with storage.scratch() as folder:
        _spill(folder, schema, key, tables, bounds)
        for part in range(parts):
            path = folder / f"part-{part}.arrow"
            with pa.memory_map(str(path)) as file:
                yield _part(pa.ipc.open_stream(file).read_all(), key, int(bounds[part]), int(bounds[part + 1]), count)
            path.unlink()


def _spill(
    folder: Path, schema: pa.Schema, key: Sequence[str], tables: Iterable[pa.Table], bounds: npt.NDArray[np.int64]
) -> None:
    """Write rows into a file for each part; bucket b is of part p where bounds[p] <= b < bounds[p + 1]."""
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_stream(str(folder / f"part-{part}.arrow"), schema))
            for part in range(len(bounds) - 1)
        ]
        for table in tables:
            part = np.searchsorted(bounds, buckets_of(identity(table, key), int(bounds[-1])), side="right") - 1
            order = np.argsort(part, kind="stable")
            ends = np.searchsorted(part[order], np.arange(len(files) + 1))
            sorted_table = table.take(order)
            for number, file in enumerate(files):
                file.write_table(sorted_table.slice(ends[number], ends[number + 1] - ends[number]))


def _part(table: pa.Table, key: Sequence[str], first: int, end: int, count: int) -> Part:
    """The rows of a table by their bucket, from `first` up to `end`."""
    buckets = buckets_of(identity(table, key), count)
    order = np.argsort(buckets, kind="stable")
    return Part(first, np.searchsorted(buckets[order], np.arange(first, end + 1)), order, table)


def _table(schema: pa.Schema, keys: pa.Array, records: Records) -> pa.Table:
    """Rows as a table of keys and packed records."""
    packed = [None, pa.py_buffer(records.packed())]
    return pa.table([keys, pa.FixedSizeBinaryArray.from_buffers(schema.field(1).type, len(keys), packed)], schema=schema)


def _splitmix64(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
