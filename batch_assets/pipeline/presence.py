"""Who else works on the same run.

Two processes may score the same run: commits are exclusive, so the result is one. But whoever started the second should
be told. Each worker of a run leaves a file with its host, pid and start time while it works; files of dead processes
are swept away.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from batch_assets.errors import NotFound
from batch_assets.process import Process
from batch_assets.storage import Storage


@contextmanager
def presence(storage: Storage, run_folder: str) -> Iterator[list[Process]]:
    """Announce this process for the time of the block; gives the others that are alive."""
    folder = f"{run_folder}/_active"
    others = []
    for name in storage.names(folder):
        path = f"{folder}/{name}"
        if not name.endswith(".json"):
            continue
        try:
            process = Process.from_mapping(json.loads(storage.read(path)))
        except NotFound:
            continue  # it finished between the listing and the reading
        if process.alive():
            others.append(process)
        else:
            storage.delete(path)
    mine = f"{folder}/{uuid.uuid4().hex[:12]}.json"
    storage.create(mine, json.dumps(Process.current().as_mapping()).encode())
    try:
        yield others
    finally:
        storage.delete(mine)
