"""Which files a table consists of, and whether they are still the ones that were listed."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field

from batch_assets.errors import SourceError
from batch_assets.shorthand import TextOrMore
from batch_assets.sources.bucket import is_in_bucket, listed_in_bucket
from batch_assets.sources.listed import ListedFile, is_called_parquet, is_hidden, is_pattern

_PARQUET_STARTS = (b"PAR1", b"PARE")


class TableSettings(TextOrMore):
    """One table of the query: its files, and what is known of them. In YAML a plain text is the path alone."""

    path: str = Field(
        description="A Parquet file, a folder of them, or a glob of files with * ? [ ] and **; s3://bucket/… too.", min_length=1
    )
    hive: bool = Field(False, description="Whether folders like day=2026-01-01 are columns.")
    event_date: str | None = Field(None, description="The column that says when a row happened; without it nobody looks.")
    optional: tuple[str, ...] = Field((), description="Columns that some files may lack; they are null there.")


Chosen = Callable[[Sequence[ListedFile]], tuple[ListedFile, ...]]
"""Says which of a table's files are read."""


def list_files(name: str, path: str) -> tuple[ListedFile, ...]:
    """The files of a table, ascending by path: one file, all Parquet files in and below a folder, or those that a glob names.

    Names that begin with `_` or `.` or end in `.crc` are no data, as Spark and Hive have it, nor is what lies in such folders,
    unless the path itself names them. Links are followed.

    Raises:
        SourceError: there is no such file, or one would be read twice.
    """
    if not (os.path.isabs(path) or is_in_bucket(path)):
        raise SourceError(f"The table {name} needs an absolute path, not {path}; see context.project_root.")
    try:
        found = tuple(
            listed_in_bucket(name, path) if is_in_bucket(path) else [_listed(name, one) for one in sorted(_paths(path))]
        )
    except OSError as error:
        raise SourceError(f"The table {name}: {error.filename} cannot be listed: {error.strerror}.") from error
    if not found:
        raise SourceError(f"The table {name}: {path} {_nothing(path)}.")
    seen: dict[str, str] = {}
    for file in found:
        other = seen.setdefault(file.identity, file.path)
        if other != file.path:
            raise SourceError(
                f"The table {name} would have the rows of one file twice: {other} and {file.path} are the same; "
                "name one of them, or remove the link."
            )
    return found


def require_unchanged(name: str, path: str, files: tuple[ListedFile, ...], chosen: Chosen = tuple) -> None:
    """Raise SourceError, naming the file, if the files of a table that are read are not the ones that were before."""
    before, advice = {file.path: file for file in files}, "run it again when whoever writes it has finished"
    try:
        now = {file.path: file for file in chosen(list_files(name, path))}
    except SourceError as error:
        raise SourceError(f"The table {name} was changed while it was read: {advice}. {error}") from error
    for one in sorted(before.keys() | now.keys(), key=lambda path: (path in before, path)):  # for new ones others are left
        if before.get(one) != now.get(one):
            what = "appeared" if one not in before else "vanished" if one not in now else "was changed"
            raise SourceError(f"The table {name}: {one} {what} while it was read; {advice}.")


def _nothing(path: str) -> str:
    if os.path.isdir(path):
        return "is a folder without a Parquet file"
    if is_in_bucket(path):
        return "names no Parquet file"
    return "matches no file" if is_pattern(path) else "does not exist"


def _listed(name: str, path: str) -> ListedFile:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise SourceError(f"The table {name}: {path} is a link to a file that does not exist.") from None
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"The table {name}: {path} is no regular file.")
    if path.encode(errors="replace") != os.fsencode(path):
        raise SourceError(f"The table {name}: {path!a} is no UTF-8; rename the file or the folder.")
    stamp = f"{status.st_mtime_ns}-{status.st_ino}"
    return ListedFile(path, status.st_size, stamp, f"{status.st_dev}-{status.st_ino}")


def _paths(path: str) -> set[str]:
    path = os.path.normpath(path)
    if os.path.isdir(path):
        return _paths(os.path.join(path, "**"))
    if os.path.lexists(path):
        return {path}
    if path.endswith("/**"):
        return {one for one in _matches("/", Path(path).parts[1:], ()) if _holds_parquet(one)}
    found: set[str] = set()
    for one in _matches("/", Path(path).parts[1:], ()):
        if not os.path.isdir(one):
            found.add(one)
        elif is_called_parquet(one):  # a data set that is called like a file
            found |= _paths(one)
    return found


def _matches(folder: str, parts: tuple[str, ...], above: tuple[str, ...]) -> Iterator[str]:
    """Files and folders below a folder whose names match, part by part; `**` is any number of folders."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        real = os.path.realpath(folder)
        if real in above:  # a link that leads back
            return
        yield from _matches(folder, rest or ("*",), above)
        for name in _names(folder, lambda name: not is_hidden(name)):
            if os.path.isdir(os.path.join(folder, name)):
                yield from _matches(os.path.join(folder, name), parts, (*above, real))
        return
    if not is_pattern(part) or os.path.lexists(os.path.join(folder, part)):
        names = [part] if os.path.lexists(os.path.join(folder, part)) else []
    else:
        named = part.startswith(("_", ".")) or part.endswith((".crc", "._COPYING_"))
        names = _names(folder, lambda name: fnmatchcase(name, part) and (named or not is_hidden(name)))
    for name in names:
        found = os.path.join(folder, name)
        if not rest:
            yield found
        elif os.path.isdir(found):
            yield from _matches(found, rest, above)


def _names(folder: str, wanted: Callable[[str], bool]) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if wanted(entry.name)]


def _holds_parquet(path: str) -> bool:
    """Whether a file in a folder is one of the table's: by its name or, as Hive's files have none, by how it begins."""
    if is_called_parquet(path):
        return not os.path.isdir(path)
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) in _PARQUET_STARTS
