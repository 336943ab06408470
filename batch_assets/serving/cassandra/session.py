"""A connection to Cassandra on which values are given and taken as the bytes of the protocol, and errors are a sentence.

The driver makes an object of Python's of each value of each row. That costs more than all that Cassandra does, and a NaN may
come out with other bits.
"""

import os
import re
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from batch_assets.errors import MissingExtra, ReleaseBroken, ServingError, StoreUnavailable
from batch_assets.ports import extra

if TYPE_CHECKING:
    from batch_assets.serving.cassandra_store import CassandraStore

Row = Sequence[bytes | None]

_BUFFER = 1 << 16
"""Bytes that go through a socket at once; the driver's 4,096 make four pieces of a bucket."""

_RECONNECT_S = (1.0, 10.0)
"""As long, at first and at last, until a node that is down is tried again; the driver would wait for ten minutes at last."""

_STATEMENTS = 100
"""So many statements are kept prepared; a release has three."""

_AGAIN = 3
"""So often a request that a coordinator did not get done in time is sent again; each of them may be done twice."""


class Connection:
    """The session of a store, made when it is first asked for; a process that was forked makes its own.

    It says nothing of the store, so all are equal; a copy of a store that is sent elsewhere connects again.
    """

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inherited: Session | None = None

    def session(self, store: "CassandraStore") -> "Session":
        """The session. Raises StoreUnavailable."""
        found = self._session
        if found is None or found.pid != os.getpid():
            self._inherited = found  # never closed here: its sockets are those of the process that forked
            found = self._session = Session(store.model_copy(deep=True))  # of the same settings, and no connection
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection)

    def __hash__(self) -> int:
        return hash(Connection)

    def __reduce__(self) -> tuple[type["Connection"], tuple[()]]:
        return Connection, ()


