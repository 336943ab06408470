"""Where in the tables the cause of a failure is. Looked for only when something has failed, in a session of its own."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from batch_assets.sources.agreement import folded
from batch_assets.sources.listing import ListedFile
from batch_assets.sources.tables import Table, first_line, quoted

if TYPE_CHECKING:
    import duckdb

_PLACES = 2
"""How many rows are named of those that have a key."""


def damaged_place(tables: Sequence[Table]) -> str | None:
    """A sentence about the first column of a file that cannot be read to its end; None if all can."""
    import duckdb

    with duckdb.connect() as connection:
        for table in tables:
            for file, number, name in _places(table):
                try:
                    connection.execute(f"SELECT count(*) FROM {_source(table, file)} WHERE hash(c{number}) = 0").fetchall()
                except duckdb.Error as error:
                    reason = first_line(error).replace(table.linked.links[file.path], file.path)
                    return (
                        f"The table {table.linked.name}: {file.path} is damaged: the column {name} cannot be read "
                        f"({reason}); restore the file, or write it again."
                    )
    return None


def rows_with(tables: Sequence[Table], keys: Sequence[str], examples: Sequence[Sequence[object]]) -> str:
    """A half sentence that says in which rows of which files a key is; empty if that cannot be said.

    Args:
        tables: where it is looked for.
        keys: the columns of a key.
        examples: keys, one value for each column (None: a null).
    """
    import duckdb

    found: list[str] = []
    with duckdb.connect() as connection:
        for example in examples:
            for table in tables:
                for shape in table.agreement.shapes:
                    numbers = [
                        number
                        for key in keys
                        for number, column in enumerate(shape.columns)
                        if folded(column.name) == folded(key)
                    ]
                    for file in shape.files if len(numbers) == len(keys) else ():
                        if len(found) < _PLACES:
                            found += _rows(connection, table, file, numbers, example)
    return f" It is in {' and '.join(found[:_PLACES])}." if found else ""


def _rows(
    connection: "duckdb.DuckDBPyConnection", table: Table, file: ListedFile, numbers: Sequence[int], example: Sequence[object]
) -> list[str]:
    import duckdb

    alike = " AND ".join(f"c{number} IS NOT DISTINCT FROM ${place}" for place, number in enumerate(numbers, start=1))
    try:
        rows = connection.execute(
            f"SELECT file_row_number FROM {_source(table, file)} WHERE {alike} LIMIT {_PLACES}", list(example)
        ).fetchall()
    except duckdb.Error:  # another type than the key's: it is made from something else
        return []
    return [f"row {row[0]:,} of {file.path} (table {table.linked.name})" for row in rows]


def _places(table: Table) -> Iterator[tuple[ListedFile, int, str]]:
    for shape in table.agreement.shapes:
        for file in shape.files:
            for number, column in enumerate(shape.columns):
                yield file, number, column.name


def _source(table: Table, file: ListedFile) -> str:
    """A file as a table whose columns are c0, c1 and so on."""
    shape = next(shape for shape in table.agreement.shapes if file in shape.files)
    names = ", ".join(f"c{number}" for number in range(len(shape.columns)))
    link = quoted(table.linked.links[file.path])
    return f"read_parquet([{link}], hive_partitioning = false, can_have_nan = true) AS file({names})"
