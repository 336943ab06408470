"""Who is at work: a lease is a file that its worker renews for as long as it works, so that it ends with the worker.

Two processes may score the same run: commits are exclusive, so the result is one. But whoever starts the second should be
told, and nobody may prune what somebody works on. Each worker leaves a file with its host, pid and start time. It writes its
own before it reads the others', so that of two that start in the same moment at least one sees the other.

A worker of this host is dead as soon as its process is, one of another host if it has not renewed its lease for a while. That
is told by the storage's clock alone, from the time of the file and that of a file that was written just now: the clocks of the
hosts may differ. Files of dead workers are swept away.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from batch_assets.errors import NotFound, StorageError
from batch_assets.process import Process
from batch_assets.storage.port import Storage

LEASE_SECONDS = 60.0
"""A worker of another host that has not renewed its lease for so long is dead."""

RENEW_SECONDS = 15.0
"""So often a lease is renewed: three renewals in a row may fail or be late."""

Pause = Callable[[threading.Event, float], bool]
"""Waits so many seconds, or until the event is set; says whether it is."""


@dataclass(frozen=True)
class Others:
    """Who else is at work, and how many died at it since somebody last began."""

    alive: list[Process]
    died: int


@contextmanager
def lease(storage: Storage, folder: str, *, pause: Pause = threading.Event.wait) -> Iterator[Others]:
    """Announce this process in a folder's `_active` for the time of the block; gives the others."""
    me = Process.current()
    mine, content = f"{folder}/_active/{uuid.uuid4().hex[:12]}.json", json.dumps(me.as_mapping()).encode()
    storage.create(mine, content)

    def renew() -> None:
        try:
            storage.touch(mine)
        except NotFound:  # this process was silent for so long that it was taken for dead
            storage.create(mine, content)

    try:
        with renewed(renew, pause):
            dead = left_behind(storage, folder)
            for path in dead:
                storage.delete(path)
            yield Others([process for process in at_work(storage, folder) if process != me], len(dead))
    finally:
        storage.delete(mine)


def at_work(storage: Storage, folder: str) -> list[Process]:
    """The processes that have announced themselves in a folder and are alive."""
    return list(dict.fromkeys(process for _, process in _announced(storage, folder) if process is not None))


def left_behind(storage: Storage, folder: str) -> dict[str, int]:
    """The files of processes that have died since they announced themselves in a folder, by path, and their sizes."""
    sizes = storage.names(f"{folder}/_active")
    dead = [name for name, process in _announced(storage, folder) if process is None]
    return {f"{folder}/_active/{name}": sizes.get(name, 0) for name in dead}


@contextmanager
def renewed(renew: Callable[[], None], pause: Pause = threading.Event.wait) -> Iterator[None]:
    """Call `renew` every now and then in a thread for the time of the block; what it cannot do does not disturb the block."""
    over = threading.Event()

    def keep() -> None:
        while not pause(over, RENEW_SECONDS):
            with suppress(StorageError, OSError):  # the next renewal is tried all the same
                renew()

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _announced(storage: Storage, folder: str) -> Iterator[tuple[str, Process | None]]:
    """Each file and its process, or None if that is not alive."""
    for name in storage.names(f"{folder}/_active"):
        if not name.endswith(".json"):
            continue
        path = f"{folder}/_active/{name}"
        try:
            process = Process.from_mapping(json.loads(storage.read(path)))
            stamp = storage.stamp(path)
            alive = process.alive() if process.is_here else _now(storage, folder) - stamp.written <= LEASE_SECONDS
        except NotFound:
            continue  # it finished between the listing and the reading
        except (ValueError, KeyError, TypeError):
            yield name, None  # not written by a living process: those write whole files
            continue
        yield name, process if alive else None


def _now(storage: Storage, folder: str) -> float:
    """What the storage's clock says, by the stamp of a file that is written for that."""
    path = f"{folder}/_active/_tmp/{uuid.uuid4().hex}"
    storage.create(path, b"")
    written = storage.stamp(path).written
    storage.delete(path)
    return written
