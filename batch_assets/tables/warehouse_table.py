"""`kind: warehouse`: a table of a database, in which one transaction replaces a day from a staging table."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from batch_assets.errors import TableError
from batch_assets.ports import extra
from batch_assets.sources.closed import quoted
from batch_assets.sources.warehouse.address import reason
from batch_assets.sources.warehouse.database import Database
from batch_assets.sources.warehouse.drivers import DRIVERS, Connection
from batch_assets.tables.table import PARTITION, PIPELINE, RELEASE, Day, Rows, Table

if TYPE_CHECKING:
    import pyarrow as pa

_WRITABLE = ("postgresql", "snowflake", "bigquery")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

_LOCKS = {"postgresql": "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE"}
"""So that two who replace a day at once come one after the other; who reads does not wait."""


class WarehouseTable(Database, Table):
    """A table of PostgreSQL, Snowflake or BigQuery, which is made when the first day comes.

    Rows are ingested over ADBC into a staging table of the session, read back there, and take the place of the day's in one
    transaction. BigQuery has no such tables over ADBC: there the next try replaces what a killed one left. Neither Snowflake
    nor BigQuery was run by its tests.

    Example:
        A table that analysts read, without which no day goes live::

            tables:
              - {kind: warehouse, driver: postgresql, uri: {env: WAREHOUSE_URI}, table: scores.churn, required: true}
    """

    kind: Literal["warehouse"] = "warehouse"
    table: str = Field(description="What it is called: table, or schema.table.", pattern=rf"^({_NAME}\.)?{_NAME}$")

    @model_validator(mode="after")
    def _can_be_written(self) -> "WarehouseTable":
        if self.driver not in _WRITABLE:
            raise ValueError(f"no table is written by the driver {self.driver}, only by {', '.join(_WRITABLE)}")
        return self

    @override
    def release(self, day: Day) -> str | None:
        with self._connected("cannot be read") as connection, connection.cursor() as cursor:
            if not self._is_there(connection):
                return None
            cursor.execute(f"SELECT DISTINCT {RELEASE} FROM {self._named} WHERE {self._where(day)}")
            found = [str(row[0]) for row in cursor.fetchall()]
        if len(found) > 1:
            raise TableError(
                f"The table {self.table} has rows of {' and '.join(sorted(found))} for {day.partition}: somebody else writes "
                "into it; delete the day there, and publish it again."
            )
        return found[0] if found else None

    @override
    def replace(self, rows: Rows) -> None:
        staging = f"{self.table.rpartition('.')[2]}_{rows.day.partition:%Y%m%d}_staging"
        with self._connected("cannot be written") as connection:
            self._make(connection, rows)
            with connection.cursor() as cursor:
                cursor.adbc_ingest(staging, rows.reader(), mode="replace", temporary=self._sessions_own)
            rows.require_equal(self._rows(connection, self._quoted(staging), rows.schema.names))
            columns = ", ".join(map(self._quoted, rows.schema.names))
            self._together(
                connection,
                [
                    *([_LOCKS[self.driver].format(self._named)] if self.driver in _LOCKS else []),
                    f"DELETE FROM {self._named} WHERE {self._where(rows.day)}",
                    f"INSERT INTO {self._named} ({columns}) SELECT {columns} FROM {self._quoted(staging)}",
                ],
            )
            if not self._sessions_own:
                self._execute(connection, [f"DROP TABLE {self._quoted(staging)}"])

    @override
    def withdraw(self, day: Day) -> None:
        with self._connected("cannot be written") as connection:
            if self._is_there(connection):
                self._together(connection, [f"DELETE FROM {self._named} WHERE {self._where(day)}"])

    @property
    def _sessions_own(self) -> bool:
        """Whether a staging table goes with its session, as one does that nobody came to drop."""
        return self.driver != "bigquery"

    @property
    def _named(self) -> str:
        return ".".join(map(self._quoted, self.table.split(".")))

    def _quoted(self, name: str) -> str:
        quote = "`" if self.driver == "bigquery" else '"'
        return quote + name.replace(quote, quote * 2) + quote

    def _where(self, day: Day) -> str:
        return f"{PIPELINE} = {quoted(day.pipeline)} AND {self._quoted(PARTITION)} = DATE {quoted(str(day.partition))}"

    @contextmanager
    def _connected(self, what: str) -> Iterator[Connection]:
        """A connection; what its driver raises becomes a sentence without secrets, and neither is it the sentence's cause."""
        extra("adbc_driver_manager.dbapi", "warehouse", "The table warehouse")
        import adbc_driver_manager
        import pyarrow as pa

        driver, (uri, options, secrets) = DRIVERS[self.driver], self.revealed()
        where = driver.where(uri)
        try:
            with closing(driver.connect(uri, options)) as connection:
                yield connection
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            raise TableError(f"The table {self.table} {what} ({where}): {reason(error, secrets, where)}.") from None

    def _is_there(self, connection: Connection) -> bool:
        import adbc_driver_manager

        with connection.cursor() as cursor, suppress(adbc_driver_manager.Error):
            cursor.execute(f"SELECT 1 FROM {self._named} WHERE 1 = 0")
            return True
        return False

    def _make(self, connection: Connection, rows: Rows) -> None:
        """Make the table, unless it is there. Raises TableError if it has other columns."""
        import adbc_driver_manager

        schema, _, table = self.table.rpartition(".")
        if not self._is_there(connection):
            try:
                with connection.cursor() as cursor:
                    cursor.adbc_ingest(table, rows.schema.empty_table(), mode="create", db_schema_name=schema or None)
            except adbc_driver_manager.Error:
                if not self._is_there(connection):  # nobody else has made it in this moment
                    raise
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {self._named} WHERE 1 = 0")
            there = [one[0] for one in cursor.description]
        if missing := [name for name in rows.schema.names if name not in there]:
            raise TableError(
                f"The table {self.table} has no column {' and '.join(missing)}, only {', '.join(there)}: say another table, or "
                "change it."
            )

    def _rows(self, connection: Connection, named: str, names: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(map(self._quoted, names))} FROM {named}")
            yield from cursor.fetch_record_batch()

    def _together(self, connection: Connection, statements: Sequence[str]) -> None:
        """Execute statements in one transaction."""
        if self.driver == "bigquery":
            self._execute(connection, [";\n".join(["BEGIN TRANSACTION", *statements, "COMMIT TRANSACTION"])])
            return
        handle: Any = connection.adbc_connection
        handle.set_autocommit(False)
        self._execute(connection, statements)
        connection.commit()
        handle.set_autocommit(True)

    def _execute(self, connection: Connection, statements: Sequence[str]) -> None:
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
