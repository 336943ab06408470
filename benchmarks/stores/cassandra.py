"""The Cassandra store beside the plainest right way to load the same rows, in alternation in one run.

    python benchmarks/stores/cassandra.py [--rows 1000000] [--rounds 3] [--bucket-bytes 16384]
    python benchmarks/stores/cassandra.py --layouts
    python benchmarks/stores/cassandra.py --swap 200 [--reads 1000000] [--processes 4]

It starts a Cassandra of one node on this machine, whose log reaches the disk every ten seconds, as by default. Made-up keys
(int64), records of 6 bytes (a probability, a decile, a label) and of 96 (two numbers, a list of 20), brought in chunks of
131,072 rows as a night brings them. The bare way is a row for each key, in the driver's unlogged batches of one partition,
prepared, as many rows to a partition and as many batches at once as the store has; "ready" are the store's own rows, made
beforehand. With `--layouts`, other layouts of a table are loaded and asked. With `--swap`, processes look keys up by the
store's pointer while so many releases go live and older ones are dropped; an error of any ends it. Not compared: several
nodes, a network, ScyllaDB.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.pop(0)  # in this file's own folder `cassandra` would be this file
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
import pyarrow as pa

from batch_assets.records import RecordType
from batch_assets.serving import cassandra_store
from batch_assets.serving.buckets import Group, bucket_of, grouped
from batch_assets.serving.cassandra.fields import as_int
from batch_assets.serving.cassandra.maps import Entries
from batch_assets.serving.cassandra.session import Row, Session
from batch_assets.serving.cassandra_store import CassandraStore
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers.cassandra_server import CassandraServer
from batch_assets_tests.servers.jars import QUICK
from batch_assets_tests.serving.store_behaviour import BINARY, WIDE
from batch_assets_tests.serving.store_swapping import swapped
from benchmarks.stores.made_up import clocked, made_up, read_back, release_of, seconds

ROOT = Path(__file__).parent.parent.parent
ASKED, AT_ONCE = 3_000, 10_000
READER = """
import random, sys
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
release = Release.model_validate_json(sys.argv[1])
table = release.store.open(LocalStorage(sys.argv[2]), release)
print("reading", flush=True)
while True:
    table.get(2 * random.randrange(release.rows))
"""
ONE_NODE = {"class": "SimpleStrategy", "replication_factor": 1}


class Warm(CassandraServer):
    """One that lives for longer than those of the tests: with the compiler and collector of a node in use."""

    @property
    def command(self) -> list[str]:
        """With a gigabyte, and none of what is quick for a minute."""
        java, *rest = super().command
        return [java, "-Xms1g", "-Xmx1g", *(one for one in rest if one not in QUICK and not one.startswith("-Xm"))]


class Bare:
    """A table with a row for each key, which the driver writes in unlogged batches of one partition and reads by its types."""

    def __init__(self, store: CassandraStore, record: RecordType, group: Group) -> None:
        self._store, self._session = store, store.session()._session
        self._table, self._group, self._record = f"{store.keyspace}.bare", group, record
        self._names = [field.name for field in record.fields]

    def load(self) -> None:
        """Drop the table, make it again, and write each partition."""
        from cassandra import ConsistencyLevel
        from cassandra.query import BatchStatement, BatchType

        self._session.execute(f"DROP TABLE IF EXISTS {self._table}", timeout=60)
        self._session.execute(
            f"CREATE TABLE {self._table} (bucket int, user bigint, {Entries(pa.int64(), self._record).cql_fields}, "
            "PRIMARY KEY (bucket, user))"
        )
        columns = ", ".join(["bucket", "user", *self._names])
        insert = self._session.prepare(
            f"INSERT INTO {self._table} ({columns}) VALUES ({', '.join('?' * (2 + len(self._names)))})"
        )
        ahead = deque[Any]()
        for bucket, (first, end) in enumerate(zip(self._group.starts[:-1], self._group.starts[1:], strict=True)):
            batch = BatchStatement(BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
            for row in self._rows(bucket, slice(int(first), int(end))):
                batch.add(insert, row)
            ahead.append(self._session.execute_async(batch))
            if len(ahead) >= self._store.concurrency:
                ahead.popleft().result()
        for future in ahead:
            future.result()

    def _rows(self, bucket: int, rows: slice) -> Iterable[tuple[Any, ...]]:
        columns = []
        for field in self._record.fields:
            values = self._group.records[field.name][rows].tolist()
            columns.append([field.names[value] for value in values] if field.names else values)
        keys = self._group.keys[rows].to_pylist()
        return zip([bucket] * len(keys), keys, *columns, strict=True)

    def asks(self) -> Callable[[int], object]:
        """What asks for a key, with the driver's own session."""
        from cassandra.cluster import Cluster

        session = Cluster(list(self._store.contact_points), port=self._store.port, protocol_version=5).connect()
        query = session.prepare(f"SELECT {', '.join(self._names)} FROM {self._table} WHERE bucket = ? AND user = ?")
        count = len(self._group.starts) - 1
        return lambda key: session.execute(query, (bucket_of(key, count), key)).one()


