"""One Cassandra for a whole run of tests, also where several processes run them.

`shared_cassandra` is what each of them calls. The first has this file started as a process of its own, which keeps the server
for as long as the run's first process lives: those that run tests come and go.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from batch_assets_tests.servers.cassandra_server import CassandraServer
from batch_assets_tests.servers.server import ServerFailed


@dataclass(frozen=True)
class SharedServer:
    """Where a server answers that others use too, and that nobody may stop."""

    port: int
    url: str


def shared_cassandra(folder: Path, owner: int) -> SharedServer:
    """The run's Cassandra, started by whoever asks for it first; the others wait until it answers.

    Args:
        folder: where the processes of the run leave word for each other.
        owner: the process with which the server ends, by number.

    Raises:
        ServerMissing: this machine lacks something of it.
        ServerFailed: it cannot be started.
    """
    CassandraServer.require()
    answer = folder / "cassandra.json"
    with (folder / "cassandra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            answer.write_text(_kept(owner, folder / "cassandra.log"))
    return SharedServer(**json.loads(answer.read_text()))


def _kept(owner: int, log: Path) -> str:
    """What the keeper says when the server answers."""
    with log.open("wb") as errors:
        command = [sys.executable, "-m", __name__, str(owner)]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True).stdout
    if not said:
        raise ServerFailed(log.read_text())
    return said


def keep(owner: int) -> None:
    """Keep a Cassandra until the owner ends; standard output says where it answers, and is closed then."""
    if os.fork():
        os._exit(0)  # nobody has to wait for a keeper
    os.setsid()
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=[os.pidfd_open(owner)], daemon=True).start()
    with CassandraServer() as server:
        print(json.dumps(asdict(SharedServer(server.port, server.url))), flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        while True:
            signal.pause()


def _watch(owner: int) -> None:
    select.select([owner], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit()


if __name__ == "__main__":
    keep(int(sys.argv[1]))
