"""A rush on a batcher that can be had twice: its clock and its thread are moved by who tells the story, and by nobody else.

`test_batcher_real_time` has tests with real ones. Whatever happens, what is seen is compared with what a batcher promises.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil, inf
from typing import Any

from batch_assets.errors import Closed, DeadlinePassed, NotScored, Overloaded, SourceError
from batch_assets.serving.batcher import BatcherSettings, DynamicBatcher
from batch_assets_tests.serving.held import FakeClock, HeldThread


@dataclass(eq=False)
class Caller:
    """Who asks: for what (`good`, `raises`, `refused`), and what happened since. Times in seconds, `idle` while no pass ran."""

    request: int
    kind: str
    task: "asyncio.Task[str]"
    gone: bool = False  # cancelled
    arrived: float = inf  # not yet
    deadline: float = inf
    ahead: int = 0
    found_waiting: int = 0
    passes: int = 0
    idle: float = 0.0
    last_call: list[int] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.arrived < inf and not self.gone and not self.task.done()

    @property
    def waits(self) -> bool:
        return self.open and not self.last_call


class Rush:
    """A batcher, those who ask it, and what its model was called for."""

    def __init__(self, settings: BatcherSettings, *, threaded: bool = True) -> None:
        self.settings, self.clock, self.thread = settings, FakeClock(), HeldThread(self._call_begins)
        self.callers: list[Caller] = []
        self.calls: list[list[int]] = []
        self.closing: list[asyncio.Task[None]] = []
        self.broken: list[AssertionError] = []
        self._pass: list[int] = []
        self._pass_calls = 0
        self._raised_last: set[int] = set()  # in whose last call the model raised
        self._out_of_order = 0  # the model raises so many times, whatever it is asked
        self._errors = cycle([StopIteration, CancelledError, SystemExit] if threaded else [ValueError, asyncio.CancelledError])
        self._late = self._unsettled = False  # alarms rang late; somebody may have gone between leaving and being computed
        forward = self._on_thread if threaded else self._in_loop
        self.batcher: DynamicBatcher[int, str] = DynamicBatcher(forward, settings, executor=self.thread, clock=self.clock)

    # The model

    def _on_thread(self, requests: list[int]) -> list[str | BaseException]:
        out_of_order, self._out_of_order = self._out_of_order > 0, max(self._out_of_order - 1, 0)
        if out_of_order or any(self.callers[one].kind == "raises" for one in requests):
            self._raised_last |= set(requests)
            raise next(self._errors)("out of order")
        self._raised_last -= set(requests)
        return [SourceError("refused") if self.callers[one].kind == "refused" else answer_to(one) for one in requests]

    async def _in_loop(self, requests: list[int]) -> list[str | BaseException]:
        return await asyncio.wrap_future(self.thread.submit(self._on_thread, requests))

    def _call_begins(self, requests: list[int]) -> None:
        """A batcher takes whatever is raised here for an error of the model, so it is kept until the end."""
        try:
            self._compare_call(requests)
        except AssertionError as broken:
            self.broken.append(broken)

    def _compare_call(self, requests: list[int]) -> None:
        """What holds whenever the model is called."""
        now, callers = self.clock.time(), [self.callers[one] for one in requests]
        assert all(one.open for one in callers), "nobody is computed who does not want it any more"
        assert all(now < one.deadline for one in callers), "nobody is computed after the deadline"
        if any(one.waits for one in callers):
            self._pass_begins(callers)
        self._pass_calls += 1
        assert self._pass_calls <= self.settings.max_calls
        assert set(requests) <= set(self._pass)
        for one in callers:
            one.last_call = requests
        self.calls.append(requests)

    def _pass_begins(self, callers: list[Caller]) -> None:
        now, waiting = self.clock.time(), [one for one in self.callers if one.waits]
        wanted = [one for one in waiting if one.deadline > now]
        assert callers == wanted[: len(callers)], "who came first is in the first pass"
        full = len(callers) == self.settings.max_batch_size
        assert len(callers) <= self.settings.max_batch_size
        assert full or self.closing or self._unsettled or self._due(callers[0]) <= now, "it is full or due"
        self._pass, self._pass_calls = [one.request for one in callers], 0
        for one in waiting:
            one.passes += 1

    # What happens

    def ask(self, kind: str = "good", timeout_ms: float | None = None) -> Caller:
        async def asking() -> str:
            caller.arrived = self.clock.time()
            caller.deadline = inf if timeout_ms is None else caller.arrived + timeout_ms / 1_000
            caller.found_waiting = sum(not one.last_call and not one.task.done() for one in self.callers[: caller.request])
            caller.passes = 1 if self.thread.held else 0
            caller.ahead = caller.found_waiting + (len(self._pass) if self.thread.held else 0)
            return await self.batcher.ask(caller.request, timeout_ms=timeout_ms)

        caller = Caller(len(self.callers), kind, asyncio.create_task(asking()))
        self.callers.append(caller)
        return caller

    def cancel(self, which: int = 0) -> None:
        there = [one for one in self.callers if not one.gone and not one.task.done()]
        if there:
            caller = there[which % len(there)]
            caller.gone = self._unsettled = caller.task.cancel()

    async def advance(self, ms: float) -> None:
        """Time passes, and every alarm rings in its time."""
        await self.settle()
        end = self.clock.now + ms / 1_000
        while self.clock.now < end:
            until = max(min(self.clock.next(), end), self.clock.now)
            for one in self.callers:
                one.idle += until - self.clock.now if one.open and not self.thread.held else 0
            self.clock.now = until
            self.clock.ring()
            await self.settle()

    def jump(self, ms: float) -> None:
        """Time passes while the event loop does something else: alarms ring late, if anybody moves the clock again."""
        self._late = self._unsettled = True
        self.clock.now += ms / 1_000

    def finish(self, out_of_order: int = 0) -> None:
        """The call that is under way ends; from now on the model raises so many times."""
        self._out_of_order = max(self._out_of_order, out_of_order)
        if self.thread.held:
            self.thread.finish()

    def close(self, *, drain: bool) -> None:
        self.closing.append(asyncio.create_task(self.batcher.close(drain=drain)))

    async def step(self) -> None:
        """One turn of the event loop."""
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Everything happens that can happen now; then nobody waits for what nobody will do."""
        for _ in range(12):
            await asyncio.sleep(0)
        self._unsettled = False
        waiting = [one for one in self.callers if one.waits]
        assert self.batcher.waiting == len(waiting) <= self.settings.max_waiting
        assert len(self.thread.held) <= 1, "one call at a time"
        done = [one.task for one in self.callers if one.task.done() and not one.task.cancelled()]
        assert self.closing or not any(isinstance(task.exception(), Closed) for task in done)
        if any(task.done() for task in self.closing):
            assert not any(one.open for one in self.callers), "nobody has no answer when it is closed"
        if waiting and not self.thread.held:
            due = min(self._due(one) for one in waiting)
            assert len(waiting) < self.settings.max_batch_size, "a full batch leaves"
            assert not self.closing, "whoever waits leaves when it is closed"
            assert self.clock.next() <= due, "somebody will look when it is due"
            assert self.clock.now < due or self._late, "a batch that is due leaves"

    def _due(self, caller: Caller) -> float:
        return caller.arrived + self.settings.max_wait_ms / 1_000

    async def do(self, story: list[tuple[str, dict[str, Any]]]) -> None:
        for what, how in story:
            found = getattr(self, what)(**how)
            if isinstance(found, Coroutine):
                await found

    async def end(self, *, drain: bool = True) -> None:
        """It is closed, the model computes what is left, and everybody looks at the answer."""
        self.close(drain=drain)
        await self.settle()
        while self.thread.held:
            self.finish()
            await self.settle()
        assert all(task.done() and task.exception() is None for task in self.closing)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left"
        assert self.clock.next() == inf, "no alarm is left"
        for broken in self.broken:
            raise broken
        for caller in self.callers:
            self._compare(caller)

    def _compare(self, caller: Caller) -> None:
        """The answer is one that may be, and came in time."""
        assert caller.task.done()
        if caller.gone:
            assert caller.task.cancelled()
            return
        error = caller.task.exception()
        match error:
            case None:
                assert (caller.kind, caller.task.result()) == ("good", answer_to(caller.request))
            case SourceError():
                assert caller.kind == "refused"
            case NotScored():
                assert caller.request in self._raised_last
                assert caller.last_call == [caller.request] or self.settings.max_calls < 2 * self.settings.max_batch_size - 1
            case DeadlinePassed():
                assert caller.deadline <= self.clock.now
            case Overloaded():
                assert caller.found_waiting >= self.settings.max_waiting
            case _:
                assert isinstance(error, Closed)
                assert self.closing
        assert caller.passes <= 1 + ceil(caller.ahead / self.settings.max_batch_size)
        assert self._late or caller.idle <= self.settings.max_wait_ms / 1_000 + 1e-9


def answer_to(request: int) -> str:
    return f"the answer to {request}"


def run(story: Callable[[], Awaitable[object]]) -> None:
    """Tell a story in an event loop that must have nothing to complain of."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        await story()

    asyncio.run(main())
    assert complaints == []
