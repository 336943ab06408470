"""Features from SQL: one DuckDB query over Parquet files, computed as of a partition's day."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import SourceError


class SqlSource(BaseModel):
    """A query over Parquet files.

    The query sees each entry of `tables` as a view and the partition's day as the parameter `$partition` (a DATE). It must use
    only what was known at the end of that day, and it must give the columns that the feature contract names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sql"] = "sql"
    query: str = Field(description="Path of the file with the SELECT statement.")
    tables: dict[str, str] = Field(description="View name -> path or glob of Parquet files.")
    memory_limit: str = Field("4GB", description="What DuckDB may use before it spills to disk.")


@contextmanager
def rows_of(source: SqlSource, day: str, key: str, spill: Path) -> Iterator[pa.RecordBatchReader]:
    """The rows of one partition in ascending order of their key, streamed.

    Args:
        source: the query and its tables.
        day: the partition, YYYY-MM-DD.
        key: the key column's name.
        spill: a local folder for what does not fit in memory.

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
            for name, path in source.tables.items():
                if not os.path.isabs(path):
                    raise SourceError(f"The table {name} needs an absolute path, not {path}; see context.project_root.")
                connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet({_quoted(path)})')
            ordered = f'SELECT * FROM ({query.rstrip().removesuffix(";")}\n) ORDER BY "{key}"'
            rows = connection.sql(ordered, params={"partition": day}).to_arrow_reader(1 << 17)
            if key not in rows.schema.names:
                raise SourceError(f"{source.query} does not give the key {key}, only {', '.join(rows.schema.names)}.")
            yield rows
        except (duckdb.Error, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SourceError(f"{source.query} cannot be computed for {day}: {reason.rstrip('.')}.") from error


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
