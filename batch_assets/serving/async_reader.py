"""Look-ups from an event loop."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

from batch_assets.features.keys import Said
from batch_assets.serving.batcher import BatcherSettings, DynamicBatcher
from batch_assets.serving.reader import Answer, Reader
from batch_assets.serving.store import Release
from batch_assets.storage import Storage

Found = TypeVar("Found")

_AT_ONCE = BatcherSettings(max_batch_size=1_000, max_wait_ms=0, max_waiting=20_000, max_calls=1)
"""Keys that one question to a server has, and that may wait for one; whom a server fails is not found by asking it again."""


class AsyncReader:
    """A `Reader` for an event loop, which never waits for a server: a file is asked in the loop, a server on threads.

    Keys that are asked for one by one while the server is busy with others go to it together. So Redis and PostgreSQL answer
    more of them a second than by their own clients for event loops (`benchmarks/stores/async_reader.py`), and nobody waits
    for a batch to be full. It is made and asked in one event loop.

    Args:
        reader: what is asked.
        threads: where servers are asked; by default those of the event loop.

        reader = await AsyncReader.open("churn")
        answer = await reader.get(42)  # None if nobody has that key
        await reader.close()
    """

    def __init__(self, reader: Reader, threads: Executor | None = None) -> None:
        self._reader, self._threads = reader, threads
        self._together: DynamicBatcher[Said, Answer | None] = DynamicBatcher(reader.get_many, _AT_ONCE, executor=threads)

    @classmethod
    async def open(
        cls, pipeline: str, storage: Storage | None = None, *, threads: Executor | None = None, fresh_s: float = 1.0
    ) -> "AsyncReader":
        """A reader of what is live. Raises as `Reader.open` does."""
        loop = asyncio.get_running_loop()
        return cls(await loop.run_in_executor(threads, lambda: Reader.open(pipeline, storage, fresh_s=fresh_s)), threads)

    async def lookup(self, *key: object) -> Answer:
        """The prediction of a key, one value for each of its columns. Raises as `Reader.lookup` does, and Overloaded."""
        if self._reader.is_local:
            return self._reader.lookup(*key)
        found = await self._together.ask(key)
        return found if found is not None else await self._ask(lambda reader: reader.lookup(*key))

    async def get(self, key: Said) -> Answer | None:
        """The prediction of a key, or None if there is none. Raises as `Reader.get` does, and Overloaded."""
        return self._reader.get(key) if self._reader.is_local else await self._together.ask(key)

    async def get_many(self, keys: Iterable[Said]) -> list[Answer | None]:
        """The predictions of many keys in their order, all of one release. Raises as `Reader.get_many` does."""
        return await self._ask(lambda reader: reader.get_many(keys))

    async def release(self) -> Release:
        """The release that is answered from now. Raises Closed."""
        return await self._ask(lambda reader: reader.release)

    async def close(self) -> None:
        """Let go of the release, which calls that are under way still have."""
        await self._together.close()
        self._reader.close()

    async def _ask(self, ask: Callable[[Reader], Found]) -> Found:
        if self._reader.is_local:
            return ask(self._reader)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask, self._reader)