class Session:
    """One connection to a cluster, for all threads of one process; one that nobody refers to any more is closed.

    Every method, and making it, raises StoreUnavailable if the cluster does not answer, or not to this user, or refuses; and
    ReleaseBroken if a table is not there.
    """

    def __init__(self, store: "CassandraStore") -> None:
        self._store, self.pid = store, os.getpid()
        self._driver = _driver()
        self._prepared = dict[str, Any]()
        with self._explained():
            cluster = _cluster(self._driver, store)
            try:
                self._session = cluster.connect()
            except BaseException:
                cluster.shutdown()
                raise
        weakref.finalize(self, _let_go, cluster, self.pid).atexit = False  # the driver itself closes what is left at exit
        self._session.client_protocol_handler = _raw(self._driver)
        self._require_keyspace()

    def rows(self, cql: str, values: Row, consistency: str) -> list[Row]:
        """The rows that a statement answers with."""
        with self._explained():
            return self._rows(self._sent(cql, values, consistency))

    def many(self, cql: str, every: Iterable[Row], consistency: str, at_once: int) -> Iterator[tuple[Row, list[Row]]]:
        """The rows that a statement answers with for each of many values, in their order, with the values.

        While one answer is waited for, others are under way: `at_once` of them together.
        """
        with self._explained():
            ahead = deque[tuple[Row, Any]]()
            for values in every:
                ahead.append((values, self._sent(cql, values, consistency)))
                if len(ahead) >= at_once:
                    done, future = ahead.popleft()
                    yield done, self._rows(future)
            for done, future in ahead:
                yield done, self._rows(future)

    def applied(self, cql: str, values: Row) -> bool:
        """Whether a conditional statement found its conditions fulfilled, and was done. If nobody knows, it is an error."""
        return self.rows(cql, values, self._store.write_consistency)[0][0] == b"\1"

    def change(self, cql: str) -> None:
        """Create or drop something; when it returns, all nodes know."""
        with self._explained():
            future = self._session.execute_async(cql, timeout=self._store.schema_timeout_s)
            future.result()
        if not future.is_schema_agreed:
            raise StoreUnavailable(
                f"{self._store.where} does not agree on its tables: look whether all its nodes are up, and try again."
            )

    def _sent(self, cql: str, values: Row, consistency: str) -> Any:
        prepared = self._prepared.get(cql)
        if prepared is None:
            if len(self._prepared) >= _STATEMENTS:  # most are of tables that are gone
                self._prepared = {}
            prepared = self._prepared[cql] = self._session.prepare(cql)
        bound = self._driver.query.BoundStatement(prepared)
        bound.values = list(values)
        bound.consistency_level = self._driver.ConsistencyLevel.name_to_value[consistency]
        return self._session.execute_async(bound)

    def _rows(self, future: Any) -> list[Row]:
        found: list[Row] = future.result().current_rows
        return found

    def _require_keyspace(self) -> None:
        """Find the keyspace, or create it if the store may. Raises StoreUnavailable."""
        store = self._store
        name = store.keyspace.encode()
        if self.rows("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", [name], "LOCAL_ONE"):
            return
        if store.replication is None:
            raise StoreUnavailable(
                f"{store.where} has no keyspace {store.keyspace}: create it, or give the store {store.called} its replication."
            )
        said = ", ".join(f"'{key}': '{value}'" for key, value in store.replication.items())
        self.change(f"CREATE KEYSPACE IF NOT EXISTS {store.keyspace} WITH replication = {{{said}}}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the driver, in a sentence."""
        driver = self._driver
        known = (driver.DriverException, driver.cluster.NoHostAvailable, driver.connection.ConnectionException)
        try:
            yield
        except (*known, driver.connection.ConnectionBusy, driver.protocol.ErrorMessage) as error:
            raise _said(driver, self._store, error) from error


def _driver() -> Any:
    """The driver with those of its modules that are used here. Raises MissingExtra."""
    driver = extra("cassandra", "cassandra", "The store cassandra")
    try:
        for name in ("auth", "cluster", "connection", "policies", "protocol", "query", "type_codes"):
            extra(f"cassandra.{name}", "cassandra", "The store cassandra")
    except driver.DependencyException as error:  # it is built without libev, and this Python has no asyncore
        raise MissingExtra(
            "The cassandra-driver that is installed has no event loop: install a wheel of it, or build it where libev is."
        ) from error
    return driver


def _cluster(driver: Any, store: "CassandraStore") -> Any:
    """The driver's cluster, not connected yet."""
    policies = driver.policies
    profile = driver.cluster.ExecutionProfile(
        load_balancing_policy=policies.TokenAwarePolicy(policies.DCAwareRoundRobinPolicy(store.local_dc or "")),
        retry_policy=_retries(driver),
        serial_consistency_level=driver.ConsistencyLevel.name_to_value[store.serial_consistency],
        request_timeout=store.timeout_s,
        row_factory=driver.query.tuple_factory,
    )
    user = store.password and driver.auth.PlainTextAuthProvider(store.user, store.password.reveal())
    buffers = {"in_buffer_size": _BUFFER, "out_buffer_size": _BUFFER}
    return driver.cluster.Cluster(
        connection_class=type("Connection", (driver.cluster.Cluster.connection_class,), buffers),
        contact_points=list(store.contact_points),
        port=store.port,
        protocol_version=store.protocol_version,
        auth_provider=user,
        ssl_context=_tls(store),
        connect_timeout=store.connect_timeout_s,
        control_connection_timeout=store.connect_timeout_s,  # else 2 s, whatever was said
        execution_profiles={driver.cluster.EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=policies.ExponentialReconnectionPolicy(*_RECONNECT_S, max_attempts=None),
    )


def _tls(store: "CassandraStore") -> ssl.SSLContext | None:
    if store.tls is None:
        return None
    context = ssl.create_default_context(cafile=store.tls.ca)
    context.check_hostname = store.tls.check_hostname
    if store.tls.certificate:
        context.load_cert_chain(store.tls.certificate, store.tls.key)
    return context


def _retries(driver: Any) -> Any:
    policy: Any = driver.policies.RetryPolicy

    class Retries(policy):  # type: ignore[misc] # the driver has no types
        """What was too late is tried again; the driver would do so only where a write is sure to have been lost."""

        def on_read_timeout(self, _: Any, consistency: Any, retry_num: int, **__: Any) -> Any:
            return (self.RETRY, consistency) if retry_num < _AGAIN else (self.RETHROW, None)

        on_write_timeout = on_read_timeout

    return Retries()


def _raw(driver: Any) -> Any:
    """What reads answers, and leaves values as the bytes that came."""
    read = driver.protocol
    result: Any = read.ResultMessage
    handler: Any = read.ProtocolHandler

    class _Raw(result):  # type: ignore[misc] # the underscore keeps the driver from reading everybody's answers so
        def recv_results_rows(self, f: Any, _: Any, user_type_map: Any, result_metadata: Any, *__: Any) -> None:
            self.recv_results_metadata(f, user_type_map)
            columns = self.column_metadata or result_metadata
            self.column_names, self.column_types = [one[2] for one in columns], [one[3] for one in columns]
            self.parsed_rows = [self.recv_row(f, len(columns)) for _ in range(read.read_int(f))]

        @classmethod
        def read_type(cls, f: Any, _: Any) -> None:
            """Go past a type, of which the driver would make a new class for each answer."""
            code, types = read.read_short(f), driver.type_codes
            if code == types.CUSTOM_TYPE:
                read.read_string(f)
            elif code == types.UserType:
                read.read_string(f), read.read_string(f)
                for _ in range(read.read_short(f)):
                    read.read_string(f), cls.read_type(f, _)
            else:
                inner = {types.ListType: 1, types.SetType: 1, types.MapType: 2}.get(code, 0)
                for _ in range(read.read_short(f) if code == types.TupleType else inner):
                    cls.read_type(f, _)

    class Handler(handler):  # type: ignore[misc]
        message_types_by_opcode: ClassVar[dict[int, Any]] = {**handler.message_types_by_opcode, _Raw.opcode: _Raw}

    return Handler


def _said(driver: Any, store: "CassandraStore", error: Any) -> ServingError:
    """A driver's error for the person who reads it."""
    found = [error, *(error.errors.values() if isinstance(getattr(error, "errors", None), dict) else ())]
    quoted = re.search(r'message="(.*)"', str(error))
    says = quoted[1] if quoted else str(error)
    if any(isinstance(one, driver.AuthenticationFailed) for one in found):
        return StoreUnavailable(f"{store.where} refuses the user {store.user or 'without a name'}: correct user and password.")
    if isinstance(error, driver.Unauthorized):
        return StoreUnavailable(f"{store.where} does not allow it ({says}): grant it to {store.user or 'everybody'}.")
    if re.search(r"does(n't| not) exist|unconfigured table", says):
        return ReleaseBroken(f"{store.where} does not have what a release needs ({says}): publish the partition again.")
    if isinstance(error, driver.RequestValidationException):
        return StoreUnavailable(f"{store.where} refuses it: {says}")
    if isinstance(error, driver.RequestExecutionException):
        return StoreUnavailable(f"{store.where} cannot do it now ({says}): look whether enough nodes are up, and have room.")
    return StoreUnavailable(
        f"{store.where} does not answer ({type(error).__name__}: {says}): start it, or correct contact_points and port of the "
        f"store {store.called}."
    )


def _let_go(cluster: Any, pid: int) -> None:
    """Close a cluster's connections, in a thread of its own: the thread that collects garbage may be one of the cluster's."""
    if os.getpid() == pid:
        threading.Thread(target=cluster.shutdown, name="close-cassandra").start()
