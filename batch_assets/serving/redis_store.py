"""Redis or Valkey as a store: keys in buckets, so that a key costs no more than its record and itself.

    <prefix>:{<pipeline>}:live            hash: number, root, release (JSON); the pointer
    <prefix>:{<pipeline>}:builds          hash: build -> root and release (JSON); everything that was begun and not dropped
    <prefix>:<pipeline>:<build>:<bucket>  the keys of a bucket; how a key finds its own is said in `serving.buckets`

A bucket of records of at most 64 bytes is a hash, key -> record; keys are text, whole numbers and days (since 1970) in
decimal. A bucket of longer records is one string (`serving.redis.bucket`). A bucket without keys has one with neither name nor
record, so that one that is missing is told from it.
"""

import json
import uuid
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import override

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.ports import extra
from batch_assets.secret import Secret
from batch_assets.serving.buckets import count_of, grouped
from batch_assets.serving.redis.bucket import Bucket
from batch_assets.serving.redis.wire import answers, command, explained
from batch_assets.serving.store import Batch, Batches, Pointer, Release, Store, Table, in_order
from batch_assets.storage import Storage
from batch_assets.storage.port import root_id

if TYPE_CHECKING:
    import redis

BUCKET_KEYS = 64
"""Keys of a bucket, on average. A hash of more than 128 (`hash-max-listpack-entries`) would be three times as large."""

_READ_AT_ONCE = 1_000
"""Buckets that are read back as one batch."""

_NO_KEY = -2
"""What Redis says to TTL of a key that is not there."""

_MOVE = """
local now = redis.call('HMGET', KEYS[1], 'number', 'root')
if now[2] and now[2] ~= ARGV[2] then return -1 end
if now[1] and tonumber(now[1]) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'number', ARGV[1], 'root', ARGV[2], 'release', ARGV[3])
return 1
"""


