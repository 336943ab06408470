"""Columns that the folders of a table are named after, like day=2026-01-01; only where the YAML says `hive: true`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import quote, unquote

from batch_assets.errors import SourceError
from batch_assets.sources.closed import folded
from batch_assets.sources.listed import ListedFile

_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class HiveColumn:
    """A column and its value in each file, by path; `word` is what DuckDB is told that it is called."""

    name: str
    word: str
    duck: str
    values: dict[str, str]

    @property
    def told(self) -> str:
        """What it is read as."""
        return f"{self.name} is what folders say, as {self.duck}"

    def quoted(self, file: ListedFile) -> str:
        """The value of a file as the name of a folder of ours."""
        return "".join(sign if sign.isalnum() else quote(sign, safe=" ") for sign in self.values[file.path])


def hive_columns(table: str, files: Sequence[ListedFile]) -> tuple[HiveColumn, ...]:
    """The columns that folders name.

    They are dates or whole numbers if every value is one and would be written in no other way (007 is a text), else text.

    Raises:
        SourceError: not all files have the same ones.
    """
    said = {file.path: _said(file.path) for file in files}
    first = files[0].path
    for path, pairs in said.items():
        names = [folded(name) for name, _ in pairs]
        if len(set(names)) < len(names) or set(names) != {folded(name) for name, _ in said[first]}:
            raise SourceError(
                f"The table {table} says hive: true, but the folders of {path} name {_spoken(pairs)}, and those of {first} "
                f"{_spoken(said[first])}; each column must be named once in the path of every file."
            )
    columns = []
    for number, (name, _) in enumerate(said[first]):
        values = {path: {folded(other): value for other, value in pairs}[folded(name)] for path, pairs in said.items()}
        columns.append(HiveColumn(name, f"batch_assets_hive{number}", _type({*values.values()} - {_NULL}), values))
    return tuple(columns)


def files_of_day(files: Sequence[ListedFile], name: str, day: str) -> tuple[ListedFile, ...]:
    """The files in the folders of a day, like day=2026-01-31, by the column's name.

    Where there is no such folder, those of the newest day before it, or else of the first one after: they have no row of the
    day, and say which columns it would have. Unless every file lies in the folder of a day, all of them.
    """
    said = {file.path: {folded(other): value for other, value in _said(file.path)}.get(folded(name), "") for file in files}
    days = sorted({*said.values()} - {_NULL})
    if not days or not all(map(_is_date, days)):
        return tuple(files)
    nearest = max((one for one in days if one <= day), default=days[0])
    return tuple(file for file in files if said[file.path] == nearest)


def _said(path: str) -> list[tuple[str, str]]:
    found = [re.fullmatch(r"([^=]+)=(.*)", part, re.DOTALL) for part in Path(path).parent.parts]
    return [(unquote(one[1]), unquote(one[2])) for one in found if one]


def _type(values: set[str]) -> str:
    if values and all(_is_date(value) for value in values):
        return "DATE"
    if values and all(re.fullmatch(r"0|-?[1-9]\d{0,17}", value) for value in values):
        return "BIGINT"
    return "VARCHAR"


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _spoken(pairs: Sequence[tuple[str, str]]) -> str:
    return " and ".join(name for name, _ in pairs) or "no column"
