"""Features from SQL: one DuckDB query over Parquet files, computed as of a partition's day."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import SourceError
from batch_assets.features.listing import TableSettings, files_of
from batch_assets.features.provenance import Provenance, SourceFile, SourceTable, sha256_of

if TYPE_CHECKING:
    import duckdb


class SqlSource(BaseModel):
    """A query over Parquet files.

    The query sees each entry of `tables` as a view and the partition's day as the parameter `$partition` (a DATE). It must use
    only what was known at the end of that day, and it must give the columns that the feature contract names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sql"] = "sql"
    query: str = Field(description="Path of the file with the SELECT statement.")
    tables: dict[str, TableSettings] = Field(description="View name -> path or glob of Parquet files, or more about them.")
    memory_limit: str = Field("4GB", description="What DuckDB may use before it spills to disk.")


@dataclass(frozen=True)
class Read:
    """The rows of a partition, streamed in ascending order of their key, and what they are read from."""

    rows: pa.RecordBatchReader
    provenance: Provenance


@contextmanager
def read(source: SqlSource, day: str, key: str, spill: Path, timezone: str = "UTC") -> Iterator[Read]:
    """Compute one partition.

    Args:
        source: the query and its tables.
        day: the partition, YYYY-MM-DD.
        key: the key column's name.
        spill: a local folder for what does not fit in memory.
        timezone: where a day begins and ends.

    Raises:
        SourceError: a file is missing or damaged, or the query fails.
    """
    import duckdb

    try:
        query = Path(source.query).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The query {source.query} cannot be read: {error}.") from error
    if "$partition" not in query:
        raise SourceError(f"{source.query} never uses $partition: every day would have the same rows.")
    with duckdb.connect() as connection:
        try:
            connection.execute(f"SET memory_limit = {_quoted(source.memory_limit)}")
            connection.execute(f"SET temp_directory = {_quoted(str(spill))}")
            connection.execute(f"SET TimeZone = {_quoted(timezone)}")
            tables = []
            for name, table in source.tables.items():
                if not os.path.isabs(table.path):
                    raise SourceError(f"The table {name} needs an absolute path, not {table.path}; see context.project_root.")
                connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet({_quoted(table.path)})')
                tables.append(_described(connection, name, table, day))
            ordered = f'SELECT * FROM ({query.rstrip().removesuffix(";")}\n) ORDER BY "{key}"'
            rows = connection.sql(ordered, params={"partition": day}).to_arrow_reader(1 << 17)
            if key not in rows.schema.names:
                raise SourceError(f"{source.query} does not give the key {key}, only {', '.join(rows.schema.names)}.")
            provenance = Provenance(
                day=date.fromisoformat(day), timezone=timezone, query_sha256=sha256_of(query), tables=tuple(tables)
            )
            yield Read(rows, provenance)
        except (duckdb.Error, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SourceError(f"{source.query} cannot be computed for {day}: {reason.rstrip('.')}.") from error


@contextmanager
def rows_of(source: SqlSource, day: str, key: str, spill: Path, timezone: str = "UTC") -> Iterator[pa.RecordBatchReader]:
    """The rows of one partition alone; see `read`."""
    with read(source, day, key, spill, timezone) as found:
        yield found.rows


def _described(connection: "duckdb.DuckDBPyConnection", name: str, table: TableSettings, day: str) -> SourceTable:
    """What is read as a table; of its dates, where it names a column of them, by one look at that column."""
    files = []
    for path in files_of(table.path):
        status = path.stat()
        stamp = f"{status.st_mtime_ns}-{status.st_ino}"
        files.append(SourceFile(path=str(path), size=status.st_size, rows=pq.read_metadata(path).num_rows, stamp=stamp))
    found = SourceTable(name=name, path=table.path, files=tuple(files), rows=sum(file.rows for file in files))
    if table.event_date is None:
        return found
    ((newest, until_day, rows),) = connection.execute(
        f"SELECT max(day), max(day) FILTER (day <= $day::DATE), count(*) FILTER (day = $day::DATE) "
        f'FROM (SELECT "{table.event_date}"::DATE AS day FROM "{name}")',
        {"day": day},
    ).fetchall()
    dates = {"event_date": table.event_date, "newest": newest, "newest_until_day": until_day, "rows_of_day": rows}
    return found.model_copy(update=dates)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
