"""Requests that come one by one -> their answers, computed in batches: one pass at a time, and who came first is in the first.

A batch leaves when no pass is running, and it is full or its oldest request has waited `max_wait_ms`. While a pass runs,
requests gather; when it ends, what is full or due leaves at once.

Nobody waits longer than max_wait_ms + (1 + ceil(requests ahead / max_batch_size)) passes. Ahead are those that wait and those
in the pass that is running; the passes are that one, those of who waits ahead, and one's own. A pass is one call of the model,
or as many as it takes to find who makes it raise, `max_calls` at most.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from math import inf
from types import TracebackType
from typing import Generic, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.errors import Closed, Overloaded
from batch_assets.serving.answering import Answer, Asked, Forward, Request, answer_all, awaitable, wanted


class Handle(Protocol):
    """A call that was asked of a clock."""

    def cancel(self) -> None:
        """Do not call."""


class LoopClock(Protocol):
    """What of an event loop knows the time, in seconds since some moment; a test has its own."""

    def time(self) -> float:
        """What time it is."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Handle:
        """Call something at a time, in the event loop."""


class BatcherSettings(BaseModel):
    """When a batch leaves, and how much a batcher takes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch_size: int = Field(256, description="Requests that one pass has at most.", ge=1)
    max_wait_ms: float = Field(2, description="Milliseconds after which a batch leaves though it is not full.", ge=0)
    max_waiting: int = Field(4_096, description="Requests that may wait for a pass; who comes then is refused.", ge=1)
    max_calls: int = Field(64, description="Calls of the model for one batch, where it raises.", ge=1)

    @model_validator(mode="after")
    def _a_full_batch_may_wait(self) -> Self:
        if self.max_waiting < self.max_batch_size:
            raise ValueError("max_waiting must be at least max_batch_size, or no batch is ever full")
        return self


class DynamicBatcher(Generic[Request, Answer]):
    """Gathers the requests of one event loop into batches for a model; everybody is answered exactly once.

    It is made, asked and closed in that loop, and has no task there but that of the pass that is running.

        async with DynamicBatcher(probabilities, BatcherSettings(max_batch_size=64)) as batcher:
            probability = await batcher.ask(row, timeout_ms=50)

    Args:
        forward: the model: requests -> one answer for each, in their order, or an exception where one has none. An
            `async def` is awaited in the loop, which it must not block; anything else is called on the executor.
        settings: when a batch leaves.
        executor: by default one thread, which ends with the batcher.
        clock: by default the event loop.
    """

    def __init__(
        self,
        forward: Forward[Request, Answer],
        settings: BatcherSettings | None = None,
        *,
        executor: Executor | None = None,
        clock: LoopClock | None = None,
    ) -> None:
        self._settings = settings or BatcherSettings()
        self._loop = asyncio.get_running_loop()
        self._clock: LoopClock = clock or self._loop
        self._executor = executor or ThreadPoolExecutor(1, "batcher")  # it has no thread until something is called
        self._owns_executor = executor is None
        self._call = awaitable(forward, self._executor)
        self._waiting: OrderedDict[Asked[Request, Answer], None] = OrderedDict()
        self._batch: list[Asked[Request, Answer]] = []
        self._running: asyncio.Task[None] | None = None
        self._timer: Handle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self.close(drain=error is None)

    @property
    def waiting(self) -> int:
        """How many requests wait for a pass."""
        return len(self._waiting)

    async def ask(self, request: Request, *, timeout_ms: float | None = None) -> Answer:
        """The model's answer to a request. Who is cancelled while waiting is not computed, and nobody else notices.

        Args:
            request: what the model is given.
            timeout_ms: milliseconds after which the answer is worth nothing: it is computed in no call that begins later.

        Raises:
            Overloaded: as many wait as may.
            DeadlinePassed: there was no answer in time.
            NotScored: the model raises on the request; an error of the tree comes as it is.
            Closed: the batcher is closed, or was before it could answer.
        """
        if self._closed:
            raise _closed()
        if len(self._waiting) >= self._settings.max_waiting:
            raise Overloaded(f"{len(self._waiting):,} requests wait already, and no more may (max_waiting): ask again later.")
        now = self._clock.time()
        deadline = inf if timeout_ms is None else now + timeout_ms / 1_000
        asked: Asked[Request, Answer] = Asked(request, now, deadline, self._loop.create_future())
        self._waiting[asked] = None
        alarm = None if timeout_ms is None else self._clock.call_at(deadline, asked.expire)
        self._let_leave()
        try:
            return await asked.answer
        finally:
            self._waiting.pop(asked, None)
            if alarm is not None:
                alarm.cancel()

    async def close(self, *, drain: bool = True) -> None:
        """Take no more requests, and answer those that are there; or, without `drain`, fail them at once.

        Then a pass that is on the executor goes on there by itself, and what it gives is thrown away. What is closed may be
        closed again. If whoever ends the event loop cancels a pass, that closes the batcher, too.
        """
        self._closed = True
        if drain:
            self._let_leave()
        else:
            self._fail_everybody()
            if self._running is not None:
                self._running.cancel()
        while self._running is not None:
            await asyncio.wait([self._running])
        if self._timer is not None:
            self._timer.cancel()
        if self._owns_executor:
            self._executor.shutdown(wait=False)

    def _let_leave(self) -> None:
        """Let a batch leave if it may, or look again when it may: called whenever something happened that could matter."""
        if self._running is not None:
            return
        if self._ready():  # it is not by those who were cancelled a moment ago, or are late
            self._waiting = OrderedDict.fromkeys(wanted(self._waiting, self._clock.time()))
        if self._ready():
            size = min(len(self._waiting), self._settings.max_batch_size)
            self._batch = [self._waiting.popitem(last=False)[0] for _ in range(size)]
            work = answer_all(self._batch, self._call, self._clock.time, self._settings.max_calls)
            self._running = self._loop.create_task(work)
            self._running.add_done_callback(self._ended)  # no `finally`: a task that never began, and is cancelled, has none
        elif self._waiting and self._timer is None:  # one that was set for an earlier request rings too early, never too late
            self._timer = self._clock.call_at(self._due(), self._ring)

    def _ready(self) -> bool:
        """Whether a batch may leave, if no pass is running."""
        if len(self._waiting) >= self._settings.max_batch_size:
            return True
        return bool(self._waiting) and (self._closed or self._due() <= self._clock.time())

    def _due(self) -> float:
        """When the oldest request has waited enough."""
        return next(iter(self._waiting)).arrived + self._settings.max_wait_ms / 1_000

    def _ring(self) -> None:
        self._timer = None
        self._let_leave()

    def _ended(self, _: "asyncio.Task[None]") -> None:
        """A pass has ended; everybody in it has an answer, or it was cancelled."""
        self._running = None
        if not all(one.answer.done() for one in self._batch):
            self._closed = True
            self._fail_everybody()
        self._batch = []
        self._let_leave()

    def _fail_everybody(self) -> None:
        for one in [*self._batch, *self._waiting]:
            one.settle(_closed())


def _closed() -> Closed:
    return Closed("This is closed, and takes no more requests: open another.")
