"""Look-ups in Cassandra: one row holds a bucket's records by their keys, and is asked for that of one key, or for all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.buckets import bucket_of
from batch_assets.serving.cassandra_maps import Entries, as_int
from batch_assets.serving.cassandra_session import Row
from batch_assets.serving.store import Batch, Release, Table
from batch_assets.storage import Storage

if TYPE_CHECKING:
    from batch_assets.serving.cassandra_store import CassandraStore

AT_ONCE = 256
"""Buckets that are written or read together."""

CERTAIN = "LOCAL_QUORUM"
"""Whoever reads so sees everything that was written as a store writes."""


class CassandraTable(Table):
    """A release that is open for look-ups."""

    def __init__(self, store: "CassandraStore", release: Release) -> None:
        self._store, self._release = store, release
        self._entries, self._buckets = Entries(release.key_type, release.record), int(release.built["buckets"])
        self._one = f"SELECT records[?] FROM {store.keyspace}.{release.built['build']} WHERE bucket = ?"
        self._all = f"SELECT records FROM {store.keyspace}.{release.built['build']} WHERE bucket = ?"

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
        maps = self._values(self._all, ([as_int(one)] for one in buckets), consistency)
        while some := [one or b"" for one in islice(maps, AT_ONCE)]:
            yield self._entries.batch(some)

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
        for values, rows in session.many(cql, asked, consistency):
            found = rows or session.rows(cql, values, CERTAIN)
            if not found:
                raise ReleaseBroken(
                    f"Bucket {int.from_bytes(values[-1] or b'')} of release {self._release.name} is missing in "
                    f"{self._store.where}: publish the partition again."
                )
            yield found[0][0]