@contextmanager
def readers(storage: LocalStorage, release: Release, processes: int = 2) -> Iterator[None]:
    """Processes that ask for keys while something else is done."""
    command = [sys.executable, "-c", READER, release.model_dump_json(), storage.location]
    reading = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(processes)]  # noqa: S603 # of our own
    try:
        for one in reading:
            one.stdout.readline()  # type: ignore[union-attr]
        yield
    finally:
        for one in reading:
            one.kill()
            one.communicate()


def compare(store: CassandraStore, storage: LocalStorage, rows: int, rounds: int, kind: RecordType) -> None:
    """Print build, scan, publication and look-ups of one kind of records."""
    batches = made_up(rows, kind)
    release, session = release_of(store, batches), store.session()
    first = release.model_copy(update={"built": store.build(storage, release, batches)})
    count = int(first.built["buckets"])
    (group,) = grouped(storage, release, batches, count)
    bare = Bare(store, kind, group)
    ready = list(cassandra_store._rows(Entries(release.key_type, kind), [group]))
    taken, built = dict[str, list[float]](), [first]
    keys = (2 * np.random.default_rng(1).integers(0, rows, ASKED)).tolist()

    def build() -> None:
        built.append(release.model_copy(update={"built": store.build(storage, release, iter(batches))}))

    def write_ready() -> None:
        table = f"{store.keyspace}.{built[-1].built['build']}"
        insert(session, f"INSERT INTO {table} (bucket, records) VALUES (?, ?)", ready, store.concurrency)

    def scan() -> None:
        read_back(storage, built[-1])

    for number in range(rounds):
        steps = {"build": build, "bare batches": bare.load, "ready": write_ready, "scan and digest": scan}
        for what, do in steps.items():
            taken.setdefault(what, []).append(seconds(do))
        with readers(storage, built[-1]):
            again = CassandraStore.model_validate(store.model_dump())  # as a process that connects for it
            for what, one in (("publish", built[-1]), ("roll back", first)):
                step = 2 * number + (what == "roll back")
                taken.setdefault(what, []).append(seconds(lambda: again.publish(storage, one, time.time_ns() + step)))  # noqa: B023
        taken.setdefault("drop", []).append(seconds(lambda: store.drop(storage, built.pop())) if number < rounds - 1 else 0)
    median = {what: statistics.median(some) for what, some in taken.items()}
    print(f"records of {kind.dtype.itemsize} bytes: {rows:,} rows in {count:,} buckets, {rounds} rounds, medians", flush=True)
    for what in ("build", "bare batches", "ready", "scan and digest"):
        print(f"  {what:16} {median[what]:6.2f} s  {rows / median[what]:12,.0f} rows/s")
    print(f"  build : bare batches  {median['bare batches'] / median['build']:.2f} : 1")
    print("  " + ", ".join(f"{what} {max(taken[what]) * 1e3:.0f} ms at most" for what in ("publish", "roll back", "drop")))
    table = store.open(storage, built[-1])
    print(f"  get {clocked(table.get, keys)}; bare {clocked(bare.asks(), keys)}")
    many = (2 * np.random.default_rng(2).integers(0, rows, AT_ONCE)).tolist()
    took = min(seconds(lambda: table.get_many(many)) for _ in range(3))
    print(f"  get_many of {AT_ONCE:,}: {AT_ONCE / took:,.0f} keys/s", flush=True)


