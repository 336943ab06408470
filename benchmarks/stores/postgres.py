"""The PostgreSQL store beside what PostgreSQL itself needs for the same bytes, in alternation in one run.

    python benchmarks/stores/postgres.py [--rows 1000000] [--rounds 5]
    python benchmarks/stores/postgres.py --swap 200 [--processes 4]

It starts a PostgreSQL of its own on this machine, with fsync and no setting changed. Made-up keys (int64), records of 6 bytes
(a probability, a decile, a label) and of 96 (two numbers, a list of 20), brought in chunks of 131,072 rows as a night brings
them. The bare limit is psycopg's COPY of a buffer that is ready beforehand into a table without an index, and the same with its
primary key and statistics. Look-ups come from one thread; through the view they are planned over all releases of all rounds.
With `--swap`, processes look keys up, half of them through the view and half by a Reader, while so many releases go live and
older ones are dropped; an error of any of them ends it. Not compared: other clients, a network, a server that is tuned.
"""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import psycopg

sys.path.pop(0)  # in this file's own folder other clients would be other files
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.records import RecordType
from batch_assets.serving.postgres.changes import COPY_END, COPY_HEAD
from batch_assets.serving.postgres.rows import Rows
from batch_assets.serving.postgres.schema import Objects, Schema
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_swapping import swapped
from batch_assets_tests.serving.store_behaviour import BINARY, WIDE
from benchmarks.stores.made_up import clocked, made_up, read_back, release_of, seconds

ASKED, AT_ONCE = 5_000, 10_000


class Rounds:
    """One release and what is done with it, round after round; the newest build of it is read and published."""

    def __init__(self, server: PostgresServer, storage: LocalStorage, rows: int, name: str, kind: RecordType) -> None:
        self.server, self.storage, self.batches = server, storage, made_up(rows, kind)
        self.store = PostgresStore(host="127.0.0.1", port=server.port, dbname="postgres", user="postgres", schema_name=name)
        self.release, self.number, self.taken = release_of(self.store, self.batches), 0, dict[str, list[float]]()
        self.build()
        self.messages = [bytes(Rows(self.release).copied(batch)) for batch in self.batches]

    def build(self) -> None:
        """A release as a night builds it."""
        built = self.store.build(self.storage, self.release, iter(self.batches))
        self.release = self.release.model_copy(update={"built": built})

    def scan(self) -> None:
        """Everything read back and digested, as a night verifies it."""
        read_back(self.storage, self.release)

    def publish(self) -> None:
        """It goes live."""
        self.number += 1
        self.store.publish(self.storage, self.release, self.number)

    def bare(self, *, indexed: bool) -> None:
        """COPY of what is ready into a table of the same columns, frozen, in one transaction, as the store's."""
        objects = Objects(
            Schema(self.store.schema_name), self.release.model_copy(update={"built": {"build": "0", "table": "bare"}})
        )
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            with connection.transaction():
                connection.execute(objects.table_made)
                with connection.cursor().copy(objects.copy) as copy:
                    for message in (COPY_HEAD, *self.messages, COPY_END):
                        copy.write(message)
                if indexed:
                    connection.execute(objects.indexed)
            connection.execute(f"DROP TABLE {objects.table}")

    def go(self, rounds: int) -> None:
        """Take the time of each, in alternation."""
        steps = {
            "build": self.build,
            "COPY alone": partial(self.bare, indexed=False),
            "COPY and primary key": partial(self.bare, indexed=True),
            "scan and digest": self.scan,
            "publish": self.publish,
        }
        for _ in range(rounds):
            for what, do in steps.items():
                self.taken.setdefault(what, []).append(seconds(do))


def compare(server: PostgresServer, storage: LocalStorage, rows: int, rounds: int, name: str, kind: RecordType) -> None:
    """Print build, scan and look-ups of one kind of records."""
    found = Rounds(server, storage, rows, name, kind)
    found.go(rounds)
    median = {what: statistics.median(some) for what, some in found.taken.items()}
    print(f"{name}: {rows:,} rows, {rounds} rounds, medians")
    for what in ("build", "COPY alone", "COPY and primary key", "scan and digest"):
        print(f"  {what:22} {median[what]:6.2f} s  {rows / median[what]:12,.0f} rows/s")
    print(f"  build : COPY and primary key {median['COPY and primary key'] / median['build']:.2f} : 1", end=", ")
    index = median["COPY and primary key"] - median["COPY alone"]
    print(f"without what the key takes : COPY alone {median['COPY alone'] / (median['build'] - index):.2f} : 1")
    print(f"  publish {max(found.taken['publish']) * 1e3:.0f} ms at most")
    look_up(server, found.store, storage, found.release, rows)


def look_up(server: PostgresServer, store: PostgresStore, storage: LocalStorage, release: Release, rows: int) -> None:
    """Print what look-ups take, by the store's table and by SQL through the view."""
    keys = (2 * np.random.default_rng(1).integers(0, rows, ASKED)).tolist()
    table = store.open(storage, release)
    print(f"  get {clocked(table.get, keys)}")
    many = (2 * np.random.default_rng(2).integers(0, rows, AT_ONCE)).tolist()
    took = min(seconds(lambda: table.get_many(many)) for _ in range(5))
    print(f"  get_many of {AT_ONCE:,} {AT_ONCE / took:,.0f} keys/s")
    table.close()
    query = f'SELECT * FROM "{store.schema_name}".benchmark_live WHERE "user" = %s'
    with psycopg.connect(server.url, autocommit=True) as connection:

        def by_sql(prepare: bool, key: int) -> None:
            connection.execute(query, [key], prepare=prepare).fetchall()

        print(f"  the view, prepared {clocked(partial(by_sql, True), keys)}")
        print(f"  the view, as text  {clocked(partial(by_sql, False), keys)}")


def main() -> None:
    """Compare, or swap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swap", type=int, metavar="RELEASES", help="swap so many releases instead")
    parser.add_argument("--processes", type=int, default=4, help="that read while releases are swapped")
    parser.add_argument("--reads", type=int, default=1_000_000, help="of all of them together, at least")
    said = parser.parse_args()
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        if said.swap:
            store = PostgresStore(host="127.0.0.1", port=server.port, dbname="postgres", user="postgres")
            looks, rows = -(-said.reads // (said.swap * said.processes * 100)), min(said.rows, 20_000)
            found = swapped(Path(folder), store, said.swap, said.processes, rows, looks)
            print("\n".join(f"{what}: {number:,}" for what, number in found.items()))
            return
        for name, kind in {"6 bytes": BINARY, "96 bytes": WIDE}.items():
            compare(server, LocalStorage(folder), said.rows, said.rounds, name, kind)


if __name__ == "__main__":
    main()
