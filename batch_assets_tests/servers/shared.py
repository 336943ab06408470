"""One Cassandra for a whole run of tests, also where several processes run them, which come and go.

The first that asks starts a keeper, which has the server for as long as the process lives that has started the run.
"""

import fcntl
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from batch_assets_tests.servers.cassandra_server import CassandraServer
from batch_assets_tests.servers.server import ServerFailed


@dataclass(frozen=True)
class SharedServer:
    """Where a server answers that others use too, and that nobody may stop."""

    port: int
    url: str


def shared_cassandra(folder: Path, run: int) -> SharedServer:
    """The run's Cassandra, started by whoever asks for it first; the others wait until it answers.

    Args:
        folder: where the processes of the run leave word for each other.
        run: the process with which the server ends, by number.

    Raises:
        ServerMissing: this machine lacks something of it.
        ServerFailed: it cannot be started.
    """
    CassandraServer.require()
    answer, log = folder / "cassandra.json", folder / "cassandra.log"
    with (folder / "cassandra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            with log.open("wb") as errors:
                said = subprocess.run(
                    [sys.executable, "-m", "batch_assets_tests.servers.keeper", str(run)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=Path(__file__).parents[2],
                ).stdout
            if not said:
                raise ServerFailed(log.read_text())
            answer.write_bytes(said)
    return SharedServer(**json.loads(answer.read_bytes()))
