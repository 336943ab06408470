"""A file of a table, and what its name says, wherever it lies."""

from dataclasses import dataclass, field

_PARQUET_NAMES = (".parquet", ".parq", ".pq")


@dataclass(frozen=True)
class ListedFile:
    """A file of a table.

    `stamp` tells that it is still the same, `identity` that two paths lead to one file. `at` is where it is read on this
    machine, if that is not its path.
    """

    path: str
    size: int
    stamp: str
    identity: str
    at: str = field(default="", compare=False)

    @property
    def local(self) -> str:
        """Where it is read."""
        return self.at or self.path


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data. A folder `_column=value` is."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith((".crc", "._COPYING_"))


def is_pattern(text: str) -> bool:
    """Whether a text is a glob."""
    return any(sign in text for sign in "*?[")


def is_called_parquet(name: str) -> bool:
    """Whether a file or folder has the name of one that is Parquet."""
    return name.lower().endswith(_PARQUET_NAMES)
