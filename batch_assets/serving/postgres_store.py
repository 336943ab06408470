"""The PostgreSQL store: a release is a partition of typed columns, and the view `<pipeline>_live` is the one that is live.

What goes live is one more row in a table, so publishing waits for no reader and no reader waits for it: a statement sees one
release, and a transaction that is REPEATABLE READ keeps its own. Whoever may read the table that the releases of a pipeline are
partitions of, or its view, may read the next ones too.
"""

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from batch_assets.ports import extra
from batch_assets.secret import Secret
from batch_assets.serving.postgres.schema import Objects, Schema
from batch_assets.serving.store import Batch, Batches, Pointer, Release, Store, Table
from batch_assets.storage import Storage
from batch_assets.storage.port import root_id

if TYPE_CHECKING:
    import psycopg

    from batch_assets.serving.postgres.connection import Connections

_LOG = logging.getLogger(__name__)


class PostgresStore(Store):
    """A schema of a PostgreSQL database, 14 or newer. What is not said of the server is taken from libpq's environment."""

    kind: Literal["postgres"] = "postgres"
    host: str | None = Field(None, description="The server's host; by default PGHOST, or this machine.")
    port: int | None = Field(None, description="Its port; by default PGPORT, or 5432.", ge=1, le=65535)
    dbname: str | None = Field(None, description="The database; by default PGDATABASE.")
    schema_name: str = Field("batch_assets", description="The schema, which is made if it is not there.", min_length=1)
    user: str | None = Field(None, description="Who writes or reads; by default PGUSER.")
    password: Secret | None = Field(None, description="The password; by default that of PGPASSWORD or the password file.")
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        None, description="How far TLS is required; by default PGSSLMODE."
    )
    sslrootcert: str | None = Field(
        None, description="The file of the authorities that may have signed the server's certificate."
    )
    timeout_s: float = Field(10.0, description="Seconds until the server must have answered a look-up or let us in.", gt=0)
    connections: int = Field(8, description="How many connections a process has for look-ups at most.", ge=1)
    tuning: ClassVar[frozenset[str]] = Store.tuning | {
        "user",
        "password",
        "sslmode",
        "sslrootcert",
        "timeout_s",
        "connections",
    }

    @override
    def build(self, storage: Storage, release: Release, batches: Batches) -> dict[str, str]:
        """As the port says. It is one transaction, but for the row that says that it was begun."""
        with self._connected(f"release {release.name} of {release.pipeline}") as connection:
            from batch_assets.serving.postgres.changes import begin, write

            return write(connection, begin(connection, self._schema, release, root_id(storage)), batches).built

    @override
    def scan(self, storage: Storage, release: Release) -> Iterator[Batch]:
        connections = self._connections(patient=True)
        from batch_assets.serving.postgres.table import scanned

        yield from scanned(connections, self._objects(release))

    @override
    def open(self, storage: Storage, release: Release) -> Table:
        connections = self._shared
        from batch_assets.serving.postgres.table import opened

        return opened(connections, self._objects(release))

    @override
    def require_there(self, storage: Storage, release: Release) -> None:
        connections = self._shared
        from batch_assets.serving.postgres.table import require_whole

        require_whole(connections, self._objects(release))

    @override
    def publish(self, storage: Storage, release: Release, number: int) -> None:
        self.require_there(storage, release)
        with self._connected(f"the view of {release.pipeline}") as connection:
            from batch_assets.serving.postgres.changes import go_live, patiently

            patiently(connection, partial(go_live, connection, self._objects(release), number, root_id(storage)))

    @override
    def pointer(self, storage: Storage, pipeline: str) -> Pointer | None:
        """As the port says; the release is to be read as these settings say, not those of who published it."""
        connections = self._shared
        from batch_assets.serving.postgres.changes import live_build

        live = connections.ask(lambda connection: live_build(connection, self._schema, pipeline), f"what is live of {pipeline}")
        return Pointer(live.number, self._of(live.release)) if live else None

    @override
    def drop(self, storage: Storage, release: Release) -> None:
        """As the port says. It is left, to be found later, while a transaction is open that has read the pipeline's view."""
        with self._connected(f"release {release.name} of {release.pipeline}") as connection:
            from psycopg.errors import LockNotAvailable

            from batch_assets.serving.postgres.changes import is_made, patiently, remove

            try:
                if is_made(connection, self._schema):
                    patiently(connection, partial(remove, connection, self._objects(release)))
            except LockNotAvailable:
                _LOG.warning("The release %s is left in %s: a transaction reads it, or builds it.", release.name, self.where)

    @override
    def left_behind(self, storage: Storage, pipeline: str, named: Collection[Release]) -> list[Release]:
        """As the port says, but for what somebody builds now."""
        needed = [int(one.built["build"]) for one in named if "build" in one.built]
        with self._connected(f"what is left of {pipeline}") as connection:
            from batch_assets.serving.postgres.changes import is_made, left

            found = (
                left(connection, self._schema, pipeline, root_id(storage), needed) if is_made(connection, self._schema) else []
            )
        return [self._of(release) for release in found]

    @property
    def where(self) -> str:
        """The server, for messages."""
        host, port = self.host or os.environ.get("PGHOST", "localhost"), self.port or os.environ.get("PGPORT", "5432")
        return f"PostgreSQL at {host}:{port}"

    @property
    def _schema(self) -> Schema:
        return Schema(self.schema_name)

    def _objects(self, release: Release) -> Objects:
        return Objects(self._schema, release)

    def _of(self, release: Release) -> Release:
        return release.model_copy(update={"store": self})

    def _connect(self, *, patient: bool) -> "psycopg.Connection[Any]":
        from batch_assets.serving.postgres.connection import connect

        said = self.model_dump(include={"host", "port", "dbname", "user", "sslmode", "sslrootcert"}, exclude_none=True)
        if self.password is not None:
            said["password"] = self.password.reveal()
        return connect(said, self.timeout_s, patient=patient)

    def _connections(self, *, patient: bool) -> "Connections":
        extra("psycopg", self.kind, f"The store {self.called}")
        from batch_assets.serving.postgres.connection import Connections

        alike = self.model_copy()  # these settings, which do not refer to the connections that refer to them
        return Connections(partial(alike._connect, patient=patient), self.where, self.connections)

    @cached_property
    def _shared(self) -> "Connections":
        """Connections for what is short; they are not a part of the settings, and go with them."""
        return self._connections(patient=False)

    @override
    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {name: value for name, value in state["__dict__"].items() if name != "_shared"}}

    @contextmanager
    def _connected(self, about: str) -> Iterator["psycopg.Connection[Any]"]:
        """A connection for what takes long; what goes wrong on it is explained."""
        extra("psycopg", self.kind, f"The store {self.called}")
        from batch_assets.serving.postgres.connection import explained

        with explained(self.where, about), self._connect(patient=True) as connection:
            yield connection
