"""Look-ups in Cassandra: one row holds a bucket's records by their keys, and is asked for that of one key, or for all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.buckets import bucket_of, count_of
from batch_assets.serving.cassandra.maps import Entries, as_int
from batch_assets.serving.cassandra.session import Row
from batch_assets.serving.store import Batch, Release, Table
from batch_assets.storage import Storage

if TYPE_CHECKING:
    from batch_assets.serving.cassandra_store import CassandraStore

AT_ONCE = 256
"""Buckets that are written or read together."""

IN_RANGE, RANGES_AT_ONCE = 64, 4
"""Buckets that one request for a range of tokens finds, and such requests that are under way together: each is a megabyte."""

CERTAIN = "LOCAL_QUORUM"
"""Whoever reads so sees everything that was written as a store writes."""


class CassandraTable(Table):
    """A release that is open for look-ups."""

    def __init__(self, store: "CassandraStore", release: Release) -> None:
        self._store, self._release = store, release
        self._entries, self._buckets = Entries(release.key_type, release.record), int(release.built["buckets"])
        table = f"{store.keyspace}.{release.built['build']}"
        self._one = f"SELECT records[?] FROM {table} WHERE bucket = ?"
        self._all = f"SELECT records FROM {table} WHERE bucket = ?"
        self._range = f"SELECT bucket, records FROM {table} WHERE token(bucket) > ? AND token(bucket) <= ?"

    @override
    def get(self, key: Any) -> np.void | None:
        return self._one_by_one(self._sought([key])).get(0)

    @override
    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        sought = self._sought(keys)
        buckets = {bucket for _, bucket in sought.values()}
        together = len(sought) > 2 * len(buckets)  # then fewer whole buckets take less time than many records
        found = self._together(keys, sought, buckets) if together else self._one_by_one(sought)
        return [found.get(place) for place in range(len(keys))]

    @override
    def reopen(self, storage: Storage, release: Release) -> Table:
        if release.store.same_place(self._store):
            release = release.model_copy(update={"store": self._store})
        return release.store.open(storage, release)

    @override
    def close(self) -> None:
        """Let go of the connection, which closes when the last store and table that share it are gone."""
        self.__dict__.clear()

    def batches(self, buckets: Iterable[int], consistency: str) -> Iterator[Batch]:
        """What some buckets hold. Raises ReleaseBroken if one is missing."""
        yield from self._read(self._values(self._all, ([as_int(one)] for one in buckets), consistency))

    def everything(self) -> Iterator[Batch]:
        """What all buckets hold, read as they lie, many by each request. Raises ReleaseBroken if one is missing."""
        missing = set(range(self._buckets))

        def maps() -> Iterator[bytes | None]:
            for _, rows in self._store.session().many(self._range, _ranges(self._buckets), CERTAIN, RANGES_AT_ONCE):
                missing.difference_update(int.from_bytes(bucket or b"") for bucket, _ in rows)
                yield from (one for _, one in rows)

        yield from self._read(maps())
        if missing:
            raise self._missing(min(missing))

    def _sought(self, keys: Sequence[Any]) -> dict[int, tuple[bytes, int]]:
        """What keys are called there and their buckets, by their places; but for those that a release cannot have."""
        named = ((place, self._entries.key(key)) for place, key in enumerate(keys))
        return {place: (name, bucket_of(keys[place], self._buckets)) for place, name in named if name is not None}

    def _one_by_one(self, sought: Mapping[int, tuple[bytes, int]]) -> dict[int, np.void]:
        asked = ([name, as_int(bucket)] for name, bucket in sought.values())
        values = self._values(self._one, asked, self._store.read_consistency)
        return {place: self._entries.record(one) for place, one in zip(sought, values, strict=True) if one is not None}

    def _together(self, keys: Sequence[Any], sought: Iterable[int], buckets: Iterable[int]) -> dict[int, np.void]:
        places, found = defaultdict[Any, list[int]](list), dict[int, np.void]()
        for place in sought:
            places[keys[place]].append(place)
        for some, records in self.batches(buckets, self._store.read_consistency):
            packed = records.packed()
            for row, key in enumerate(some.to_pylist()):
                found |= dict.fromkeys(places.get(key, ()), packed[row])
        return found

    def _values(self, cql: str, asked: Iterable[Row], consistency: str) -> Iterator[bytes | None]:
        """The value in the row of each bucket, the last that is asked; a replica that does not have it yet is not believed."""
        session = self._store.session()
        for values, rows in session.many(cql, asked, consistency, self._store.concurrency):
            found = rows or session.rows(cql, values, CERTAIN)
            if not found:
                raise self._missing(int.from_bytes(values[-1] or b""))
            yield found[0][0]

    def _read(self, maps: Iterator[bytes | None]) -> Iterator[Batch]:
        while some := [one or b"" for one in islice(maps, AT_ONCE)]:
            yield self._entries.batch(some)

    def _missing(self, bucket: int) -> ReleaseBroken:
        return ReleaseBroken(
            f"Bucket {bucket} of release {self._release.name} is missing in {self._store.where}: publish the partition again."
        )


def _ranges(buckets: int) -> Iterator[Row]:
    """Ranges of tokens, from one, which is left out, to the next; all of them have all partitions, each about IN_RANGE."""
    count = count_of(buckets, IN_RANGE)
    bounds = [number * ((1 << 64) - 1) // count - (1 << 63) for number in range(count + 1)]
    for first, end in pairwise(bounds):
        yield first.to_bytes(8, "big", signed=True), end.to_bytes(8, "big", signed=True)
