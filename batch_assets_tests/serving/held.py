"""A clock and a thread that stand still until somebody moves them: fakes, as no interleaving can be repeated in real time."""

import heapq
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any


@dataclass(eq=False)
class Alarm:
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Time that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._number = count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Alarm:
        alarm = Alarm(callback)
        heapq.heappush(self._alarms, (when, next(self._number), alarm))
        return alarm

    def next(self) -> float:
        """When the next alarm rings."""
        while self._alarms and self._alarms[0][2].cancelled:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else inf

    def ring(self) -> None:
        """Ring every alarm that should have rung by now."""
        for _ in range(1_000):
            if self.next() > self.now:
                return
            heapq.heappop(self._alarms)[2].callback()
        raise AssertionError("alarms ring for ever")


class HeldThread(Executor):
    """A thread that computes when it is told to; what it has begun cannot be cancelled."""

    def __init__(self, called: Callable[[list[int]], None]) -> None:
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._called = called

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._called(args[-1])
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.held.append((future, lambda: fn(*args, **kwargs)))
        return future

    def finish(self) -> None:
        future, compute = self.held.pop(0)
        try:
            future.set_result(compute())
        except BaseException as error:  # noqa: BLE001 - as a thread does
            future.set_exception(error)
