"""What a storage root can do, whatever it lies on, and the layout version that is written into it."""

import json
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from batch_assets.errors import NotFound, OtherLayout, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT = 4
"""The layout version under the root; another one is refused."""

FORMAT_FILE = "_format.json"


@dataclass(frozen=True)
class Stamp:
    """What tells cheaply that a file is still the same: its size in bytes and a token (mtime and inode, or an etag).

    `written` is when it was written or touched last, in seconds by the storage's own clock, which may differ from this
    host's: it can be compared with that of another file of the same root, and with nothing else.
    """

    size: int
    token: str
    written: float


class Storage(Protocol):
    """What every storage root can do. Paths are relative, with `/`; they cannot leave the root."""

    @property
    def location(self) -> str:
        """Where the root lies, for messages."""

    @property
    def received(self) -> int:
        """Bytes of files that this object has read over the network until now."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises NotFound."""

    def open(self, path: str) -> "pa.NativeFile":
        """A seekable file for Arrow. Raises NotFound."""

    def stamp(self, path: str) -> Stamp:
        """The file's stamp, without reading it. Raises NotFound."""

    def sha256(self, path: str) -> str:
        """The sha256 of a file's content, in hex. Raises NotFound."""

    def names(self, folder: str) -> dict[str, int]:
        """Direct children of a folder and their sizes in bytes (0 for folders), in one listing; empty if there is none."""

    def local_path(self, path: str) -> Path:
        """A file as a local path, for what maps it: of a bucket a copy on this machine. Raises NotFound, StorageError."""

    def create(self, path: str, data: "bytes | memoryview | pa.Buffer") -> None:
        """Write a file whole, durably and exclusively. Raises AlreadyExists, StorageFull."""

    def adopt(self, folder: Path, path: str) -> dict[str, str]:
        """Move a finished local folder to its final name, exclusively. Raises AlreadyExists, StorageFull.

        Returns:
            The token of each file's stamp, by its name below the folder.
        """

    def touch(self, path: str) -> None:
        """Let a small file be written now, with the content that it has. Raises NotFound."""

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""

    def discard(self, path: str) -> None:
        """Take a folder out of the way that does not hold what its name promises."""

    def leftovers(self, folder: str) -> dict[str, int]:
        """Files below a folder that somebody began to write more than a day ago and never finished: path -> bytes."""

    def free_bytes(self) -> int | None:
        """Free space in bytes, or None where that has no meaning."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A context manager: a new local folder from which `adopt` can take, removed at the end."""


def path_parts(path: str, root: str) -> tuple[str, ...]:
    """The names in a path below a root, which is for the message. Raises StorageError if the path would leave the root."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise StorageError(f"{path!r} is not a path below the storage root {root}.")
    return parts


def layout_document() -> bytes:
    """What `_format.json` says of a root that this program writes first: its layout, and a name that no other root has."""
    return json.dumps({"layout": LAYOUT, "root": uuid.uuid4().hex}).encode()


def root_id(storage: Storage) -> str:
    """The name that a root got when it was first written to, or nothing: it tells one from another in the same place."""
    try:
        return str(json.loads(storage.read(FORMAT_FILE)).get("root", ""))
    except NotFound:
        return ""


def check_layout(document: bytes, root: str) -> None:
    """Compare what a root's `_format.json` says with what this program knows.

    Raises:
        OtherLayout: the root was written by a newer or an older program.
        StorageError: the document cannot be understood.
    """
    try:
        layout = int(json.loads(document)["layout"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{root}/{FORMAT_FILE} does not tell a layout version; is {root} a batch-assets root?") from None
    if layout > LAYOUT:
        raise OtherLayout(f"{root} has layout {layout}, this program writes layout {LAYOUT}: upgrade batch-assets.")
    if layout < LAYOUT:
        raise OtherLayout(
            f"{root} has layout {layout} of an earlier batch-assets, this program writes {LAYOUT}: set BATCH_ASSETS_ROOT "
            "to a new folder, register the models there and run the days again."
        )
