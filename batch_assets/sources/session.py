"""One query over tables -> its rows in the order of their keys, and what they were read from, by DuckDB.

The session knows nothing but the tables: its time zone is the partition's, its calendar and its settings are ours, files other
than those of the tables cannot be opened, and none of that can be changed once the tables are there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.provenance import Provenance, SourceTable, sha256_of
from batch_assets.sources.blame import damaged_place, rows_with
from batch_assets.sources.closed import closed_session, first_line, folded, quoted_name, require_keys
from batch_assets.sources.listing import Chosen, TableSettings, require_unchanged
from batch_assets.sources.source import Read
from batch_assets.sources.streamed import StreamedSource, fill
from batch_assets.sources.tables import (
    LinkedTable,
    Table,
    create_view,
    described,
    link_files,
    only_in_folders,
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


@dataclass(frozen=True)
class Query:
    """What is asked.

    Args:
        named: what messages call it, like the file that it is in.
        text: one SELECT over the tables.
        tables: what they are, by the names that the query knows.
        memory_limit: what DuckDB may use before it spills.
        settings_sha256: what a provenance says of whatever decided the rows.
        parameters: the values of `$name` in the text.
        only: conditions that its rows meet, by column; `{}` in them is the column. By them a bad key is found.
        accepted: looks at a text before it is computed, in the session, and gives the one statement in it.
        chosen: of the files of a table those that are read.
    """

    named: str
    text: str
    tables: Mapping[str, TableSettings | StreamedSource]
    memory_limit: str
    settings_sha256: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)
    accepted: "Callable[[duckdb.DuckDBPyConnection, str], str]" = lambda _, text: text
    chosen: Chosen = tuple


@contextmanager
def ordered_rows(query: Query, day: str, keys: Sequence[str], spill: Path, timezone: str) -> Iterator[Read]:
    """Compute one partition as `Source.read` says. When the block ends, the files are looked at again.

    Raises:
        SourceError: a file is missing, damaged, or was changed while it was read, files do not fit together, or the query is
            not one that may be asked, or fails.
        BadKeys: the block found such keys; says where they are in the tables, if columns are called like the keys.
    """
    import duckdb

    with TemporaryDirectory(dir=spill) as folder, ExitStack() as stack:
        places, tables = Path(folder), list[Table]()
        linked = [
            link_files(number, name, table, places, query.chosen)
            for number, (name, table) in enumerate(query.tables.items())
            if isinstance(table, TableSettings)
        ]
        try:
            files = [link for one in linked for link in one.links.values()]
            connection = stack.enter_context(closed_session(places, query.memory_limit, timezone, files))
            text = query.accepted(connection, query.text)
            tables += [create_view(connection, one) for one in linked]
            filled = {
                name: fill(connection, name, table, day, places, timezone)
                for name, table in query.tables.items()
                if isinstance(table, StreamedSource)
            }
            connection.execute("SET lock_configuration = true")
            ordered = _ordered(connection, query, text, keys)
            verify(tables, _plan(connection, query, ordered))
            provenance = Provenance(
                day=date.fromisoformat(day),
                timezone=timezone,
                settings_sha256=_sha256_of(query, [text for _, said in filled.values() for text in said]),
                tables=_in_their_order(query, [described(connection, table, day) for table in tables], filled),
            )
            rows = connection.sql(ordered, params=dict(query.parameters)).to_arrow_reader(_BATCH_ROWS)
            yield Read(rows, provenance)
        except (duckdb.Error, pa.ArrowException, BadKeys, SourceError) as error:
            _require_unchanged(query, linked)
            if isinstance(error, SourceError):
                raise
            if isinstance(error, BadKeys):
                where = rows_with(tables, keys, error.examples, query.only, timezone)
                raise BadKeys(f"{query.named} for {day}: {error}{where}", *error.examples) from error
            reason = _reason(error, query.text, tables) or f"{query.named} cannot be computed for {day}: {first_line(error)}."
            raise SourceError(_with_paths(reason, linked)) from error
        _require_unchanged(query, linked)


def _sha256_of(query: Query, said: Sequence[str]) -> str:
    """What decided the rows: what the query says of itself, and the texts that its tables were made by."""
    return sha256_of(query.settings_sha256, *said) if said else query.settings_sha256


def _in_their_order(
    query: Query, read: Iterable[SourceTable], filled: Mapping[str, tuple[SourceTable, tuple[str, ...]]]
) -> tuple[SourceTable, ...]:
    by_name = {name: table for name, (table, _) in filled.items()} | {table.name: table for table in read}
    return tuple(by_name[name] for name in query.tables)


def _ordered(connection: "duckdb.DuckDBPyConnection", query: Query, text: str, keys: Sequence[str]) -> str:
    """The query, its rows in the order of their keys."""
    described = connection.execute(f"DESCRIBE {text}", dict(query.parameters)).fetchall()
    names = [row[0] for row in described]
    require_keys(query.named, names, keys)
    ordered = f"SELECT * FROM (\n{text}\n) ORDER BY {', '.join(map(quoted_name, keys))}"
    return query.accepted(connection, ordered)


def _plan(connection: "duckdb.DuckDBPyConnection", query: Query, text: str) -> str:
    """How DuckDB will compute a query, as a text that names every column that it reads."""
    return "\n".join(row[1] for row in connection.execute(f"EXPLAIN (FORMAT json) {text}", dict(query.parameters)).fetchall())


def _require_unchanged(query: Query, linked: Sequence[LinkedTable]) -> None:
    for one in linked:
        require_unchanged(one.name, one.settings.path, one.files, query.chosen)


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
    where = rows_with(tables, [value["column"]], [(value["value"],)]) if value and damaged is None else ""
    return f"{first_line(error)}; correct it, or leave such rows out in the query.{where}" if where else damaged


def _unread_folder(error: Exception, tables: Sequence[Table]) -> str | None:
    """The sentence about a column that only folders have, if an error is about one."""
    told = [only_in_folders(table.linked, lambda name: f'"{name}"' in str(error)) for table in tables]
    return next(filter(None, told), None)


def _with_paths(reason: str, linked: Sequence[LinkedTable]) -> str:
    """A reason in which files have their own names, not those that DuckDB knows."""
    for one in linked:
        for path, link in one.links.items():
            reason = reason.replace(link, path)
    return reason
