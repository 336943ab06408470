"""Two runs' predictions side by side: a merge join of sorted chunks, so that memory does not grow with the rows."""

from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.arrow import as_numpy
from batch_assets.errors import ConfigError
from batch_assets.features.keys import identity
from batch_assets.records import Records, RecordType
from batch_assets.runs.manifest import Manifest, ManifestFile, read_scored
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

_KEYS = "\0keys"


@dataclass(frozen=True)
class Side:
    """A finished run, the columns of its key, and those fields of its record that are compared."""

    manifest: Manifest
    key: tuple[str, ...]
    record: RecordType


@dataclass(frozen=True)
class Pairs:
    """Some keys that two runs scored, in their order, and both records of each; all have shape (rows,)."""

    keys: pa.Table
    before: Records
    after: Records

    def __len__(self) -> int:
        return len(self.keys)


def paired(storage: Storage, before: Side, after: Side) -> Generator[Pairs]:
    """All keys that two runs scored, a stretch at a time. Only files that their manifests name are read.

    Raises:
        ConfigError: the keys of one are of another kind than those of the other.
        CommitBroken: a file cannot be read.
    """
    with closing(_tables(storage, before)) as old, closing(_tables(storage, after)) as new:
        yield from in_threads(lambda both: _joined(before, after, *both), _stretches(before, after, old, new))


def _tables(storage: Storage, side: Side) -> Generator[pa.Table]:
    """The scored rows of each chunk, in order, with what they are about, `_KEYS`; whole numbers in keys are int64."""

    def table(files: list[ManifestFile]) -> pa.Table:
        found = read_scored(storage, side.manifest, files, side.key, side.record.names).combine_chunks()
        for name in side.key:
            if pa.types.is_integer(found.schema.field(name).type):
                found = found.set_column(found.schema.get_field_index(name), name, found.column(name).cast(pa.int64()))
        return found.append_column(_KEYS, identity(found, side.key))

    return in_threads(table, side.manifest.scored_chunks())


def _stretches(
    before: Side, after: Side, old: Iterator[pa.Table], new: Iterator[pa.Table]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """What both runs say of the same stretch of keys, again and again until one of them ends."""
    one, other = next(old, None), next(new, None)
    if one is not None and other is not None:
        _require_same_keys(before, one, after, other)
    while one is not None and other is not None:
        last = min(one.column(_KEYS)[-1].as_py(), other.column(_KEYS)[-1].as_py())
        ends = [_rows_until(table, last) for table in (one, other)]
        yield one.slice(0, ends[0]), other.slice(0, ends[1])
        one = one.slice(ends[0]) if ends[0] < len(one) else next(old, None)
        other = other.slice(ends[1]) if ends[1] < len(other) else next(new, None)


def _rows_until(table: pa.Table, last: Any) -> int:
    """How many rows have a key up to `last`, included."""
    keys = table.column(_KEYS).chunk(0)
    return bisect_right(range(len(keys)), last, key=lambda row: keys[row].as_py())


def _require_same_keys(before: Side, one: pa.Table, after: Side, other: pa.Table) -> None:
    said = [
        ", ".join(f"{name} ({table.schema.field(name).type})" for name in side.key)
        for side, table in ((before, one), (after, other))
    ]
    if said[0] != said[1]:
        days = before.manifest.partition, after.manifest.partition
        raise ConfigError(
            f"Rows of {before.manifest.pipeline} {days[0]} are about {said[0]}, those of {days[1]} about {said[1]}: compare "
            "two days with the same key."
        )


def _joined(before: Side, after: Side, one: pa.Table, other: pa.Table) -> Pairs:
    """The keys in both tables."""
    ours, theirs = one.column(_KEYS).combine_chunks(), other.column(_KEYS).combine_chunks()
    found = before.record.from_table(one)
    if not ours.equals(theirs):
        places = pc.index_in(theirs, ours)
        found, other = found.take(as_numpy(places.drop_null())), other.filter(places.is_valid()).combine_chunks()
    return Pairs(other.select(list(after.key)), found, after.record.from_table(other))
