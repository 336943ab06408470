"""How fast a stage goes and when it will be done, with an interval that says how sure that is."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_MEMORY = 64
_FEWEST = 3


@dataclass(frozen=True)
class Estimate:
    """Rows per second, and the seconds that remain: between `low` and `high` in about 19 of 20 cases of a steady throughput."""

    rate: float
    low: float
    high: float


class Throughput:
    """Watches a count grow.

    The steps between observations give a mean throughput m and its spread s per row. What remains of R rows then takes R m,
    give or take two standard deviations: R s / sqrt(n) for not knowing m, and s sqrt(R c) for steps of c rows that differ
    by s. The time before the first step is start-up and counts for nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int] | None = None
        self._started = False
        self._steps: deque[tuple[float, int]] = deque(maxlen=_LONGEST_MEMORY)

    def see(self, done: int) -> None:
        """The count has grown."""
        now = self._clock()
        if self._last is not None and done > self._last[1]:
            if self._started:
                self._steps.append((now - self._last[0], done - self._last[1]))
            self._started = True
            self._last = (now, done)
        elif self._last is None:
            self._last = (now, done)

    def estimate(self, remaining: int) -> Estimate | None:
        """How long the remaining rows take, or None while too few steps were seen."""
        if len(self._steps) < _FEWEST:
            return None
        rows = sum(step for _, step in self._steps)
        mean = sum(seconds for seconds, _ in self._steps) / rows
        steps = len(self._steps)
        variance = sum(step * (seconds / step - mean) ** 2 for seconds, step in self._steps) / rows
        spread = math.sqrt(variance * steps / (steps - 1))
        size = rows / steps
        doubt = 2 * math.hypot(remaining * spread / math.sqrt(steps), spread * math.sqrt(remaining * size))
        return Estimate(1 / mean if mean else math.inf, max(0.0, remaining * mean - doubt), remaining * mean + doubt)


def in_words(estimate: Estimate | None) -> str:
    """An estimate for people: 812,345 rows/s, 1:05 to 1:20 left."""
    if estimate is None:
        return "no estimate yet"
    low, high = (f"{int(seconds) // 60}:{int(seconds) % 60:02d}" for seconds in (estimate.low, math.ceil(estimate.high)))
    return f"{estimate.rate:,.0f} rows/s, {low if low == high else f'{low} to {high}'} left"
