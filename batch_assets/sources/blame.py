"""Where in the tables the cause of a failure is. Looked for only when something has failed, in a session of its own."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from batch_assets.sources.closed import first_line, folded, quoted
from batch_assets.sources.listed import ListedFile
from batch_assets.sources.tables import Table

if TYPE_CHECKING:
    import duckdb

_PLACES = 2
"""How many rows are named of those that have a key."""


def damaged_place(tables: Sequence[Table]) -> str | None:
    """A sentence about the first column of a file that cannot be read to its end; None if all can."""
    import duckdb

    with duckdb.connect() as connection:
        for table in tables:
            for file, name, word in ((file, *column) for file, columns in _columns(table) for column in columns.items()):
                try:
                    connection.execute(f"SELECT count(*) FROM {_source(table, file)} WHERE hash({word}) = 0").fetchall()
                except duckdb.Error as error:
                    reason = first_line(error).replace(table.linked.links[file.path], file.path)
                    return (
                        f"The table {table.linked.name}: {file.path} is damaged: the column {name} cannot be read "
                        f"({reason}); restore the file, or write it again."
                    )
    return None


def rows_with(
    tables: Sequence[Table],
    keys: Sequence[str],
    examples: Sequence[Sequence[object]],
    only: Mapping[str, str] = MappingProxyType({}),
    timezone: str = "UTC",
) -> str:
    """A half sentence that says in which rows of which files a key is; empty if that cannot be said.

    Args:
        tables: where it is looked for.
        keys: the columns of a key.
        examples: keys, one value for each column (None: a null).
        only: conditions that a row must meet, by column; `{}` in them is the column.
        timezone: the session's.
    """
    import duckdb

    found: list[str] = []
    with duckdb.connect() as connection:
        connection.execute(f"SET TimeZone = {quoted(timezone)}")
        for example in examples:
            for table in tables:
                for file, columns in _columns(table):
                    words = {folded(name): word for name, word in columns.items()}
                    if len(found) < _PLACES and words.keys() >= {folded(key) for key in keys}:
                        conditions = [f"{words[folded(key)]} IS NOT DISTINCT FROM ${n}" for n, key in enumerate(keys, start=1)]
                        conditions += [said.format(words[name]) for name, said in only.items() if name in words]
                        found += _rows(connection, table, file, " AND ".join(conditions), example)
    return f" It is in {' and '.join(found[:_PLACES])}." if found else ""


def _rows(
    connection: "duckdb.DuckDBPyConnection", table: Table, file: ListedFile, condition: str, values: Sequence[object]
) -> list[str]:
    import duckdb

    try:
        rows = connection.execute(
            f"SELECT file_row_number FROM {_source(table, file)} WHERE {condition} LIMIT {_PLACES}", list(values)
        ).fetchall()
    except duckdb.Error:  # another type than the key's: it is made from something else
        return []
    return [f"row {row[0]:,} of {file.path} (table {table.linked.name})" for row in rows]


def _columns(table: Table) -> Iterator[tuple[ListedFile, dict[str, str]]]:
    """The files of a table, and the words by which their columns are known here."""
    for shape in table.agreement.shapes:
        for file in shape.files:
            yield file, {column.name: f"c{number}" for number, column in enumerate(shape.columns)}


def _source(table: Table, file: ListedFile) -> str:
    """A file as a table whose columns are c0, c1 and so on."""
    shape = next(shape for shape in table.agreement.shapes if file in shape.files)
    names = ", ".join(f"c{number}" for number in range(len(shape.columns)))
    link = quoted(table.linked.links[file.path])
    return f"read_parquet([{link}], hive_partitioning = false, can_have_nan = true) AS file({names})"
