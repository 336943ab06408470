"""The files of a table that lie in a bucket: which they are, and copies of them here for as long as they are read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

from batch_assets.errors import NotFound, SourceError, StorageError
from batch_assets.sources.listed import ListedFile, is_called_parquet, is_hidden, is_pattern
from batch_assets.storage import Stamp
from batch_assets.storage.bucket import Bucket

_AT_ONCE = 4
"""Files that are copied at the same time."""


def is_in_bucket(path: str) -> bool:
    """Whether a path leads to a bucket."""
    return path.startswith("s3://")


def listed_in_bucket(name: str, path: str) -> list[ListedFile]:
    """The files that a path of the form s3://bucket/… names, as `list_files` says.

    A file in a folder is one of Parquet by its name alone.

    Raises:
        SourceError: the bucket is not there, or does not answer.
    """
    bucket, pattern = _parted(name, path)
    literal = [*takewhile(lambda part: not is_pattern(part), pattern)]
    try:
        found = dict(Bucket(f"s3://{bucket}").walk("/".join(literal)))
    except StorageError as error:
        raise SourceError(f"The table {name}: {path} cannot be listed: {error}") from error
    return [
        ListedFile(f"s3://{bucket}/{key}", stamp.size, stamp.token, f"{bucket}/{key}")
        for key, stamp in sorted(found.items())
        if _is_named(pattern, tuple(key.split("/")))
    ]


def fetched(name: str, files: Sequence[ListedFile], folder: Path) -> tuple[ListedFile, ...]:
    """The same files, each with a copy in a folder.

    Raises:
        SourceError: one is another by now, is gone, or cannot be read.
    """
    folder.mkdir()

    def fetch(number: int, file: ListedFile) -> ListedFile:
        bucket, parts = _parted(name, file.path)
        copy = folder / f"{number}"
        try:
            Bucket(f"s3://{bucket}").copy("/".join(parts), Stamp(file.size, file.stamp, 0), copy)
        except NotFound as error:
            raise SourceError(f"The table {name}: {file.path} vanished while it was read; run it again.") from error
        except StorageError as error:
            raise SourceError(f"The table {name}: {file.path} cannot be read: {error}") from error
        return replace(file, at=str(copy))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(fetch, range(len(files)), files))


def _parted(name: str, path: str) -> tuple[str, tuple[str, ...]]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    parts = tuple(part for part in key.split("/") if part)
    if not bucket or ".." in parts or "." in parts:
        raise SourceError(f"The table {name}: {path} is no s3://bucket/folder/file.")
    return bucket, parts


def _is_named(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Whether a path is that of a table's file: it matches itself, or lies in a folder that does and is a table."""
    if pattern and _matches(pattern, parts):
        return pattern[-1] != "**" or is_called_parquet(parts[-1])
    folders = (parts[:length] for length in range(len(parts)) if not any(map(is_hidden, parts[length:])))
    is_table = not any(map(is_pattern, pattern))
    return is_called_parquet(parts[-1]) and any(
        _matches(pattern, folder) and (is_table or is_called_parquet(folder[-1])) for folder in folders
    )


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Part by part; `**` is any number of folders, and of what ends with it every file in and below one."""
    if not pattern or not parts:
        return not pattern and not parts
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return _matches(rest or ("*",), parts) or (not is_hidden(parts[0]) and _matches(pattern, parts[1:]))
    named = first.startswith(("_", ".")) or not is_hidden(parts[0])
    return (parts[0] == first or (named and fnmatchcase(parts[0], first))) and _matches(rest, parts[1:])
