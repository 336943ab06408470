"""A DuckDB session that knows nothing but what it is given, and how names and texts are written in its SQL."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from batch_assets.errors import SourceError

if TYPE_CHECKING:
    import duckdb


@contextmanager
def closed_session(
    spill: Path, memory_limit: str, timezone: str = "UTC", files: Iterable[str] = ()
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A session that sees some files, tables that are registered in it and its own spills, and nothing of the environment.

    Args:
        spill: a folder that is there, in which what does not fit in memory lies as long as the session lasts.
        memory_limit: what it may use before it does, like 4GB.
        timezone: its time zone.
        files: the only files that it may open.
    """
    import duckdb

    with TemporaryDirectory(dir=spill) as folder, duckdb.connect() as connection:
        _close_off(connection, folder, memory_limit, timezone, files)
        yield connection


def _close_off(
    connection: "duckdb.DuckDBPyConnection", folder: str, memory_limit: str, timezone: str, files: Iterable[str]
) -> None:
    settings = {
        "memory_limit": memory_limit,
        "temp_directory": folder,
        "TimeZone": timezone,
        "Calendar": "gregorian",
        **dict.fromkeys(("home_directory", "extension_directory", "secret_directory"), folder),
        "disabled_optimizers": "statistics_propagation",  # it answers min and max by footers, which leave NaN out
        **dict.fromkeys(("http_proxy", "http_proxy_username", "http_proxy_password"), ""),  # from the environment by default
    }
    switched_off = (
        "python_enable_replacements",
        "autoload_known_extensions",
        "autoinstall_known_extensions",
        "enable_progress_bar",  # the command line has its own
    )
    for name, value in settings.items():
        connection.execute(f"SET {name} = {quoted(value)}")
    for name in switched_off:
        connection.execute(f"SET {name} = false")
    connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, files))}]")
    connection.execute("SET enable_external_access = false")


def require_keys(named: str, names: Sequence[str], keys: Sequence[str]) -> None:
    """Raise SourceError unless columns have the names of all keys, and no two have one that SQL does not tell apart."""
    missing = [key for key in keys if key not in names]
    if missing:
        raise SourceError(f"{named} does not give the key {' and '.join(missing)}, only {', '.join(names)}.")
    doubled = sorted({name for name in names if [folded(other) for other in names].count(folded(name)) > 1})
    if doubled:
        raise SourceError(f"{named} gives {' and '.join(doubled)} more than once; give each column a name of its own.")


def bytes_of(memory_limit: str) -> int | None:
    """What DuckDB takes a limit for, like 4GB or 512MiB; None for a share of the machine's memory."""
    said = re.fullmatch(r"\s*(\d*\.?\d+)\s*([KMGT])(I?)B?\s*", memory_limit.upper())
    if said is None:
        return None
    unit: int = (1024 if said[3] else 1000) ** ("KMGT".index(said[2]) + 1)
    return round(float(said[1]) * unit)


def folded(name: str) -> str:
    """What SQL compares of a name: DuckDB takes A to Z for a to z, and no other letters."""
    return "".join(sign.lower() if sign.isascii() else sign for sign in name)


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def first_line(error: BaseException) -> str:
    """What an error says, without the line of the query that follows."""
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
