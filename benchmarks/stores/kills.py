"""A store's server killed (SIGKILL) at random moments of whole nights, and started again: old or new is live, never neither.

    python benchmarks/stores/kills.py --server redis [--kills 50] [--stages build publish] [--seed 1] [--rows 100000]

`--server` is redis, postgres or cassandra, `--kills` how many there are in each stage: while a release is built, while it is
read back, while it goes live, and while the one before is dropped. Each kill is in the night of another day. Afterwards readers
of the store's own pointer (one of before, and a new one) and of `serving/_current` must see the day before or the new one, and
the release that they see must be whole; publishing again must let the new day be live everywhere; and after `releases prune`
the server must hold the live release and nothing else. Prints a line for each kill and a summary; exits 1 at the first that is
otherwise. The server is one of its own on this machine, which writes everything to its disk before it answers. To find its
processes takes some hundredths of a second, so a kill in a stage that is shorter comes a little after it. `mended` counts
starts of a Cassandra that had half of a table's description, and was mended by the statements of its own message.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

sys.path.pop(0)  # in this file's own folder `redis` would be redis.py
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.releases import prune_stores, publish_day
from batch_assets.serving.build import require_equal
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Pointer, Release, Store
from batch_assets_tests.servers import CassandraServer, PostgresServer, RedisServer, Server
from batch_assets_tests.small import Small, rows, small_model
from benchmarks.stores.killer import STAGES, UNDISTURBED, Failed, Killer

PATIENCE = 120.0
"""Seconds after which everything must be well again."""

FIRST = date(2024, 1, 1)

Found = TypeVar("Found")


class Nights:
    """Nights of a small pipeline whose only store is a server's."""

    def __init__(self, folder: Path, server: Server, kind: str, count: int, source: random.Random) -> None:
        store = {"kind": kind, "keep": 1, **SETTINGS[kind](server)}
        scoring = {"chunk_rows": 8_192, "batch_size": 1_024}
        self.server, self.kind = server, kind
        self.small = Small(folder, rows(count), small_model(), stores=[store], scoring=scoring)
        self.killer = Killer(server, type(self.small.config.stores[0]), source)
        self.number = 0

    @property
    def store(self) -> Store:
        """The store, as the pipeline says it now."""
        return self.small.config.stores[0]

    def begin(self) -> None:
        """Some nights that nobody disturbs: how long the stages take."""
        for _ in range(UNDISTURBED + 1):  # the first has nothing to drop
            publish(self._judged(), self.small.progress)

    def kill(self, stage: str) -> str:
        """A night whose server is killed, and all that must hold afterwards; says what was seen. Raises Failed."""
        before = _day(self.number)
        reader = Reader.of_store(self.store, "small", fresh_s=0)
        night = self._judged()
        self.killer.arm(stage)
        try:
            publish(night, self.small.progress)
            ended = "went on"
        except (StoreUnavailable, ReleaseBroken):
            ended = "gave up"
        self.killer.wait()
        self._connect_again()
        seen = self._seen_by(reader, before, night.day)
        self._again(lambda: self._publish_again(night.day))
        if self._seen_by(reader, before, night.day) != night.day:
            raise Failed(f"{night.day} was published again, and readers see another day.")
        self._again(self._prune)
        return f"killed in {self.killer.hit:<8} {ended:<8} readers saw the {'new' if seen == night.day else 'old'} day"

    def _pointer(self) -> Pointer:
        """What the store's own pointer names. Raises Failed if that is nothing."""
        pointer = self.store.pointer(self.small.storage, "small")
        if pointer is None:
            raise Failed("Nothing is live in the store.")
        return pointer

    def _judged(self) -> Night:
        self.number += 1
        day = _day(self.number)
        freeze(self.small.config, self.small.storage, day, self.small.progress)
        scored = score(self.small.opened(day), LocalEngine(2), self.small.progress)
        judge(scored.night, scored.manifest)
        return scored.night

    def _connect_again(self) -> None:
        """A pipeline that is read again from its YAML has no connection of before."""
        self.small.config = type(self.small.config).model_validate(self.small.config.model_dump())

    def _again(self, ask: Callable[[], Found]) -> Found:
        """What somebody is told who asks again while the server is not yet as it was. Raises Failed."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise Failed(f"{PATIENCE:.0f} s after it was killed: {error}") from error
                self._connect_again()
                time.sleep(0.2)

    def _seen_by(self, reader: Reader, *days: str) -> str:
        """The day that readers of the store's own pointer see, of some; those of the storage root see one of them, too."""
        storage = self.small.storage
        pointer = self._again(self._pointer)
        self._again(lambda: require_equal(storage, pointer.release))
        seen = self._again(lambda: reader.lookup(1)).record["partition"]
        new = self._again(lambda: Reader.of_store(self.store, "small").lookup(1)).record["partition"]
        root = self._again(lambda: Reader.open("small", storage).lookup(1)).record["partition"]
        if seen != new or new != pointer.release.partition or not {new, root} <= set(days):
            raise Failed(
                f"Readers see {seen}, {new} and {root}, the pointer names {pointer.release.name}, wanted is one of {days}."
            )
        return str(new)

    def _publish_again(self, day: str) -> None:
        small = self.small
        if publish_day(small.config, small.storage, small.registry, day, small.progress).lagging:
            raise StoreUnavailable("It lags.")
        outcome = published_matches(small.opened(day))
        if not outcome.passed:
            raise Failed(f"{day} was published again: {outcome.message}")

    def _prune(self) -> None:
        """Drop what nobody needs; afterwards the server must hold what is live and nothing else."""
        found = prune_stores(self.small.config, self.small.storage, dry_run=False)
        if found.unavailable:
            raise StoreUnavailable(str(found.unavailable))
        pointer = self._pointer()
        if self.store.left_behind(self.small.storage, "small", [pointer.release]):
            self.server.stop()  # a Cassandra that was killed while it made a table has it only from its next start on
            self.server.start()
            raise StoreUnavailable("It was started again.")
        there, wanted = HELD[self.kind](self.server), LIVE[self.kind](pointer.release)
        if there != wanted:
            strange, lost = (sorted(some)[:3] for some in (there - wanted, wanted - there))
            raise Failed(
                f"The server holds what nobody names ({', '.join(strange)}), or lacks what is live ({', '.join(lost)})."
            )


