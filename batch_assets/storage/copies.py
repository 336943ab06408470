"""Copies of a bucket's files on this machine, for what maps a file, or what many processes read.

One is made when it is first asked for: by one process, whole or not at all. It is found by root, path and etag, so another
content under the same name is another copy. Copies that nobody has asked for in a week go when one is made; who has one mapped
keeps it. Nothing else goes: what has no name of theirs is somebody else's, wherever it lies.
"""

import errno
import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from batch_assets.errors import StorageError, StorageFull
from batch_assets.storage.port import Stamp

KEPT_SECONDS = 7 * 86_400

_OURS = re.compile(r"[0-9a-f]{32}(\.lock|\.[0-9a-f]{32})?")
"""What a copy is called, its lock, and one that was begun."""


def copies_folder() -> Path:
    """Where copies lie: batch-assets in the folder that BATCH_ASSETS_CACHE names, or in the user's own for such things."""
    named = os.environ.get("BATCH_ASSETS_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named).expanduser() / "batch-assets"


def copy_of(root: str, path: str, stamp: Stamp, copied: Callable[[Path], None]) -> Path:
    """The copy of a file.

    Args:
        root: the storage root, as the user says it.
        path: the file in it.
        stamp: size and etag of the file.
        copied: copies it to a new file, if there is no copy yet.

    Raises:
        StorageFull: the disk here is full.
        StorageError: the copy cannot be written, or what came is not as long as the file.
    """
    name = hashlib.sha256(f"{root}\0{path}\0{stamp.token}\0{stamp.size}".encode()).hexdigest()[:32]
    folder = copies_folder()
    copy = folder / name
    try:
        if copy.exists():
            os.utime(copy)
            return copy
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who else needs it waits, instead of fetching it too
            if not copy.exists():
                _make(copy, path, stamp.size, copied)
        _let_go(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"There is no room for a copy of {path} in {folder}: set BATCH_ASSETS_CACHE.") from error
        raise StorageError(f"{path} cannot be copied to {folder} ({error}): set BATCH_ASSETS_CACHE.") from error
    return copy


def _make(copy: Path, path: str, size: int, copied: Callable[[Path], None]) -> None:
    begun = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
    try:
        copied(begun)
        if (found := begun.stat().st_size) != size:
            raise StorageError(f"Of {path} came {found:,} of {size:,} bytes: try again.")
        begun.chmod(0o444)
        begun.replace(copy)
    finally:
        begun.unlink(missing_ok=True)


def _let_go(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):  # another process may let it go in the same moment
            if _OURS.fullmatch(file.name) and file.stat().st_mtime < time.time() - KEPT_SECONDS:
                file.unlink()
