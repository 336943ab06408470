"""Keep a Cassandra for as long as a run of tests lives: `python -m batch_assets_tests.servers.keeper RUN`, by its number.

It goes into the background. Standard output says in one line where the server answers, and is closed then.
"""

import json
import os
import select
import signal
import sys
import threading
from dataclasses import asdict
from types import FrameType

from batch_assets_tests.servers.cassandra_server import CassandraServer
from batch_assets_tests.servers.shared import SharedServer


def main(run: int) -> None:
    if os.fork():
        os._exit(0)  # nobody has to wait for a keeper
    os.setsid()
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=[os.pidfd_open(run)], daemon=True).start()
    with CassandraServer() as server:
        print(json.dumps(asdict(SharedServer(server.port, server.url))), flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        while True:
            signal.pause()


def _watch(run: int) -> None:
    select.select([run], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit()


if __name__ == "__main__":
    main(int(sys.argv[1]))