def _day(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


def _in_redis(server: Server) -> set[str]:
    import redis

    with redis.Redis(port=server.port) as client:
        return {name.decode() for name in client.scan_iter(count=10_000)}


def _of_redis(release: Release) -> set[str]:
    buckets = {f"batch_assets:small:{release.built['build']}:{number}" for number in range(int(release.built["buckets"]))}
    return {"batch_assets:{small}:live", "batch_assets:{small}:builds", *buckets}


def _in_postgres(server: Server) -> set[str]:
    import psycopg

    where = f"host=127.0.0.1 port={server.port} dbname=postgres user=postgres"
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'batch_assets'::regnamespace AND relkind = 'r'"
    with psycopg.connect(where) as connection:
        return {name for (name,) in connection.execute(query)}


def _in_cassandra(server: Server) -> set[str]:
    from cassandra.cluster import Cluster

    query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'batch_assets'"
    with Cluster(["127.0.0.1"], port=server.port) as cluster, cluster.connect() as session:
        return {name for (name,) in session.execute(query)}


SERVERS = {"redis": RedisServer, "postgres": PostgresServer, "cassandra": CassandraServer}
ONE_NODE = {"class": "SimpleStrategy", "replication_factor": 1}
SETTINGS: dict[str, Callable[[Server], dict[str, Any]]] = {
    "redis": lambda server: {"host": "127.0.0.1", "port": server.port, "timeout_s": 5},
    "postgres": lambda server: {
        "host": "127.0.0.1", "port": server.port, "dbname": "postgres", "user": "postgres", "timeout_s": 5
    },
    "cassandra": lambda server: {
        "port": server.port, "keyspace": "batch_assets", "replication": ONE_NODE, "timeout_s": 5, "schema_timeout_s": 20
    },
}  # fmt: skip
HELD = {"redis": _in_redis, "postgres": _in_postgres, "cassandra": _in_cassandra}
LIVE: dict[str, Callable[[Release], set[str]]] = {
    "redis": _of_redis,
    "postgres": lambda release: {"builds", "pointers", release.built["table"]},
    "cassandra": lambda release: {"releases", release.built["build"]},
}


def main() -> None:
    """Kill and look, stage after stage in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=SERVERS, required=True)
    parser.add_argument("--kills", type=int, default=50, help="in each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable()  # a reader says each time that it cannot look; it is asked until it can
    source, outcomes = random.Random(options.seed), Counter[str]()  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as folder, SERVERS[options.server]() as server:
        nights = Nights(Path(folder), server, options.server, options.rows, source)
        nights.begin()
        for number in range(options.kills):
            for stage in options.stages:
                began = time.monotonic()
                said = nights.kill(stage)
                outcomes[f"{stage}, {'new' if 'the new' in said else 'old'} day"] += 1
                print(f"{number + 1:>3} {stage:<8} {said} ({time.monotonic() - began:.1f} s)", flush=True)
        mended = {"mended": server.mended} if isinstance(server, CassandraServer) else {}
    print(json.dumps({"server": options.server, "kills": sum(outcomes.values()), **mended, **dict(sorted(outcomes.items()))}))


if __name__ == "__main__":
    main()
