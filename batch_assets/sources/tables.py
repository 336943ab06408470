"""The tables of a query: views in DuckDB that read exactly the files that were listed, as what their footers say they are.

DuckDB sees a file under a name of ours, a link: it takes `[1]` in a path for a pattern and `a=5` for a column. In a view each
column has a word like t0_c3 behind its name, by which the plan of a query tells what it reads. A column that nobody may read
is an error in the view, which only a query that reads it meets.
"""

import errno
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceFile, SourceTable
from batch_assets.sources.agreement import Agreement, Column, FileColumn, Shape, agree
from batch_assets.sources.bucket import fetched, is_in_bucket
from batch_assets.sources.closed import first_line, folded, quoted, quoted_name
from batch_assets.sources.hive import HiveColumn, hive_columns
from batch_assets.sources.listed import ListedFile
from batch_assets.sources.listing import Chosen, TableSettings, list_files
from batch_assets.sources.pages import verify_microseconds, verify_pages

if TYPE_CHECKING:
    import duckdb

_DATES = ("DATE", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS", "VARCHAR")


@dataclass(frozen=True)
class LinkedTable:
    """A table's files, and by which links DuckDB sees them; it is the query's `number`-th."""

    number: int
    name: str
    settings: TableSettings
    files: tuple[ListedFile, ...]
    hive: tuple[HiveColumn, ...]
    links: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table that a query can read."""

    linked: LinkedTable
    agreement: Agreement

    @property
    def troubles(self) -> dict[str, str]:
        """Why a column cannot be read, by its name."""
        return {column.name: column.trouble for column in self.agreement.columns if column.trouble}

    def columns_in(self, plan: str) -> list[Column]:
        """The columns of files that a query reads, by the text of its plan."""
        numbers = set(re.findall(rf"\bt{self.linked.number}_c(\d+)\b", plan))  # a text or a name in it may look like a word
        return [column for number, column in enumerate(self.agreement.columns) if str(number) in numbers]

    def column(self, name: str) -> Column | None:
        """A column by its name, as SQL takes it."""
        return next((one for one in self.agreement.columns if folded(one.name) == folded(name)), None)


def link_files(number: int, name: str, settings: TableSettings, folder: Path, chosen: Chosen = tuple) -> LinkedTable:
    """List a table's files and make a link to each that is read in a local folder. Raises SourceError."""
    files = chosen(list_files(name, settings.path))
    if is_in_bucket(settings.path):
        files = fetched(name, files, folder / f"copies{number}")
    hive = hive_columns(name, files) if settings.hive else ()
    links = {}
    for place, file in enumerate(files):
        values = [f"{column.word}={column.quoted(file)}" for column in hive]
        link = folder.joinpath(f"t{number}", *values, f"{place}.parquet")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise SourceError(
                f"The table {name}: the folders of {file.path} name a value that is too long; shorten it."
            ) from error
        link.symlink_to(os.path.abspath(file.local))
        links[file.path] = str(link)
    return LinkedTable(number, name, settings, files, hive, links)


def create_view(connection: "duckdb.DuckDBPyConnection", linked: LinkedTable) -> Table:
    """Read the footers of a table's files and create its view.

    Raises:
        SourceError: a footer cannot be read, or what the YAML says of the table does not fit it.
    """
    agreement = agree(linked.name, linked.files, linked.settings.optional, lambda file: _types(connection, linked, file))
    taken = {folded(column.name): column for column in agreement.columns}
    for hive in linked.hive:
        if folded(hive.name) in taken:
            places = taken[folded(hive.name)].places
            where = next(shape for shape, place in zip(agreement.shapes, places, strict=True) if place is not None).files[0]
            raise SourceError(
                f"The table {linked.name}: {where.path} has a column {hive.name}, and its folders say {hive.name}= too; "
                "leave hive out, or rename one of them."
            )
    table = Table(linked, agreement)
    _require_dates(table)
    selects = [_select(table, shape) for shape in agreement.shapes]
    connection.execute(f"CREATE VIEW {quoted_name(linked.name)} AS {' UNION ALL '.join(selects)}")
    return table


def verify(tables: Sequence[Table], plan: str) -> None:
    """Look whether what a query will read is what was written, by the columns that its plan names.

    If the plan names none at all, every column is looked at.

    Raises:
        SourceError: a page does not have its checksum, or DuckDB would cut a time stamp off.
    """
    named = {table.linked.name: table.columns_in(plan) for table in tables}
    nothing = not any(named.values())
    with ThreadPoolExecutor(4) as pool:
        for table in tables:
            dates = table.column(table.linked.settings.event_date or "")
            columns = list(table.agreement.columns) if nothing else [*named[table.linked.name], *([dates] if dates else [])]
            for number, shape in enumerate(table.agreement.shapes):
                found = [shape.columns[place] for one in columns if (place := one.places[number]) is not None]
                list(pool.map(partial(_verify_file, table.linked.name, found), shape.files))


def _verify_file(table: str, columns: Sequence[FileColumn], file: ListedFile) -> None:
    try:
        verify_pages(table, file, {one.name for one in columns})
        for one in columns:
            if one.int96:
                verify_microseconds(table, file, one.name)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"The table {table}: {file.path} cannot be read: {first_line(error)}; restore the file, or write it again."
        ) from error