class Sentinels(BaseModel):
    """Who says which server is the master."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    master: str = Field(description="What they call it.")
    hosts: tuple[str, ...] = Field(description='Where they are, like "10.0.0.7:26379".', min_length=1)


class RedisStore(Store):
    """Releases in Redis or Valkey, of one server, behind Sentinels, or a cluster."""

    kind: Literal["redis"] = "redis"
    keep: int | None = Field(2, description="How many releases it keeps, the live one included.", ge=1)
    host: str = Field("localhost", description="The server, or one node of the cluster.")
    port: int = Field(6379, ge=1, le=65_535)
    db: int = Field(0, description="Its database; a cluster has only 0.", ge=0)
    cluster: bool = Field(False, description="Whether it is a cluster.")
    sentinels: Sentinels | None = Field(None, description="Who says where the master is, instead of `host` and `port`.")
    user: str = Field("", description="Who logs in, where there are users (ACL).")
    password: Secret | None = Field(None, description="The environment variable with the password.")
    tls: bool = Field(False, description="Whether the connection is encrypted; the server's certificate is checked then.")
    ca_file: str | None = Field(None, description="The certificates that are believed, instead of the system's.")
    prefix: str = Field("batch_assets", description="What all names begin with.", pattern=r"^[A-Za-z0-9_.-]+$")
    superseded_s: int = Field(7 * 86_400, description="Seconds after which a release goes that is live no more.", ge=60)
    timeout_s: float = Field(10.0, description="Seconds until a silent server counts as down.", gt=0)
    tuning: ClassVar[frozenset[str]] = Store.tuning | {"user", "password", "tls", "ca_file", "superseded_s", "timeout_s"}

    @model_validator(mode="after")
    def _fits_together(self) -> "RedisStore":
        if self.cluster and (self.sentinels or self.db):
            raise ValueError("a cluster has neither sentinels nor another database than 0")
        return self

    @property
    def where(self) -> str:
        """Which server it is, for messages."""
        return f"Redis at {', '.join(self.sentinels.hosts) if self.sentinels else f'{self.host}:{self.port}'}"

    def client(self) -> "redis.Redis":
        """A connection, made when it is first used. Raises MissingExtra, ConfigError, StoreUnavailable."""
        redis = extra("redis", "redis", "The store redis")
        said: dict[str, Any] = {
            "username": self.user or None,
            "password": self.password.reveal() if self.password else None,
            "ssl": self.tls,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "protocol": 2,  # servers before 6 know no other
            **({"ssl_ca_certs": self.ca_file} if self.ca_file else {}),
        }
        with explained(self.where):
            if self.cluster:
                found = redis.RedisCluster(host=self.host, port=self.port, **said)
            elif self.sentinels:
                pairs = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in self.sentinels.hosts)]
                sentinel = redis.sentinel.Sentinel(pairs, sentinel_kwargs=said)
                found = sentinel.master_for(self.sentinels.master, db=self.db, **said)
            else:
                found = redis.Redis(host=self.host, port=self.port, db=self.db, **said)
        return found  # type: ignore[no-any-return] # the library is imported where it is used

    @override
    def build(self, storage: Storage, release: Release, batches: Batches) -> dict[str, str]:
        built = {"build": uuid.uuid4().hex[:12], "buckets": str(count_of(release.rows, BUCKET_KEYS))}
        release = release.model_copy(update={"built": built})
        with self.client() as client:
            self._require_it_keeps(client)
            begun = json.dumps({"root": root_id(storage), "release": release.model_dump(mode="json")})
            with explained(self.where):
                client.hset(self._builds(release.pipeline), built["build"], begun)
            bucket = Bucket(release)
            groups = grouped(storage, release, in_order(batches), int(built["buckets"]))
            commands = (one for group in groups for one in bucket.written(group, self._stem(release)))
            for _ in answers(client, commands, self.where):
                pass
        return built

    @override
    def scan(self, storage: Storage, release: Release) -> Iterator[Batch]:
        bucket, keys = Bucket(release), self._buckets(release)
        with self.client() as client:
            found = answers(client, (bucket.read(key) for key in keys), self.where)
            for start in range(0, len(keys), _READ_AT_ONCE):
                yield bucket.batch([self._there(release, next(found)) for _ in keys[start : start + _READ_AT_ONCE]])

    @override
    def open(self, storage: Storage, release: Release) -> Table:
        from batch_assets.serving.redis.table import RedisTable

        client = self.client()
        self._require_begun(client, release)
        return RedisTable(client, self, release)

    @override
    def require_there(self, storage: Storage, release: Release) -> None:
        with self.client() as client:
            self._require_begun(client, release)

    @override
    def publish(self, storage: Storage, release: Release, number: int) -> None:
        root = root_id(storage)
        with self.client() as client:
            before = self._pointer(client, release.pipeline)
            if before is not None and before.number > number:
                return
            self._require_it_keeps(client)
            self._require_begun(client, release)
            self._keep(client, release)
            with explained(self.where):
                live = [str(number), root, release.model_dump_json()]
                moved = client.eval(_MOVE, 1, self._live(release.pipeline), *live)
            if moved == -1:
                raise StoreUnavailable(
                    f"{self.where} serves {release.pipeline} from another storage root: give this store another prefix than "
                    f"{self.prefix}."
                )
            if moved and before is not None and before.release.built != release.built:
                seconds = str(self.superseded_s)
                expiring = (command("EXPIRE", key, seconds) for key in self._buckets(before.release))
                for _ in answers(client, expiring, self.where):
                    pass

    @override
    def pointer(self, storage: Storage, pipeline: str) -> Pointer | None:
        with self.client() as client:
            return self._pointer(client, pipeline)

    @override
    def drop(self, storage: Storage, release: Release) -> None:
        with self.client() as client:
            live = self._pointer(client, release.pipeline)
            if live is not None and live.release.built == release.built:
                return
            for _ in answers(client, (command("UNLINK", key) for key in self._buckets(release)), self.where):
                pass
            with explained(self.where):
                client.hdel(self._builds(release.pipeline), release.built["build"])

    @override
    def left_behind(self, storage: Storage, pipeline: str, named: Collection[Release]) -> list[Release]:
        with self.client() as client, explained(self.where):
            begun = [json.loads(one) for one in client.hvals(self._builds(pipeline))]
            live = self._pointer(client, pipeline)
        needed = {one.built["build"] for one in (*named, *([live.release] if live else []))}
        ours = [Release.model_validate(one["release"]) for one in begun if one["root"] == root_id(storage)]
        return [one for one in ours if one.built["build"] not in needed]

    def key_of(self, release: Release, bucket: int) -> str:
        """What a bucket is called."""
        return f"{self._stem(release)}{bucket}"

    def _buckets(self, release: Release) -> list[str]:
        return [self.key_of(release, bucket) for bucket in range(int(release.built["buckets"]))]

    def _stem(self, release: Release) -> str:
        return f"{self.prefix}:{release.pipeline}:{release.built['build']}:"

    def _live(self, pipeline: str) -> str:
        return f"{self.prefix}:{{{pipeline}}}:live"

    def _builds(self, pipeline: str) -> str:
        return f"{self.prefix}:{{{pipeline}}}:builds"

    def _pointer(self, client: "redis.Redis", pipeline: str) -> Pointer | None:
        with explained(self.where):
            number, release = client.hmget(self._live(pipeline), "number", "release")
        try:
            return Pointer(int(number), Release.model_validate_json(release)) if number and release else None
        except ValidationError as error:
            raise ReleaseBroken(f"{self._live(pipeline)} in {self.where} cannot be read: publish again.") from error

    def _require_begun(self, client: "redis.Redis", release: Release) -> None:
        """Raises ReleaseBroken if a release was dropped, or was never there."""
        with explained(self.where):
            there = client.hexists(self._builds(release.pipeline), release.built["build"])
        if not there:
            raise ReleaseBroken(f"Release {release.name} is not in {self.where} any more: publish it again.")

    def _keep(self, client: "redis.Redis", release: Release) -> None:
        """Let a release have no end, if it was superseded. Raises ReleaseBroken if a part of it has gone already."""
        names = self._buckets(release)
        left = list(answers(client, (command("TTL", name) for name in names), self.where))
        ending = [name for name, seconds in zip(names, left, strict=True) if seconds >= 0]
        kept = sum(answers(client, (command("PERSIST", name) for name in ending), self.where))
        if missing := left.count(_NO_KEY) + len(ending) - kept:
            raise ReleaseBroken(
                f"Release {release.name} in {self.where} has lost {missing:,} of {len(names):,} buckets: publish it again."
            )

    def _there(self, release: Release, answer: Any) -> Any:
        if not answer:
            raise ReleaseBroken(f"Release {release.name} in {self.where} has lost a bucket: publish it again.")
        return answer

    def _require_it_keeps(self, client: "redis.Redis") -> None:
        """Raises StoreUnavailable if the server would throw away what is live when its memory is full."""
        with explained(self.where):
            found = client.info("memory")
        nodes = found.values() if self.cluster and "maxmemory_policy" not in found else [found]
        for node in nodes:
            policy = node.get("maxmemory_policy", "noeviction")
            if policy.startswith("allkeys"):
                raise StoreUnavailable(
                    f"{self.where} has the maxmemory-policy {policy}, which throws away what readers need: set noeviction."
                )
