"""PORT: the accepted rows of a day -> one atomic replacement of that day in a table of somebody else's; withdraw."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pydantic import Field

from batch_assets.ports import Adapter, Port

if TYPE_CHECKING:
    import pyarrow as pa

PIPELINE, PARTITION, RELEASE = "pipeline", "partition", "release"
"""Columns that say of every row whose it is: the pipeline, the day (a date), and the release that it was accepted with."""


@dataclass(frozen=True)
class Day:
    """One day of one pipeline, as a table keeps it apart from all others."""

    pipeline: str
    partition: date


@dataclass(frozen=True)
class Rows:
    """The rows that a day is to have: of the release, and none of who was forgotten.

    `batches` gives them as often as it is called, in ascending order of their keys, in plain Arrow types (no dictionaries).
    `require_equal` raises TableError unless what it is given is, in whatever order, what the run's manifest says.
    """

    day: Day
    release: str
    count: int
    schema: "pa.Schema"
    batches: "Callable[[], Iterator[pa.RecordBatch]]"
    require_equal: "Callable[[Iterable[pa.RecordBatch]], None]"

    def reader(self) -> "pa.RecordBatchReader":
        """The rows, once."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, self.batches())


class Table(Adapter):
    """A table that gets every accepted day. The fields of an adapter are what the YAML says under `tables`.

    Every row has the columns of the predictions files and `pipeline`, `partition` and `release`. Several pipelines whose rows
    have the same columns may share a table.

    Example:
        Replace a day, and take it out again::

            table = DeltaTable(path="/lake/predictions")
            table.replace(rows)
            assert table.release(rows.day) == rows.release
            table.withdraw(rows.day)
    """

    name: str | None = Field(None, description="What messages call it; by default its kind.", pattern=r"^[a-z][a-z0-9_]*$")
    required: bool = Field(False, description="Whether a day goes live only when it is in this table; else it may follow.")

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.name or self.kind

    @abstractmethod
    def release(self, day: Day) -> str | None:
        """The release that a day has now; None if the day, or the table, is not there.

        Raises:
            TableError: it cannot be asked, or the day's rows are of several releases.
        """

    @abstractmethod
    def replace(self, rows: Rows) -> None:
        """Let a day have these rows and no others: readers see what was there or all of this, and other days as they were.

        What was written is read back and given to `rows.require_equal`: before readers see it where the back end permits, at
        the latest right after. A table that is not there is made. Doing it twice is doing it once.

        Raises:
            TableError: it cannot be written, has other columns, or holds something else than was written.
        """

    @abstractmethod
    def withdraw(self, day: Day) -> None:
        """Take a day out, at once; a day that is not there is out already. Raises TableError."""


TABLES: Port[Table] = Port(
    "table",
    "batch_assets.tables",
    {
        "delta": "batch_assets.tables.delta_table:DeltaTable",
        "warehouse": "batch_assets.tables.warehouse_table:WarehouseTable",
    },
)
"""Every kind of table; a package adds one by an entry point in this group."""
