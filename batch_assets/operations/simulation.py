"""A plan, played: nights of workers that take chunks, are taken away and replaced, with slow chunks, retries, slow publishing.

It knows nothing of the formulas of `plan` and `cost`, so that the two confirm each other, and it gives what they do not: a
distribution of the night's length, and a picture of one night. The same seed gives the same nights.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from batch_assets.engines.engine import IN_HAND, Price
from batch_assets.nightly.estimates import added
from batch_assets.nightly.timings import STAGES
from batch_assets.operations.plan import Plan
from batch_assets.ports import extra
from batch_assets.quality.statistics import Interval

_Z = 1.645
"""Of a normal distribution 90 % lie within so many deviations."""

Kind = Literal["scored", "lost", "away"]


@dataclass(frozen=True)
class Played:
    """What is played: a night's workers and chunks, in seconds and shares.

    `before` and `after` are what the night takes before and after scoring. For each night one length of these and of a `chunk`
    is drawn from their intervals; around that length chunks differ by `spread` (the deviation of a logarithm).
    `preemptions_per_hour` are of one worker, whose place is empty for `replacement`. A share of chunks are `stragglers`,
    `slower` times as long; a share (`retries`) is done in vain and tried again. On a share of nights (`slow_publishers`) what
    comes after is `slow_publisher` times as long.
    """

    workers: int
    chunks: int
    chunk: Interval
    before: Interval
    after: Interval
    preemptions_per_hour: float = 0.0
    replacement: float = 120.0
    spread: float = 0.15
    stragglers: float = 0.01
    slower: float = 4.0
    retries: float = 0.001
    slow_publishers: float = 0.05
    slow_publisher: float = 2.0


@dataclass(frozen=True)
class Span:
    """What a worker did, or that it was away, from one second of scoring to another."""

    worker: int
    start: float
    end: float
    kind: Kind


@dataclass(frozen=True)
class OneNight:
    """A played night: seconds before, while and after it was scored, how often a worker was lost, and what workers did."""

    before: float
    scoring: float
    after: float
    preemptions: int
    spans: tuple[Span, ...] = field(repr=False)

    @property
    def total(self) -> float:
        """Seconds of the whole night."""
        return self.before + self.scoring + self.after


@dataclass(frozen=True)
class Simulated:
    """Many played nights: how long each of them was, in seconds, and the first one of median length."""

    totals: tuple[float, ...]
    preemptions: float
    median: OneNight

    def quantile(self, share: float) -> float:
        """What so many nights were not longer than."""
        return float(np.quantile(self.totals, share))

    def fits(self, deadline: float) -> float:
        """The share of nights that held a deadline."""
        return sum(total <= deadline for total in self.totals) / len(self.totals)


def simulate(played: Played, nights: int, seed: int) -> Simulated:
    """Play nights. Raises MissingExtra if simpy is not installed."""
    found = [play(played, np.random.default_rng([seed, number])) for number in range(nights)]
    middle = float(np.median([night.total for night in found]))
    return Simulated(
        totals=tuple(night.total for night in found),
        preemptions=sum(night.preemptions for night in found) / nights,
        median=min(found, key=lambda night: abs(night.total - middle)),
    )


def play(played: Played, random: np.random.Generator) -> OneNight:
    """Play one night. Raises MissingExtra."""
    simpy = extra("simpy", "plan", "A simulation")
    before, chunk, after = (_drawn(one, random) for one in (played.before, played.chunk, played.after))
    scoring = _Scoring(simpy, played, chunk, random)
    slow = played.slow_publisher if random.random() < played.slow_publishers else 1.0
    return OneNight(before, scoring.run(), after * slow, scoring.preemptions, tuple(scoring.spans))


class _Scoring:
    """The scoring of one night: a queue of chunks, workers, and what takes workers away.

    A worker computes one chunk at a time, and commits it when it has computed `(IN_HAND - 1) / 2` more, or nothing is left to
    take: so what it loses when it is taken away is, with the half of the chunk that it computes, `IN_HAND / 2` on average.
    """

    def __init__(self, simpy: Any, played: Played, chunk: float, random: np.random.Generator) -> None:
        self._simpy, self._played, self._random = simpy, played, random
        self._env = simpy.Environment()
        self._queue = simpy.Store(self._env)
        self._done = self._env.event()
        self._left = played.chunks
        lengths = chunk * np.exp(random.normal(-(played.spread**2) / 2, played.spread, played.chunks))
        lengths[random.random(played.chunks) < played.stragglers] *= played.slower
        self._lengths: list[float] = lengths.tolist()
        self.spans: list[Span] = []
        self.preemptions = 0

    def run(self) -> float:
        """Until every chunk is committed; how long that takes."""
        self._queue.items.extend(range(self._played.chunks))
        for number in range(self._played.workers):
            worker = self._env.process(self._work(number))
            if self._played.preemptions_per_hour:
                self._env.process(self._take_away(worker))
        if self._left:
            self._env.run(until=self._done)
        return float(self._env.now)

    def _take_away(self, worker: Any) -> Generator[Any, Any, None]:
        mean = 3600 / self._played.preemptions_per_hour
        while worker.is_alive:
            yield self._env.timeout(self._random.exponential(mean))
            if worker.is_alive:
                worker.interrupt()

    def _work(self, number: int) -> Generator[Any, Any, None]:
        held = list[int]()
        while self._left:
            asked = self._queue.get()
            started: float | None = None
            try:
                chunk: int = yield asked
                started = self._env.now
                yield self._env.timeout(self._lengths[chunk])
            except self._simpy.Interrupt:
                yield from self._replaced(number, asked, started, held)
                continue
            self.spans.append(Span(number, started, self._env.now, "scored"))
            held.append(chunk)
            if self._random.random() < self._played.retries:
                self._queue.put(held.pop())
            nothing_left = len(self._queue.items) <= len(self._queue.get_queue)  # others wait for what there is
            while held and (len(held) > (IN_HAND - 1) // 2 or nothing_left):
                self._commit(held.pop(0))

    def _replaced(self, number: int, asked: Any, started: float | None, held: list[int]) -> Generator[Any, Any, None]:
        """A worker is taken away: what was in its hand is put back, and another is there after a while."""
        self.preemptions += 1
        lost = self._env.now
        if started is not None:
            self.spans.append(Span(number, started, lost, "lost"))
        asked.cancel()  # it does nothing if there was something to take
        for chunk in [*held, *([asked.value] if asked.triggered else [])]:
            self._queue.put(chunk)
        held.clear()
        back = lost + self._played.replacement
        while self._env.now < back:
            try:
                yield self._env.timeout(back - self._env.now)
            except self._simpy.Interrupt:
                continue  # whoever is not there yet cannot be taken away
        self.spans.append(Span(number, lost, self._env.now, "away"))

    def _commit(self, _: int) -> None:
        self._left -= 1
        if not self._left:
            self._done.succeed()


def _drawn(interval: Interval, random: np.random.Generator) -> float:
    """One length of what takes `value`, and lies within the interval in 90 % of nights."""
    if interval.value <= 0:
        return 0.0
    spread = math.log(interval.high / interval.low) / (2 * _Z) if interval.low > 0 else 0.0
    return interval.value * math.exp(spread * random.normal())


def played_of(plan: Plan, price: Price | None) -> Played:
    """What is played of a plan: its stages, and what the price says of spot."""
    scoring = plan.seconds["scoring"]
    after = STAGES.index("scoring")
    halves = [
        added(one for stage, one in plan.seconds.items() if (STAGES.index(stage) > after) is late and stage != "scoring")
        for late in (False, True)
    ]
    return Played(
        workers=plan.workers,
        chunks=plan.chunks,
        chunk=scoring.times(plan.chunk_seconds / scoring.value),
        before=halves[0],
        after=halves[1],
        preemptions_per_hour=(price.preemptions_per_hour if price else None) or 0.0,
        replacement=price.replacement_seconds if price else 0.0,
    )
