"""The Cassandra store: a table for each release, whose rows are buckets, and one table that says which release is live.

A bucket's row is a map from its keys to their records, which are values of a user-defined type, so that people read it in CQL:

    SELECT live, live_buckets FROM batch_assets.releases WHERE pipeline = 'churn' LIMIT 1;
    SELECT records[42].probability FROM batch_assets.churn_20240310_3f9a01c2d4e5 WHERE bucket = 1208;

The bucket is `serving.buckets.bucket_of(42, live_buckets)`. All that is said of a pipeline's releases, and which one is live,
is one partition of `releases`, so that one conditional statement compares all of it.
"""

import uuid
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, model_validator
from typing_extensions import override

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.secret import Secret
from batch_assets.serving.buckets import Group, count_of, grouped
from batch_assets.serving.cassandra.fields import as_int
from batch_assets.serving.cassandra.maps import Entries
from batch_assets.serving.cassandra.registry import Registry, Seen
from batch_assets.serving.cassandra.session import Connection, Row, Session
from batch_assets.serving.cassandra.table import AT_ONCE, CERTAIN, CassandraTable
from batch_assets.serving.store import Batch, Batches, Pointer, Release, Store, Table, in_order
from batch_assets.storage import Storage, root_id

BUCKET_BYTES = 1 << 14
"""About as many a bucket has: to read any of a table, Cassandra reads and unpacks so many at least."""

_ATTEMPTS = 10
"""So often what is live is looked at before a pointer is said not to move."""

_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]


