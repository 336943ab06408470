"""Who else works on the same partition or run.

Two processes may score the same run: commits are exclusive, so the result is one. But whoever starts the second should be
told. Each worker leaves a file with its host, pid and start time while it works. It writes its own before it reads the
others', so that of two that start in the same moment at least one sees the other. Files of dead processes are swept away.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from batch_assets.errors import NotFound
from batch_assets.process import Process
from batch_assets.storage import Storage


@contextmanager
def lease(storage: Storage, folder: str) -> Iterator[list[Process]]:
    """Announce this process in a folder's `_active` for the time of the block; gives the others that are alive."""
    active, me = f"{folder}/_active", Process.current()
    mine = f"{uuid.uuid4().hex[:12]}.json"
    storage.create(f"{active}/{mine}", json.dumps(me.as_mapping()).encode())
    try:
        for path in left_behind(storage, folder):
            storage.delete(path)
        yield [process for process in at_work(storage, folder) if process != me]
    finally:
        storage.delete(f"{active}/{mine}")


def at_work(storage: Storage, folder: str) -> list[Process]:
    """The processes that have announced themselves in a folder and are alive."""
    return [process for _, process in _announced(storage, folder) if process is not None]


def left_behind(storage: Storage, folder: str) -> dict[str, int]:
    """The files of processes that have died since they announced themselves in a folder, by path, and their sizes."""
    sizes = storage.names(f"{folder}/_active")
    dead = [name for name, process in _announced(storage, folder) if process is None]
    return {f"{folder}/_active/{name}": sizes.get(name, 0) for name in dead}


def _announced(storage: Storage, folder: str) -> Iterator[tuple[str, Process | None]]:
    """Each file and its process, or None if that is not alive."""
    for name in storage.names(f"{folder}/_active"):
        if not name.endswith(".json"):
            continue
        try:
            process: Process | None = Process.from_mapping(json.loads(storage.read(f"{folder}/_active/{name}")))
        except NotFound:
            continue  # it finished between the listing and the reading
        except (ValueError, KeyError, TypeError):
            process = None  # not written by a living process: those write whole files
        yield name, process if process is not None and process.alive() else None
