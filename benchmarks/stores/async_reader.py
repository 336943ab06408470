"""Look-ups from an event loop: an AsyncReader beside the same questions by the server's own client for event loops.

    python benchmarks/stores/async_reader.py [--rows 200000] [--asked 20000] [--at-once 16] [--rounds 5]

It starts a Redis and a PostgreSQL of its own on this machine. So many look-ups are under way at once, each of one key, in
alternation: by the AsyncReader, which asks on threads, and by `redis.asyncio` and psycopg's `AsyncConnection`, with as many
connections as there are look-ups under way, whose answers are decoded by the same code. Not compared: a network, several keys
in one look-up, Cassandra, whose driver has threads of its own.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.pop(0)  # in this file's own folder `redis` would be another file
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.serving.async_reader import AsyncReader
from batch_assets.serving.buckets import bucket_of
from batch_assets.serving.postgres.table import _values
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.serving.redis.bucket import Bucket
from batch_assets.serving.redis_store import RedisStore
from batch_assets.serving.store import Release, Store
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import PostgresServer, RedisServer
from batch_assets_tests.serving.store_behaviour import BINARY
from benchmarks.stores.made_up import made_up, release_of

Ask = Callable[[int], Awaitable[Any]]


async def rate(ask: Ask, keys: list[int], at_once: int) -> float:
    """Look-ups a second. Raises SystemExit if a key has no answer."""
    left = iter(keys)

    async def one_after_the_other() -> None:
        for key in left:
            if await ask(key) is None:
                raise SystemExit(f"key {key} has no answer")

    started = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return len(keys) / (time.perf_counter() - started)


def redis_asked(server: RedisServer, store: RedisStore, release: Release, at_once: int) -> Ask:
    """What `redis.asyncio` finds."""
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(server.url, max_connections=at_once, protocol=2)
    client: Any = Redis(connection_pool=pool)
    bucket, count, dtype = Bucket(release), int(release.built["buckets"]), release.record.dtype

    async def ask(key: int) -> Any:
        record = await client.execute_command("HGET", store.key_of(release, bucket_of(key, count)), bucket.field(key))
        return release.record.as_mapping(np.frombuffer(record, dtype)[0]) if record else None

    return ask


async def postgres_asked(server: PostgresServer, table: Any, release: Release, at_once: int) -> Ask:
    """What psycopg's `AsyncConnection` finds."""
    import psycopg

    free = asyncio.Queue[Any]()
    for _ in range(at_once):
        free.put_nowait(await psycopg.AsyncConnection.connect(server.url, autocommit=True))

    async def ask(key: int) -> Any:
        asked = table._rows.asked(key)
        connection = await free.get()
        try:
            cursor = psycopg.AsyncRawCursor(connection)
            found = _values(await cursor.execute(table._one, asked[0] if asked else (), prepare=True, binary=True))
        finally:
            free.put_nowait(connection)
        return release.record.as_mapping(table._rows.records(found)[0]) if found else None

    return ask


async def compare(store: Store, folder: Path, said: argparse.Namespace, other: Callable[[Release], Awaitable[Ask]]) -> None:
    """Print what an AsyncReader and another client answer."""
    storage, batches = LocalStorage(str(folder / store.kind)), made_up(said.rows, BINARY)
    release = release_of(store, batches)
    release = release.model_copy(update={"built": store.build(storage, release, iter(batches))})
    keys = (2 * np.random.default_rng(1).integers(0, said.rows, said.asked)).tolist()
    found = dict[str, list[float]]()
    with ThreadPoolExecutor(said.at_once) as threads:
        asked = {
            "AsyncReader": AsyncReader(Reader.of_release(storage, release), threads).get,
            "the client": await other(release),
        }
        for _ in range(said.rounds):
            for who, ask in asked.items():
                found.setdefault(who, []).append(await rate(ask, keys, said.at_once))
    ours, theirs = (statistics.median(some) for some in found.values())
    rounds = ", ".join(f"{a / b:.2f}" for a, b in zip(*found.values(), strict=True))
    print(f"{store.kind:9} {ours:7,.0f} : {theirs:7,.0f} look-ups/s  {ours / theirs:.2f} : 1  (rounds {rounds})")


async def run(said: argparse.Namespace, folder: Path) -> None:
    """Compare on both servers."""
    print(f"{said.at_once} under way at once, AsyncReader : the server's own client for event loops, medians")
    with RedisServer({"appendonly": "no"}) as server:
        redis_store = RedisStore(host="127.0.0.1", port=server.port)

        async def by_redis(release: Release) -> Ask:
            return redis_asked(server, redis_store, release, said.at_once)

        await compare(redis_store, folder, said, by_redis)
    with PostgresServer() as database:
        postgres_store = PostgresStore(
            host="127.0.0.1", port=database.port, dbname="postgres", user="postgres", connections=said.at_once
        )

        async def by_psycopg(release: Release) -> Ask:
            table = postgres_store.open(LocalStorage(str(folder / "postgres")), release)
            return await postgres_asked(database, table, release, said.at_once)

        await compare(postgres_store, folder, said, by_psycopg)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--asked", type=int, default=20_000, help="look-ups of one round")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
