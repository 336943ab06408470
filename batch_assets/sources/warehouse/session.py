"""A transaction of a warehouse that only reads: what it answers is a statement's rows, which stream, or one row."""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from batch_assets.errors import SourceError
from batch_assets.ports import extra
from batch_assets.sources.warehouse.address import reason
from batch_assets.sources.warehouse.database import Revealed
from batch_assets.sources.warehouse.drivers import Connection, Driver
from batch_assets.sources.warehouse.statement import Statement

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Session:
    """An open transaction; `state` names what it sees, `where` is the warehouse, for messages."""

    connection: Connection
    driver: Driver
    day: date
    where: str
    secrets: Collection[str]
    state: str

    def one(self, statement: Statement) -> dict[str, Any]:
        """The one row of a statement, by column. Raises SourceError if it fails, or has not one row."""
        with self.rows(statement) as (_, batches):
            found = [row for batch in batches for row in batch.to_pylist()]
        if len(found) != 1:
            raise SourceError(f"{statement.path} gives {len(found)} rows for {self.day}: it must give one.")
        return dict(found[0])

    @contextmanager
    def rows(self, statement: Statement) -> "Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]":
        """The rows of a statement as they come, within the block. Raises SourceError, also while they come."""
        with self.connection.cursor() as cursor:
            with self._told(statement):
                text = statement.written(self.driver.placeholder)
                cursor.execute(text, self.driver.values(statement, self.day) or None)
                rows = cursor.fetch_record_batch()
            yield rows.schema, self._coming(rows, statement)

    def _coming(self, rows: "pa.RecordBatchReader", statement: Statement) -> "Iterator[pa.RecordBatch]":
        with self._told(statement):
            yield from rows

    def _told(self, statement: Statement) -> AbstractContextManager[None]:
        advice = "correct it, or run the day again if that is no fault of the query"
        return told(f"{statement.path} cannot be computed for {self.day}", self.where, advice, self.secrets)


@contextmanager
def opened(driver: Driver, database: Revealed, day: date, zone: str) -> Iterator[Session]:
    """A transaction of a warehouse, which leaves nothing there when the block ends.

    Args:
        driver: asks it.
        database: where it is.
        day: the partition.
        zone: where a day begins and ends.

    Raises:
        SourceError: there is nobody, or one is not let in.
        MissingExtra: the driver is not installed.
    """
    extra("adbc_driver_manager.dbapi", "warehouse", "The source warehouse")
    uri, options, secrets = database
    where = driver.where(uri)
    with told("The warehouse does not let us in", where, "look at uri and options, and at whether it runs", secrets):
        connection = driver.connect(uri, options)
    try:
        with told("No transaction that only reads can begin", where, "let the account begin one", secrets):
            state = driver.begin(connection, day, zone)
        yield Session(connection, driver, day, where, secrets, state)
    finally:
        connection.close()


@contextmanager
def told(what: str, where: str, advice: str, secrets: Collection[str]) -> Iterator[None]:
    """What a driver raises becomes a sentence without secrets; neither is it the sentence's cause, which is shown with it."""
    import adbc_driver_manager
    import pyarrow as pa

    try:
        yield
    except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
        raise SourceError(f"{what} ({where}): {reason(error, secrets, where)}; {advice}.") from None
