"""`kind: warehouse`: the rows of one query that a database answers over ADBC, as of a partition's day."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceTable
from batch_assets.sources.lineage import Lineage, lineage_of
from batch_assets.sources.streamed import Streamed, StreamedSource
from batch_assets.sources.warehouse.columns import columns_of, type_named
from batch_assets.sources.warehouse.database import Database
from batch_assets.sources.warehouse.drivers import DRIVERS
from batch_assets.sources.warehouse.session import Session, opened
from batch_assets.sources.warehouse.statement import Statement, read_statement

if TYPE_CHECKING:
    import pyarrow as pa

_DATES = ("newest", "newest_until_day", "rows_of_day")


class WarehouseSource(Database, StreamedSource):
    """A query that PostgreSQL, SQLite, DuckDB, Snowflake, BigQuery or a server of Flight SQL answers.

    The query is one SELECT in the database's own SQL, in which `$partition` is the partition's day, a DATE that is bound. It
    and the look at dates are asked in one transaction that only reads and sees one state, where the driver has such. In
    messages and in `quality.sources.not_daily` its rows are called like the query's file, without the suffix.

    Example:
        Rows of a day, from an address that is not written down::

            source:
              kind: warehouse
              driver: postgresql
              uri: {env: WAREHOUSE_URI}
              query: "{{ context.path }}/features.sql"
    """

    kind: Literal["warehouse"] = "warehouse"
    query: str = Field(description="Path of the file with the SELECT statement.")
    types: dict[str, str] = Field(
        {}, description="Column -> Arrow type, like float32, date or decimal128(12, 2), where the database has not that type."
    )
    event_date: str | None = Field(
        None, description="What the check sources calls the dates that `dates` looks at.", min_length=1
    )
    dates: str | None = Field(
        None,
        description="Path of the file with a SELECT of one row that says how fresh the tables are: newest (the newest date), "
        "newest_until_day (the newest that is not after $partition) and rows_of_day (how many rows have it).",
    )

    @field_validator("types")
    @classmethod
    def _types_are_known(cls, types: dict[str, str]) -> dict[str, str]:
        for name, kind in types.items():
            try:
                type_named(kind)
            except ValueError:
                raise ValueError(f"{name}: {kind} is no Arrow type, like float32, date or decimal128(12, 2)") from None
        return types

    @model_validator(mode="after")
    def _fits_together(self) -> "WarehouseSource":
        if (self.event_date is None) != (self.dates is None):
            raise ValueError("event_date and dates go together: say both, or neither")
        return self

    @property
    @override
    def table_name(self) -> str:
        return Path(self.query).stem

    @override
    @contextmanager
    def streamed(self, day: str, spill: Path, timezone: str) -> Iterator[Streamed]:
        import pyarrow as pa

        query = read_statement(self.query)
        dates = read_statement(self.dates) if self.dates else None
        driver = DRIVERS[self.driver]
        with opened(driver, self.revealed(), date.fromisoformat(day), timezone) as session:
            known = self._known(session, dates)
            with session.rows(query) as (schema, batches):
                columns, came = columns_of(schema, query.path, self.types, typed=driver.typed), 0

                def exact() -> "Iterator[pa.RecordBatch]":
                    nonlocal came
                    for batch in batches:
                        came += len(batch)
                        yield columns.exact(batch)

                rows = pa.RecordBatchReader.from_batches(columns.schema, exact())
                said = tuple(one.text for one in (query, dates) if one)
                yield Streamed(rows, known, said, counted=lambda: {"rows": came})

    @override
    def lineage(self, columns: Collection[str], tables: Collection[str]) -> Lineage:
        dialect = {"postgresql": "postgres", "flightsql": ""}.get(self.driver, self.driver)
        return lineage_of(read_statement(self.query).text, dialect, tables, columns)

    def _known(self, session: Session, dates: Statement | None) -> SourceTable:
        table = SourceTable(name=self.table_name, path=session.where, pinned=session.state, rows=0)
        if dates is None:
            return table
        found = session.one(dates)
        if sorted(found) != sorted(_DATES):
            raise SourceError(f"{dates.path} gives {', '.join(found)}: it must give {', '.join(_DATES)}.")
        newest, until = (_day(found[name], name, dates) for name in _DATES[:2])
        count = found["rows_of_day"]
        if not isinstance(count, int):
            raise SourceError(f"{dates.path} gives {count} for rows_of_day: it must be a whole number, like count(*).")
        return table.model_copy(
            update={"event_date": self.event_date, "newest": newest, "newest_until_day": until, "rows_of_day": count}
        )


def _day(value: object, name: str, dates: Statement) -> date | None:
    """A day that a statement gives; SQLite has texts for days. Raises SourceError if it is none."""
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = value
    if found is not None and (isinstance(found, datetime) or not isinstance(found, date)):
        raise SourceError(f"{dates.path} gives {found} for {name}: it must be a DATE; CAST it.")
    return found