def insert(session: Session, cql: str, rows: Iterable[Row], at_once: int) -> None:
    """Write rows."""
    for _ in session.many(cql, rows, "LOCAL_QUORUM", at_once):
        pass


def layouts(store: CassandraStore, storage: LocalStorage, rows: int) -> None:
    """Print what tables of other layouts take, of the same rows and partitions: a row for each key, a map, two blobs."""
    batches = made_up(rows, BINARY)
    release, session, space = release_of(store, batches), store.session(), store.keyspace
    release = release.model_copy(update={"built": store.build(storage, release, batches)})
    count, entries = int(release.built["buckets"]), Entries(release.key_type, BINARY)
    (group,) = grouped(storage, release, batches, count)
    bare, keys = Bare(store, BINARY, group), (2 * np.random.default_rng(1).integers(0, rows, ASKED)).tolist()
    session.change(f"CREATE TABLE {space}.maps (bucket int PRIMARY KEY, records frozen<map<bigint, {entries.cql_record}>>)")
    session.change(f"CREATE TABLE {space}.blobs (bucket int PRIMARY KEY, keys blob, records blob)")
    stored, packed = np.asarray(group.keys), group.records.packed()

    def blobs() -> Iterator[Row]:
        for bucket, (first, end) in enumerate(zip(group.starts[:-1], group.starts[1:], strict=True)):
            yield as_int(bucket), stored[first:end].tobytes(), packed[first:end].tobytes()

    def asks(cql: str, with_key: bool) -> Callable[[int], object]:
        def ask(key: int) -> object:
            values = [key.to_bytes(8, "big")] if with_key else []
            return session.rows(cql, [*values, as_int(bucket_of(key, count))], "LOCAL_ONE")

        return ask

    maps = cassandra_store._rows(entries, [group])
    for name, load, ask in (
        ("rows", bare.load, bare.asks),
        (
            "a map",
            lambda: insert(session, f"INSERT INTO {space}.maps (bucket, records) VALUES (?, ?)", maps, store.concurrency),
            lambda: asks(f"SELECT records[?] FROM {space}.maps WHERE bucket = ?", True),
        ),
        (
            "two blobs",
            lambda: insert(
                session, f"INSERT INTO {space}.blobs (bucket, keys, records) VALUES (?, ?, ?)", blobs(), store.concurrency
            ),
            lambda: asks(f"SELECT keys, records FROM {space}.blobs WHERE bucket = ?", False),
        ),
    ):
        took = seconds(load)
        print(f"{name:10} {rows / took:10,.0f} rows/s, get {clocked(ask(), keys)}", flush=True)


def main() -> None:
    """Compare, or swap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bucket-bytes", type=int, nargs="+", default=[cassandra_store.BUCKET_BYTES])
    parser.add_argument("--layouts", action="store_true")
    parser.add_argument("--swap", type=int, metavar="RELEASES")
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=4)
    said = parser.parse_args()
    periodic = {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"}
    with Warm(periodic) as server, tempfile.TemporaryDirectory() as folder:
        store, storage = CassandraStore(port=server.port, replication=ONE_NODE), LocalStorage(folder)
        if said.swap:
            print(dict(swapped(store, Path(folder), "benchmark", said.swap, said.processes, 20_000, said.reads)))
            return
        for size in said.bucket_bytes:
            cassandra_store.BUCKET_BYTES = size
            print(f"buckets of about {size:,} bytes")
            if said.layouts:
                layouts(store, storage, said.rows)
                return
            for kind in (BINARY, WIDE):
                compare(store, storage, said.rows, said.rounds, kind)


if __name__ == "__main__":
    main()
