"""What is particular to each ADBC driver: how it connects, how a transaction that only reads begins, how a day is bound."""

import importlib
from collections.abc import Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from typing_extensions import override

from batch_assets.errors import MissingExtra, SourceError
from batch_assets.sources.closed import quoted
from batch_assets.sources.warehouse.address import shown
from batch_assets.sources.warehouse.statement import Statement

DriverName = Literal["postgresql", "sqlite", "duckdb", "snowflake", "bigquery", "flightsql"]

Connection = Any
"""A `adbc_driver_manager.dbapi.Connection`."""


class Driver:
    """A driver of which nothing is known but that it binds values at question marks.

    Each statement of it is a view of its own, and what its account may do is for the warehouse to say.
    """

    placeholder: ClassVar[str] = "?"
    typed: ClassVar[bool] = True
    needs_uri: ClassVar[bool] = True
    is_file: ClassVar[bool] = False

    def __init__(self, name: DriverName) -> None:
        self.name, self.module = name, f"adbc_driver_{name}"

    def where(self, uri: str) -> str:
        """The database for people, without secrets."""
        return f"{self.name}:{uri}" if self.is_file else shown(self.name, uri)

    def connect(self, uri: str, options: Mapping[str, str]) -> Connection:
        """Connect; each statement is committed by itself. A file is opened to be read only.

        Raises:
            MissingExtra: the driver is not installed.
            SourceError: there is no such file.
            adbc_driver_manager.Error: one is not let in.
        """
        return self._library(".dbapi").connect(uri or None, db_kwargs=dict(options), autocommit=True)

    def begin(self, connection: Connection, day: date, zone: str) -> str:  # noqa: ARG002
        """Begin to read; what one day is, is said by a time zone. The name of the state that is read, if it has one."""
        return ""

    def values(self, statement: Statement, day: date) -> tuple[object, ...]:
        """What is bound in a statement."""
        return (day,) * statement.days

    def _library(self, part: str = "") -> Any:
        if find_spec(self.module) is None:
            package = self.module.replace("_", "-")
            raise MissingExtra(f"The source warehouse needs {self.module}, which is not installed: pip install {package}.")
        return importlib.import_module(self.module + part)


class Postgresql(Driver):
    """PostgreSQL, 13 or newer.

    The driver streams what COPY gives, and COPY binds no values: of a statement with a `$1` the whole answer is in memory. So
    the day is bound where it is made a setting of the transaction, which the statement reads.
    """

    placeholder = "(current_setting('batch_assets.partition')::date)"

    @override
    def begin(self, connection: Connection, day: date, zone: str) -> str:
        """One snapshot for all statements, read only; nothing of the client's environment or the role says how days look."""
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.adbc_connection.set_autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('batch_assets.partition', $1, true), set_config('TimeZone', $2, true), "
                "set_config('DateStyle', 'ISO, YMD', true), pg_current_snapshot()::text, "
                "current_setting('transaction_isolation'), current_setting('transaction_read_only')",
                (day.isoformat(), zone),
            )
            (*_, snapshot, isolation, only_reads) = cursor.fetchone()
        if (isolation, only_reads) != ("repeatable read", "on"):
            raise SourceError(
                f"{self.name} gives every transaction another session, so that none can be made to only read; let uri lead to "
                "the server itself, or to a pooler that keeps sessions."
            )
        return f"snapshot {snapshot}"

    @override
    def values(self, statement: Statement, day: date) -> tuple[object, ...]:
        return ()


class Sqlite(Driver):
    """A file of SQLite, which knows no days (they are texts, like 2026-01-31) and does not say of what types columns are."""

    placeholder = "?1"
    typed = False
    is_file = True

    @override
    def connect(self, uri: str, options: Mapping[str, str]) -> Connection:
        if options:
            raise SourceError(f"The driver sqlite takes no options, and these are said: {', '.join(options)}; leave them out.")
        library, path = self._library(".dbapi"), _existing(uri)
        return library.connect(f"file:{quote(str(path))}?mode=ro", autocommit=True)

    @override
    def begin(self, connection: Connection, day: date, zone: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = 1")
        connection.adbc_connection.set_autocommit(False)
        return ""

    @override
    def values(self, statement: Statement, day: date) -> tuple[object, ...]:
        return (day.isoformat(),)


class Duckdb(Driver):
    """A file of DuckDB, which is opened for reading only."""

    placeholder = "$partition"
    is_file = True

    @override
    def connect(self, uri: str, options: Mapping[str, str]) -> Connection:
        import adbc_driver_manager
        from adbc_driver_manager import dbapi

        said = {**options, "path": str(_existing(uri)), "access_mode": "READ_ONLY"}
        database = adbc_driver_manager.AdbcDatabase(driver=self._library().driver_path(), entrypoint="duckdb_adbc_init", **said)
        return dbapi.Connection(database, adbc_driver_manager.AdbcConnection(database), autocommit=True)

    @override
    def begin(self, connection: Connection, day: date, zone: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute(f"SET TimeZone = {quoted(zone)}")
        connection.adbc_connection.set_autocommit(False)
        return ""

    @override
    def values(self, statement: Statement, day: date) -> tuple[object, ...]:
        return (day,)


def _existing(uri: str) -> Path:
    """The file of a database, which a driver would make if it were not there. Raises SourceError."""
    path = Path(uri).absolute()
    if not path.is_file():
        raise SourceError(f"There is no file {uri}: say in uri where the database is.")
    return path


class Snowflake(Driver):
    """Snowflake."""

    needs_uri = False

    @override
    def begin(self, connection: Connection, day: date, zone: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SESSION SET TIMEZONE = {quoted(zone)}")
        return ""


class Bigquery(Driver):
    """BigQuery, whose driver takes options and no address. Its days are those of UTC, unless the query says a time zone."""

    needs_uri = False

    @override
    def connect(self, uri: str, options: Mapping[str, str]) -> Connection:
        address = {"uri": uri} if uri else {}
        return self._library(".dbapi").connect(db_kwargs={**address, **options}, autocommit=True)


DRIVERS: Mapping[str, Driver] = MappingProxyType(
    {
        "postgresql": Postgresql("postgresql"),
        "sqlite": Sqlite("sqlite"),
        "duckdb": Duckdb("duckdb"),
        "snowflake": Snowflake("snowflake"),
        "bigquery": Bigquery("bigquery"),
        "flightsql": Driver("flightsql"),
    }
)
"""Every driver, by its name in the YAML."""
