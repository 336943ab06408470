"""Look-ups in Cassandra: one row holds a bucket's records by their keys, and is asked for that of one key, or for all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.buckets import bucket_of, count_of
from batch_assets.serving.cassandra.fields import as_int
from batch_assets.serving.cassandra.maps import Entries
from batch_assets.serving.cassandra.session import Row
from batch_assets.serving.store import Batch, Release, Table
from batch_assets.storage import Storage

if TYPE_CHECKING:
    from batch_assets.serving.cassandra_store import CassandraStore

AT_ONCE = 256
"""Buckets that are written or read together."""

IN_RANGE, IN_LIST, IN_FLIGHT = 64, 16, 4
"""Whole buckets that one request finds, in a range of tokens or in a list, and such requests that are under way together.

For each request the driver takes longer than for the bytes of ten buckets.
"""

CERTAIN = "LOCAL_QUORUM"
"""Whoever reads so sees everything that was written as a store writes."""


class CassandraTable(Table):
    """A release that is open for look-ups."""

    def __init__(self, store: "CassandraStore", release: Release) -> None:
        self._store, self._release = store, release
        self._entries, self._buckets = Entries(release.key_type, release.record), int(release.built["buckets"])
        table = f"{store.keyspace}.{release.built['build']}"
        self._one = f"SELECT records[?] FROM {table} WHERE bucket = ?"
        self._list = f"SELECT bucket, records FROM {table} WHERE bucket IN ?"
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
        missing = set(buckets)
        yield from self._found(self._list, _lists(sorted(missing)), consistency, missing)
        if missing and consistency != CERTAIN:  # a replica does not have them yet, or they are lost
            yield from self.batches(missing, CERTAIN)
        elif missing:
            raise self._missing(min(missing))

    def everything(self) -> Iterator[Batch]:
        """What all buckets hold, in the order of their tokens. Raises ReleaseBroken if one is missing."""
        missing = set(range(self._buckets))
        yield from self._found(self._range, _ranges(self._buckets), CERTAIN, missing)
        if missing:
            raise self._missing(min(missing))

    def _sought(self, keys: Sequence[Any]) -> dict[int, tuple[bytes, int]]:
        """What keys are called there and their buckets, by their places; but for those that a release cannot have."""
        named = ((place, self._entries.key(key)) for place, key in enumerate(keys))
        return {place: (name, bucket_of(keys[place], self._buckets)) for place, name in named if name is not None}

    def _one_by_one(self, sought: Mapping[int, tuple[bytes, int]]) -> dict[int, np.void]:
        session, found = self._store.session(), dict[int, np.void]()
        asked = ([name, as_int(bucket)] for name, bucket in sought.values())
        answers = session.many(self._one, asked, self._store.read_consistency, self._store.concurrency)
        for place, (values, rows) in zip(sought, answers, strict=True):
            certain = rows or session.rows(self._one, values, CERTAIN)
            if not certain:
                raise self._missing(sought[place][1])
            if certain[0][0] is not None:
                found[place] = self._entries.record(certain[0][0])
        return found

    def _together(self, keys: Sequence[Any], sought: Iterable[int], buckets: Iterable[int]) -> dict[int, np.void]:
        places, found = defaultdict[Any, list[int]](list), dict[int, np.void]()
        for place in sought:
            places[keys[place]].append(place)
        for some, records in self.batches(buckets, self._store.read_consistency):
            packed = records.packed()
            for row, key in enumerate(some.to_pylist()):
                found |= dict.fromkeys(places.get(key, ()), packed[row])
        return found

    def _found(self, cql: str, asked: Iterable[Row], consistency: str, missing: set[int]) -> Iterator[Batch]:
        """What is in the rows that are found, each a bucket, which is missing no more."""

        def maps() -> Iterator[bytes]:
            for _, rows in self._store.session().many(cql, asked, consistency, IN_FLIGHT):
                missing.difference_update(int.from_bytes(bucket or b"") for bucket, _ in rows)
                yield from (one or b"" for _, one in rows)

        every = maps()
        while some := list(islice(every, AT_ONCE)):
            yield self._entries.batch(some)

    def _missing(self, bucket: int) -> ReleaseBroken:
        return ReleaseBroken(
            f"Bucket {bucket} of release {self._release.name} is missing in {self._store.where}: publish the partition again."
        )


def _lists(buckets: Sequence[int]) -> Iterator[Row]:
    """Lists of buckets, each at most IN_LIST, as CQL has a list."""
    for at in range(0, len(buckets), IN_LIST):
        some = buckets[at : at + IN_LIST]
        yield [as_int(len(some)) + b"".join(as_int(4) + as_int(one) for one in some)]


def _ranges(buckets: int) -> Iterator[Row]:
    """Ranges of tokens, from one, which is left out, to the next; all of them have all partitions, each about IN_RANGE."""
    count = count_of(buckets, IN_RANGE)
    bounds = [number * ((1 << 64) - 1) // count - (1 << 63) for number in range(count + 1)]
    for first, end in pairwise(bounds):
        yield first.to_bytes(8, "big", signed=True), end.to_bytes(8, "big", signed=True)
