"""One pipeline, as a worker serves it: keys -> answers of the release that is live, and whether that can be asked at all."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import date

from batch_assets.clock import Clock, end_of, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError, Refused
from batch_assets.features.keys import Said
from batch_assets.serving.async_reader import AsyncReader
from batch_assets.serving.live import current_log
from batch_assets.serving.reader import Answer, Reader
from batch_assets.serving.store import Release
from batch_assets.storage import Storage


class Served:
    """A pipeline's look-ups in one event loop, which never waits for a server: the threads that are given do."""

    def __init__(self, config: PipelineConfig, storage: Storage, threads: Executor, clock: Clock = utc_now) -> None:
        self.config = config
        self._storage, self._threads, self._clock = storage, threads, clock
        self._reader: Reader | None = None
        self._asked: AsyncReader | None = None

    async def lookup(self, key: Sequence[object]) -> Answer:
        """The prediction of a key, one value for each of its columns. Raises as `Reader.lookup` does, and Refused."""
        return await (self._asked or await self._ready()).lookup(*key)

    async def get_many(self, keys: Sequence[Said]) -> list[Answer | None]:
        """The predictions of many keys, all of one release. Raises as `Reader.get_many` does, and Refused."""
        return await (self._asked or await self._ready()).get_many(keys)

    async def hindrance(self) -> str:
        """Why the pipeline is not ready to be asked, in a sentence; nothing if it is."""
        try:
            return self._too_old(await (self._asked or await self._ready()).release())
        except BatchAssetsError as error:
            return str(error)

    def open(self) -> Reader:
        """The reader; it may wait for a disk or a server. Raises Refused while nothing was published."""
        if self._reader is None:
            if current_log(self._storage, self.config.name).latest() is None:
                raise Refused(f"Nothing of {self.config.name} has been published yet.", 503, {"Retry-After": "60"})
            self._reader = Reader.open(self.config.name, self._storage)
        return self._reader

    async def close(self) -> None:
        """Let go of the release, when who asks it has an answer."""
        if self._asked is not None:
            await self._asked.close()
        elif self._reader is not None:
            self._reader.close()

    async def _ready(self) -> AsyncReader:
        reader = await asyncio.get_running_loop().run_in_executor(self._threads, self.open)
        self._asked = AsyncReader(reader, self._threads)
        return self._asked

    def _too_old(self, release: Release) -> str:
        limit, day = self.config.serve.stale_after_hours, release.partition
        if limit is None:
            return ""
        age = self._clock() - end_of(date.fromisoformat(day), self.config.partitions.timezone)
        hours = age.total_seconds() / 3_600
        if hours <= limit:
            return ""
        return f"What is live of {self.config.name} is {day}, over for {hours:.1f} hours; {limit:g} are permitted."
