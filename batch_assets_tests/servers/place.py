"""A place for one server: a folder and ports that nobody else has.

A server that is down still needs its ports, as it comes up again on the same ones. So each place has a lock file, and the
ports are none of those that Linux gives to connections (32768 and above).
"""

import fcntl
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

BLOCK = 4
"""Ports in a row of one place."""

PORTS = range(20_000, 32_000, BLOCK)


class NoPlace(RuntimeError):
    """There is no place for a server on this machine."""


class Place:
    """The folder and the ports of one server, from when it is made until `leave`, or until this process ends.

    Args:
        root: where all places of this user are; by default in the folder for temporary files. Another user can go through it
            (a server that must not run as root has its data there), and see nothing.

    Raises:
        NoPlace: all ports are taken, or the root is somebody else's.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or Path(tempfile.gettempdir()) / f"batch-assets-servers-{os.getuid()}"
        root.mkdir(mode=0o711, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise NoPlace(f"{root} belongs to somebody else; set TMPDIR to another folder.")
        _sweep(root)
        for port in random.sample(PORTS, len(PORTS)):
            lock = _locked(root / f"{port}.lock")
            if lock is not None and all(_free(port + offset) for offset in range(BLOCK)):
                self.port, self.folder, self._lock = port, root / str(port), lock
                self.folder.mkdir(mode=0o700)
                return
            if lock is not None:
                os.close(lock)
        raise NoPlace(f"All ports of {PORTS} are taken.")

    def leave(self) -> None:
        """Remove the folder; another server may have the ports."""
        shutil.rmtree(self.folder)
        os.close(self._lock)


def _sweep(root: Path) -> None:
    """Remove the folders of those that could not do so themselves, as they were killed."""
    for folder in root.iterdir():
        lock = _locked(root / f"{folder.name}.lock") if folder.is_dir() else None
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)  # its last process may still be about to end
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The file, opened and locked; nothing if another has the lock. It is never removed: two could then have it."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
