"""Features from SQL: one DuckDB query over Parquet files, computed as of a partition's day.

The session knows nothing but the tables: its time zone is the partition's, its calendar and its settings are ours, files other
than those of the tables cannot be opened, and none of that can be changed once the tables are there.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.provenance import Provenance, sha256_of
from batch_assets.sources.agreement import folded
from batch_assets.sources.blame import damaged_place, rows_with
from batch_assets.sources.listing import TableSettings, require_unchanged
from batch_assets.sources.query import require_select
from batch_assets.sources.tables import (
    LinkedTable,
    Table,
    create_view,
    described,
    first_line,
    link_files,
    quoted,
    quoted_name,
    verify,
)

if TYPE_CHECKING:
    import duckdb

_BATCH_ROWS = 1 << 17

_UNCONVERTED = re.compile(
    r"(?:string|with value|format:|range:) (['\"]?)(?P<value>.*?)\1(?: to |,| can't| when)"
    r".* casting from source column (?P<column>.+)"
)
"""DuckDB's words about a value that is none of the type that a query asks for."""


class SqlSource(BaseModel):
    """A query over Parquet files.

    The query, one SELECT, sees each entry of `tables` as a view and the partition's day as the parameter `$partition` (a DATE).
    It must use only what was known at the end of that day, and it must give the columns that the feature contract names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sql"] = "sql"
    query: str = Field(description="Path of the file with the SELECT statement.")
    tables: dict[str, TableSettings] = Field(description="View name -> path or glob of Parquet files, or more about them.")
    memory_limit: str = Field("4GB", description="What DuckDB may use before it spills to disk.")

    @model_validator(mode="after")
    def _names_differ(self) -> "SqlSource":
        names = [folded(name) for name in self.tables]
        if len(set(names)) < len(names):
            raise ValueError("two tables have names that SQL does not tell apart")
        return self


@dataclass(frozen=True)
class Read:
    """The rows of a partition, streamed in ascending order of their key, and what they are read from."""

    rows: pa.RecordBatchReader
    provenance: Provenance


@contextmanager
def read(source: SqlSource, day: str, key: str, spill: Path, timezone: str = "UTC") -> Iterator[Read]:
    """Compute one partition. When the block ends, the files are looked at again.

    Args:
        source: the query and its tables.
        day: the partition, YYYY-MM-DD.
        key: the key column's name.
        spill: a local folder for what does not fit in memory.
        timezone: where a day begins and ends.

    Raises:
        SourceError: a file is missing, damaged, or was changed while it was read, files do not fit together, or the query is
            not one that may be asked, or fails.
        BadKeys: the block found such keys; says where they are in the tables, if a column is called like the key.
    """
    import duckdb

    try:
        query = Path(source.query).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The query {source.query} cannot be read: {error}.") from error
    with TemporaryDirectory(dir=spill) as folder, duckdb.connect() as connection:
        places = Path(folder)
        linked = [link_files(number, name, table, places) for number, (name, table) in enumerate(source.tables.items())]
        tables: list[Table] = []
        try:
            _close_off(connection, source, linked, places, timezone)
            text = require_select(connection, query, source.query, source.tables)
            tables += [create_view(connection, one) for one in linked]
            connection.execute("SET lock_configuration = true")
            ordered = _ordered(connection, source, text, day, key)
            verify(tables, _plan(connection, ordered, day))
            provenance = Provenance(
                day=date.fromisoformat(day),
                timezone=timezone,
                query_sha256=sha256_of(query),
                tables=tuple(described(connection, table, day) for table in tables),
            )
            rows = connection.sql(ordered, params={"partition": day}).to_arrow_reader(_BATCH_ROWS)
            yield Read(rows, provenance)
        except (duckdb.Error, pa.ArrowException, BadKeys, SourceError) as error:
            _require_unchanged(linked)
            if isinstance(error, SourceError):
                raise
            if isinstance(error, BadKeys):
                raise BadKeys(f"{source.query} for {day}: {error}{rows_with(tables, key, error.examples)}") from error
            reason = _reason(error, query, tables) or f"{source.query} cannot be computed for {day}: {first_line(error)}."
            raise SourceError(_with_paths(reason, linked)) from error
        _require_unchanged(linked)


@contextmanager
def rows_of(source: SqlSource, day: str, key: str, spill: Path, timezone: str = "UTC") -> Iterator[pa.RecordBatchReader]:
    """The rows of one partition alone; see `read`."""
    with read(source, day, key, spill, timezone) as found:
        yield found.rows


def _close_off(
    connection: "duckdb.DuckDBPyConnection", source: SqlSource, linked: Sequence[LinkedTable], spill: Path, timezone: str
) -> None:
    """Let a session see the tables' files and its own spills, and nothing of the environment."""
    settings = {
        "memory_limit": source.memory_limit,
        "temp_directory": str(spill / "duckdb"),
        "TimeZone": timezone,
        "Calendar": "gregorian",
        **dict.fromkeys(("home_directory", "extension_directory", "secret_directory"), str(spill / "duckdb")),
        "disabled_optimizers": "statistics_propagation",  # it answers min and max by footers, which leave NaN out
        **dict.fromkeys(("http_proxy", "http_proxy_username", "http_proxy_password"), ""),  # from the environment by default
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {quoted(value)}")
    for name in ("python_enable_replacements", "autoload_known_extensions", "autoinstall_known_extensions"):
        connection.execute(f"SET {name} = false")
    paths = ", ".join(quoted(link) for one in linked for link in one.links.values())
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")


def _ordered(connection: "duckdb.DuckDBPyConnection", source: SqlSource, text: str, day: str, key: str) -> str:
    """The query, its rows in the order of their key."""
    described = connection.execute(f"DESCRIBE {text}", {"partition": day}).fetchall()
    names = [row[0] for row in described]
    if key not in names:
        raise SourceError(f"{source.query} does not give the key {key}, only {', '.join(names)}.")
    doubled = sorted({name for name in names if [folded(other) for other in names].count(folded(name)) > 1})
    if doubled:
        raise SourceError(f"{source.query} gives {' and '.join(doubled)} more than once; give each column a name of its own.")
    ordered = f"SELECT * FROM (\n{text}\n) ORDER BY {quoted_name(key)}"
    return require_select(connection, ordered, source.query, source.tables)


def _plan(connection: "duckdb.DuckDBPyConnection", query: str, day: str) -> str:
    """How DuckDB will compute a query, as a text that names every column that it reads."""
    return "\n".join(row[1] for row in connection.execute(f"EXPLAIN (FORMAT json) {query}", {"partition": day}).fetchall())


def _require_unchanged(linked: Sequence[LinkedTable]) -> None:
    for one in linked:
        require_unchanged(one.name, one.settings.path, one.files)


def _reason(error: Exception, query: str, tables: Sequence[Table]) -> str | None:
    """The sentence about the table that is the cause of an error, if one is."""
    import duckdb

    troubles = {name: trouble for table in tables for name, trouble in table.troubles.items()}
    for trouble in troubles.values():
        if trouble in str(error):
            return trouble
    if isinstance(error, (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException)):
        named = [trouble for name, trouble in troubles.items() if folded(name) in folded(query)]
        return named[0] if named else _unread_folder(error, tables)
    if isinstance(error, duckdb.OutOfMemoryException):
        return None
    for table in tables:
        for column in table.columns_in(str(error)):
            what = f"The column {column.name} of the table {table.linked.name} has a value that cannot be read as {column.duck}"
            return f"{what} ({column.told}): {first_line(error)}." if column.told else None
    damaged = damaged_place(tables)
    value = _UNCONVERTED.search(first_line(error))
    where = rows_with(tables, value["column"], [value["value"]]) if value and damaged is None else ""
    return f"{first_line(error)}; correct it, or leave such rows out in the query.{where}" if where else damaged


def _unread_folder(error: Exception, tables: Sequence[Table]) -> str | None:
    """The sentence about a column that only folders have, if an error is about one."""
    for table in tables:
        for part in Path(table.linked.files[0].path).parent.parts:
            name = part.partition("=")[0]
            if "=" in part and f'"{name}"' in str(error) and not table.linked.settings.hive:
                return (
                    f"The table {table.linked.name} has no column {name} in its files, only folders like {part}: say hive: "
                    "true if they are a column."
                )
    return None


def _with_paths(reason: str, linked: Sequence[LinkedTable]) -> str:
    """A reason in which files have their own names, not those that DuckDB knows."""
    for one in linked:
        for path, link in one.links.items():
            reason = reason.replace(link, path)
    return reason
