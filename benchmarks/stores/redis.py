"""The Redis store beside redis-cli's pipe of one SET for each key, in alternation in one run.

    python benchmarks/stores/redis.py [--rows 1000000] [--rounds 3]
    python benchmarks/stores/redis.py --swap 200 [--processes 4]

It starts a Redis of its own on this machine, without its append-only file. Made-up keys (int64), records of 6 bytes (a
probability, a decile, a label) and of 96 (two numbers, a list of 20), brought in chunks of 131,072 rows as a night brings them.
The bare limit is `redis-cli --pipe` of a file of SETs that is ready beforehand. Memory is what the server says that it uses.
Look-ups come from one thread. With `--swap`, processes look keys up by a Reader while so many releases go live and older ones
are dropped; an error of any of them ends it. Not compared: other clients, a network, a server that writes its data down.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.pop(0)  # in this file's own folder `redis` would be this file
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.records import RecordType
from batch_assets.serving.redis_store import RedisStore
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.serving.store_behaviour import BINARY, WIDE
from batch_assets_tests.serving.store_swapping import swapped
from benchmarks.stores.made_up import clocked, made_up, read_back, release_of, seconds

ASKED, AT_ONCE = 5_000, 10_000


class Rounds:
    """One release and what is done with it, round after round, each time on an empty server."""

    def __init__(self, port: int, folder: Path, rows: int, kind: RecordType) -> None:
        self.storage, self.batches = LocalStorage(str(folder / "root")), made_up(rows, kind)
        self.store, self.pipe, self.port = RedisStore(host="127.0.0.1", port=port), folder / "pipe", port
        self.release, self.number = release_of(self.store, self.batches), 0
        self.taken, self.bytes = dict[str, list[float]](), dict[str, int]()
        with self.pipe.open("wb") as file:
            for keys, some in self.batches:
                for key, record in zip(keys.to_pylist(), some.packed(), strict=True):
                    said = b"%d" % key
                    file.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(said), said, record.nbytes))
                    file.write(record.tobytes() + b"\r\n")

    def bare(self) -> None:
        """A SET for each key."""
        with self.pipe.open("rb") as file:
            command = [str(shutil.which("redis-cli")), "-p", str(self.port), "--pipe"]
            subprocess.run(command, stdin=file, stdout=subprocess.DEVNULL, check=True)

    def build(self) -> None:
        """A release as a night builds it."""
        built = self.store.build(self.storage, self.release, iter(self.batches))
        self.release = self.release.model_copy(update={"built": built})

    def scan(self) -> None:
        """Everything read back and digested, as a night verifies it."""
        read_back(self.storage, self.release)

    def publish(self) -> None:
        """It goes live; the one command that moves the pointer is timed by itself, too."""
        from redis import Redis

        self.number += 1
        move = Redis.eval

        def timed(*said: Any) -> Any:
            began = time.perf_counter()
            try:
                return move(*said)
            finally:
                self.taken.setdefault("move", []).append(time.perf_counter() - began)

        with patch.object(Redis, "eval", timed):
            self.store.publish(self.storage, self.release, self.number)

    def go(self, rounds: int) -> None:
        """Take the time of each, in alternation."""
        with self.store.client() as client:
            for _ in range(rounds):
                for what, do in {"SETs": self.bare, "build": self.build}.items():
                    client.flushall()
                    before = client.info("memory")["used_memory"]
                    self.taken.setdefault(what, []).append(seconds(do))
                    self.bytes[what] = client.info("memory")["used_memory"] - before
                for what, do in {"scan and digest": self.scan, "publish": self.publish}.items():
                    self.taken.setdefault(what, []).append(seconds(do))


def compare(port: int, rows: int, rounds: int, name: str, kind: RecordType) -> None:
    """Print build, scan and look-ups of one kind of records."""
    with tempfile.TemporaryDirectory() as folder:
        found = Rounds(port, Path(folder), rows, kind)
        found.go(rounds)
        median = {what: statistics.median(some) for what, some in found.taken.items()}
        print(f"{name}: {rows:,} rows, {rounds} rounds, medians")
        for what in ("build", "SETs", "scan and digest"):
            print(f"  {what:16} {median[what]:6.2f} s  {rows / median[what]:12,.0f} rows/s")
        print(f"  build : SETs {median['SETs'] / median['build']:.2f} : 1", end=", ")
        print(f"memory {found.bytes['build'] / 1e6:,.0f} : {found.bytes['SETs'] / 1e6:,.0f} MB")
        looked, moved = (max(found.taken[what]) * 1e3 for what in ("publish", "move"))
        print(f"  publish {looked:.0f} ms at most, in which every bucket is looked for; the pointer moves in {moved:.1f} ms")
        look_up(found.store, found.storage, found.release, rows)


def look_up(store: RedisStore, storage: LocalStorage, release: Release, rows: int) -> None:
    """Print what look-ups take."""
    keys = (2 * np.random.default_rng(1).integers(0, rows, ASKED)).tolist()
    table = store.open(storage, release)
    print(f"  get {clocked(table.get, keys)}")
    many = (2 * np.random.default_rng(2).integers(0, rows, AT_ONCE)).tolist()
    took = min(seconds(lambda: table.get_many(many)) for _ in range(5))
    print(f"  get_many of {AT_ONCE:,} {AT_ONCE / took:,.0f} keys/s")


def main() -> None:
    """Compare, or swap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--swap", type=int, metavar="RELEASES", help="swap so many releases instead")
    parser.add_argument("--processes", type=int, default=4, help="that read while releases are swapped")
    parser.add_argument("--reads", type=int, default=1_000_000, help="of all of them together, at least")
    said = parser.parse_args()
    with RedisServer({"appendonly": "no"}) as server:
        if said.swap:
            store = RedisStore(host="127.0.0.1", port=server.port)
            with tempfile.TemporaryDirectory() as folder:
                rows = min(said.rows, 20_000)
                found = swapped(store, Path(folder), "swapped", said.swap, said.processes, rows, said.reads)
            print("\n".join(f"{what}: {number:,}" for what, number in found.items()))
            return
        for name, kind in {"6 bytes": BINARY, "96 bytes": WIDE}.items():
            compare(server.port, said.rows, said.rounds, name, kind)


if __name__ == "__main__":
    main()