def described(connection: "duckdb.DuckDBPyConnection", table: Table, day: str) -> SourceTable:
    """What is read as a table; of its dates, where it names a column of them, by one look at that column.

    Raises:
        duckdb.Error: it cannot be read.
    """
    linked, rows = table.linked, table.agreement.rows
    files = tuple(SourceFile(path=file.path, size=file.size, rows=rows[file.path], stamp=file.stamp) for file in linked.files)
    told = tuple(column.told for column in table.agreement.columns if column.told and not column.trouble)
    told += tuple(column.told for column in linked.hive)
    found = SourceTable(name=linked.name, path=linked.settings.path, files=files, rows=sum(rows.values()), told=told)
    if linked.settings.event_date is None:
        return found
    newest, until_day, rows_of_day = _dates(connection, table, linked.settings.event_date, day)
    return found.model_copy(
        update={
            "event_date": linked.settings.event_date,
            "newest": newest,
            "newest_until_day": until_day,
            "rows_of_day": rows_of_day,
        }
    )


def _require_dates(table: Table) -> None:
    """Raise SourceError if the YAML names a column of dates that is none."""
    name = table.linked.settings.event_date
    if name is None:
        return
    types = {folded(column.name): column.duck for column in table.agreement.columns}
    types |= {folded(column.name): column.duck for column in table.linked.hive}
    duck = types.get(folded(name))
    if duck in _DATES:
        return
    if duck is None and (told := only_in_folders(table.linked, lambda other: folded(other) == folded(name))):
        raise SourceError(told)
    what = f"is {duck}, which is no date" if duck else "is not in its files"
    raise SourceError(f"The table {table.linked.name}: its event_date {name} {what}; name a column of dates or time stamps.")


def only_in_folders(linked: LinkedTable, meant: Callable[[str], bool]) -> str | None:
    """The sentence about a column that only folders have, if one is meant by its name and folders are no columns."""
    for part in Path(linked.files[0].path).parent.parts:
        name, sign, _ = part.partition("=")
        if sign and meant(name) and not linked.settings.hive:
            return (
                f"The table {linked.name} has no column {name} in its files, only folders like {part}: say hive: true if they "
                "are a column."
            )
    return None


def _dates(connection: "duckdb.DuckDBPyConnection", table: Table, name: str, day: str) -> tuple[date | None, date | None, int]:
    (row,) = connection.execute(
        "SELECT max(day), max(day) FILTER (day <= $day::DATE), count(*) FILTER (day = $day::DATE) "
        f"FROM (SELECT {quoted_name(name)}::DATE AS day FROM {quoted_name(table.linked.name)})",
        {"day": day},
    ).fetchall()
    return row


def _types(connection: "duckdb.DuckDBPyConnection", linked: LinkedTable, file: ListedFile) -> Sequence[object]:
    import duckdb

    try:
        return connection.sql(
            f"SELECT * FROM read_parquet([{quoted(linked.links[file.path])}], hive_partitioning = false)"
        ).types
    except duckdb.Error as error:
        raise SourceError(f"The table {linked.name}: DuckDB cannot read {file.path}: {first_line(error)}.") from error


def _select(table: Table, shape: Shape) -> str:
    """The rows of the files of one shape, in the columns of the table.

    Smallest and largest values in footers never count NaN; DuckDB must be told so, else it leaves such rows out.
    """
    linked, number = table.linked, table.agreement.shapes.index(shape)
    words = [f"t{linked.number}_more{place}" for place in range(len(shape.columns))]
    selected = []
    for index, column in enumerate(table.agreement.columns):
        place, kind = column.places[number], column.duck.replace('"NULL"', "INTEGER")
        if place is not None:
            words[place] = f"t{linked.number}_c{index}"
        if column.trouble:
            expression = f"CAST(error({quoted(column.trouble)}) AS {kind})"
        elif place is None:
            expression = f"CAST(NULL AS {kind})"
        elif shape.columns[place].duck == column.duck:
            expression = words[place]
        else:
            expression = f"CAST({words[place]} AS {kind})"
        selected.append(f"{expression} AS {quoted_name(column.name)}")
    selected += [f"{column.word} AS {quoted_name(column.name)}" for column in linked.hive]
    links = ", ".join(quoted(linked.links[file.path]) for file in shape.files)
    kinds = ", ".join(f"{column.word}: {column.duck}" for column in linked.hive)
    hive = f"hive_partitioning = true, hive_types = {{{kinds}}}" if kinds else "hive_partitioning = false"
    return f"SELECT {', '.join(selected)} FROM read_parquet([{links}], can_have_nan = true, {hive}) AS file({', '.join(words)})"
