"""Look-ups in Redis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.buckets import bucket_of
from batch_assets.serving.redis.bucket import Bucket
from batch_assets.serving.redis.wire import explained
from batch_assets.serving.store import Release, Table
from batch_assets.storage import Storage

if TYPE_CHECKING:
    import redis

    from batch_assets.serving.redis_store import RedisStore


class RedisTable(Table):
    """A release in Redis; the client's connections are shared by threads, and a process that was forked makes its own."""

    def __init__(self, client: "redis.Redis", store: "RedisStore", release: Release) -> None:
        self._client: Any = client  # its types know of no raw commands
        self._store, self._release, self._bucket = store, release, Bucket(release)
        self._count, self._dtype = int(release.built["buckets"]), release.record.dtype

    @override
    def get(self, key: Any) -> np.void | None:
        return self.get_many([key])[0]

    @override
    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        if not keys:
            return []
        named = [self._store.key_of(self._release, bucket_of(key, self._count)) for key in keys]
        fields = [self._bucket.field(key) for key in keys]
        found = self._asked("HGET" if self._bucket.is_hash else "GET", named, fields)
        if self._bucket.is_hash:
            self._require({name for name, record in zip(named, found, strict=True) if record is None})
        elif None in found:
            raise self._lost()
        else:
            found = [self._bucket.find(one, field) for one, field in zip(found, fields, strict=True)]
        return [np.frombuffer(record, self._dtype)[0] if record else None for record in found]

    @override
    def reopen(self, storage: Storage, release: Release) -> Table:
        if release.store != self._store:
            return super().reopen(storage, release)
        self._store.require_there(storage, release)
        return RedisTable(self._client, self._store, release)

    @override
    def close(self) -> None:
        """Nothing: the client lets go of its connections when nobody refers to it, as other tables may share it."""

    def _asked(self, verb: str, named: Sequence[str], fields: Sequence[bytes]) -> list[Any]:
        with explained(self._store.where):
            if len(named) == 1:
                return [self._client.execute_command(verb, named[0], *(fields if verb == "HGET" else ()))]
            with self._client.pipeline(transaction=False) as line:
                for name, field in zip(named, fields, strict=True):
                    line.execute_command(verb, name, *((field,) if verb == "HGET" else ()))
                found: list[Any] = line.execute()
                return found

    def _require(self, buckets: set[str]) -> None:
        """Raises ReleaseBroken if one of them is missing: then nobody knows whether its keys have a prediction."""
        if buckets and not all(self._asked("EXISTS", list(buckets), [b""] * len(buckets))):
            raise self._lost()

    def _lost(self) -> ReleaseBroken:
        where, name = self._store.where, self._release.name
        return ReleaseBroken(f"Release {name} in {where} has lost a bucket: publish it again.")