class Tls(BaseModel):
    """How the connection is encrypted; paths are of PEM files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: str | None = Field(None, description="The authorities that are trusted; by default the system's.")
    certificate: str | None = Field(None, description="The client's own certificate, where nodes ask for one.")
    key: str | None = Field(None, description="Its key.")
    check_hostname: bool = Field(True, description="Whether a node's certificate must name the address that is connected to.")


class CassandraStore(Store):
    """Releases in a keyspace of Cassandra 4 and later."""

    kind: Literal["cassandra"] = "cassandra"
    contact_points: tuple[str, ...] = Field(("127.0.0.1",), description="Some nodes; they know the others.", min_length=1)
    port: int = 9042
    protocol_version: Literal[4, 5] = Field(5, description="Of CQL's native protocol; ScyllaDB speaks 4.")
    keyspace: str = Field("batch_assets", description="Where the tables lie.", pattern=r"^[a-z][a-z0-9_]{0,47}$")
    replication: dict[_Word, _Word | int] | None = Field(
        None,
        description="Of a keyspace that is created if there is none: {class: NetworkTopologyStrategy, dc1: 3}; by default not.",
    )
    local_dc: str | None = Field(None, description="The data center that is asked; by default that of a contact point.")
    user: str = Field("", description="Who connects; by default nobody in particular.")
    password: Secret | None = None
    tls: Tls | None = Field(None, description="How the connection is encrypted; by default not at all.")
    write_consistency: Literal["LOCAL_QUORUM", "EACH_QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="Which replicas have a release before it is read back, in the data center or in each."
    )
    read_consistency: Literal["LOCAL_ONE", "LOCAL_QUORUM"] = Field(
        "LOCAL_ONE",
        description="How many replicas are asked for a key. One is enough, as no bucket is ever changed: it has that or lacks "
        "it, and then a quorum is asked.",
    )
    serial_consistency: Literal["SERIAL", "LOCAL_SERIAL"] = Field(
        "SERIAL", description="Whose replicas agree on what is live: of all data centers, or only of the one that publishes."
    )
    concurrency: int = Field(64, description="So many requests are under way at once.", ge=1)
    timeout_s: float = Field(10.0, description="As long an answer is waited for.", gt=0)
    connect_timeout_s: float = Field(5.0, description="As long a node is waited for.", gt=0)
    schema_timeout_s: float = Field(60.0, description="As long the creation or removal of a table is waited for.", gt=0)
    tuning: ClassVar[frozenset[str]] = Store.tuning | {
        *(
            "protocol_version",
            "replication",
            "local_dc",
            "user",
            "password",
            "tls",
            "write_consistency",
            "read_consistency",
            "serial_consistency",
        ),
        *("concurrency", "timeout_s", "connect_timeout_s", "schema_timeout_s"),
    }
    _connection: Connection = PrivateAttr(default_factory=Connection)

    @model_validator(mode="after")
    def _has_both_or_none(self) -> "CassandraStore":
        if bool(self.user) != bool(self.password):
            raise ValueError("a user needs a password, and a password a user")
        return self

    @property
    def where(self) -> str:
        """What it is, for messages."""
        return f"Cassandra at {','.join(self.contact_points)}:{self.port}"

    def session(self) -> Session:
        """The connection of this process, which every copy of these settings shares. Raises StoreUnavailable."""
        return self._connection.session(self)

    @override
    def build(self, storage: Storage, release: Release, batches: Batches) -> dict[str, str]:
        session, entries = self.session(), Entries(release.key_type, release.record)
        count = count_of(release.rows, max(1, BUCKET_BYTES // entries.width))
        built = {"build": _table_name(release), "buckets": str(count)}
        table = f"{self.keyspace}.{built['build']}"
        registry = Registry(session, self.keyspace)
        registry.create()
        registry.begin(release.model_copy(update={"built": built}), root_id(storage))
        session.change(f"CREATE TYPE IF NOT EXISTS {self.keyspace}.{entries.cql_record} ({entries.cql_fields})")
        session.change(
            f"CREATE TABLE {table} (bucket int PRIMARY KEY, records frozen<map<{entries.cql_key}, "
            f"frozen<{entries.cql_record}>>>) WITH comment = 'release {release.name}'"
        )
        rows = _rows(entries, grouped(storage, release, in_order(batches), count))
        insert = f"INSERT INTO {table} (bucket, records) VALUES (?, ?)"
        for _ in session.many(insert, rows, self.write_consistency, self.concurrency):
            pass
        return built

    @override
    def scan(self, storage: Storage, release: Release) -> Iterator[Batch]:
        yield from self._open(release).everything()

    @override
    def open(self, storage: Storage, release: Release) -> Table:
        return self._open(release)

    @override
    def require_there(self, storage: Storage, release: Release) -> None:
        """As the port says: its table is there, and of the buckets the first, the last, and one between."""
        count = int(release.built["buckets"])
        for _ in self._open(release).batches({0, count // 2, count - 1}, CERTAIN):
            pass

    @override
    def publish(self, storage: Storage, release: Release, number: int) -> None:
        self.require_there(storage, release)
        registry, root = Registry(self.session(), self.keyspace), root_id(storage)
        failed = StoreUnavailable(f"Too many publish {release.pipeline} in {self.where} at once: publish again.")
        for _ in range(_ATTEMPTS):
            seen = registry.seen(release.pipeline, self.serial_consistency)
            if seen.live and seen.live.root != root:
                raise StoreUnavailable(
                    f"{self.where} serves {release.pipeline} from another storage root: give the store {self.called} another "
                    "keyspace."
                )
            if seen.live and seen.live.number >= number:
                return
            if (release.built["build"], root, False) not in {(one.build, one.root, one.dropped) for one in seen.tries}:
                raise ReleaseBroken(f"The release {release.name} was dropped from {self.where}: publish the partition again.")
            try:
                registry.move(release, root, seen.live, number)
            except StoreUnavailable as error:  # whether it moved, the next look says
                failed = error
        raise failed

    @override
    def pointer(self, storage: Storage, pipeline: str) -> Pointer | None:
        seen = self._seen(pipeline)
        return Pointer(seen.live.number, self._release(seen.live.release)) if seen and seen.live else None

    @override
    def drop(self, storage: Storage, release: Release) -> None:
        registry, build = Registry(self.session(), self.keyspace), release.built["build"]
        if registry.begin_drop(release.pipeline, build, root_id(storage)):
            self.session().change(f"DROP TABLE IF EXISTS {self.keyspace}.{build}")
            if not self._is_listed(build):  # a node that was killed while it made a table has it only from its next start on
                registry.forget(release.pipeline, build)

    @override
    def left_behind(self, storage: Storage, pipeline: str, named: Collection[Release]) -> list[Release]:
        seen = self._seen(pipeline)
        if seen is None:
            return []
        kept, root = {one.built.get("build") for one in named} | {seen.live and seen.live.build}, root_id(storage)
        return [self._release(one.release) for one in seen.tries if one.root == root and one.build not in kept]

    def _open(self, release: Release) -> CassandraTable:
        """A release's table. Raises ReleaseBroken if it is not there."""
        if not self._is_listed(release.built["build"]):
            raise ReleaseBroken(
                f"The table {self.keyspace}.{release.built['build']} of release {release.name} is not in {self.where}: publish "
                "the partition again."
            )
        return CassandraTable(self, release)

    def _is_listed(self, table: str) -> bool:
        """Whether Cassandra says that it has a table."""
        tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?"
        return bool(self.session().rows(tables, [self.keyspace.encode(), table.encode()], "LOCAL_ONE"))

    def _seen(self, pipeline: str) -> Seen | None:
        """What is there of a pipeline; None if nothing was ever built in this keyspace."""
        try:
            return Registry(self.session(), self.keyspace).seen(pipeline, CERTAIN)
        except ReleaseBroken:
            return None

    def _release(self, said: str) -> Release:
        """A release as it stands in the registry, in this store, by whose settings it was found. Raises ReleaseBroken."""
        try:
            return Release.model_validate_json(said).model_copy(update={"store": self})
        except ValidationError as error:
            raise ReleaseBroken(
                f"A release in {self.keyspace}.releases of {self.where} cannot be read: upgrade batch-assets, or publish again."
            ) from error


def _table_name(release: Release) -> str:
    """A name that no other build has; Cassandra allows 48 letters."""
    return f"{release.pipeline[:26]}_{release.partition.replace('-', '')}_{uuid.uuid4().hex[:12]}"


def _rows(entries: Entries, groups: Iterable[Group]) -> Iterator[Row]:
    """The row of each bucket."""
    for group in groups:
        for at in range(0, len(group.starts) - 1, AT_ONCE):
            starts = group.starts[at : at + AT_ONCE + 1]
            rows = slice(int(starts[0]), int(starts[-1]))
            maps = entries.maps(group.keys[rows], group.records.take(rows), starts - starts[0])
            for bucket, one in enumerate(maps, group.first + at):
                yield as_int(bucket), one
