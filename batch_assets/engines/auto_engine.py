"""The engine of a night for which nobody says one: threads of this process, unless Ray is worth its start.

Ray is taken from the beginning where a cluster is named, where the model runs on a GPU, and where a process died while it
scored the same run: a row that kills ends one worker there, not the run. Otherwise threads begin, which need no start of their
own. When what they have done says that the rest will take them long, Ray takes over what nobody has begun.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from typing_extensions import override

from batch_assets.engines.engine import Engine, Item, Notice, Result, Workers, WorkTimes
from batch_assets.scoring.scorer import Scorer, ScoringTask

LONG_SECONDS = 300.0
"""Of so much work left the start of Ray is a few hundredths, and a lost worker costs less than a lost process."""

_FEWEST = 4
"""So many chunks must be done before they say how long the rest takes; the first counts as start-up."""


class AutoEngine(Engine):
    """Threads first, Ray where it pays; `cluster` says that one is named."""

    def __init__(self, local: Engine, ray: Engine, *, cluster: bool) -> None:
        self._local, self._ray, self._cluster = local, ray, cluster

    @override
    @contextmanager
    def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> Iterator[Workers]:
        device = task.settings.device
        reasons = {
            "a cluster is named": self._cluster,
            f"the model runs on {device}": device != "cpu",
            "a process died while it scored this run": died,
        }
        with ExitStack() as opened:
            workers = _Auto(
                threads=opened.enter_context(self._local.open(task, notice)),
                ray=lambda: opened.enter_context(self._ray.open(task, notice)),
                notice=notice,
            )
            for reason in [reason for reason, true in reasons.items() if true][:1]:
                workers.move(reason)
            yield workers


class _Auto(Workers):
    """Threads until `move`, Ray from then on."""

    def __init__(self, threads: Workers, ray: Callable[[], Workers], notice: Notice) -> None:
        self._threads = threads
        self._ray: Workers | None = None
        self._open_ray, self._notice = ray, notice
        self._why = "the work is short"
        self._before: WorkTimes | None = None

    def move(self, why: str) -> None:
        """Let Ray do what is asked for from now on."""
        self._notice(f"Ray scores from now on, because {why}.")
        self._why, self._ray = why, self._open_ray()

    @override
    def map(self, work: Callable[[Scorer, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        waiting = deque(items)
        if self._ray is None:
            yield from self._by_threads(work, waiting)
        if self._ray is not None:
            yield from self._ray.map(work, waiting)

    def _by_threads(self, work: Callable[[Scorer, Item], Result], waiting: deque[Item]) -> Iterator[Result]:
        """Do what is waiting; what would take long is left, and Ray opened for it."""
        first, done = 0.0, 0

        def left() -> float:
            return (time.monotonic() - first) / (done - 1) * len(waiting) if done >= _FEWEST else 0.0

        def short() -> Iterator[Item]:
            while waiting and left() <= LONG_SECONDS:
                yield waiting.popleft()

        for result in self._threads.map(work, short()):
            first = first or time.monotonic()
            done += 1
            yield result
        if waiting:
            self._before = self._threads.times()
            self.move(f"the rest would take {left() / 60:,.0f} min on threads")

    @override
    def times(self) -> WorkTimes:
        if self._ray is None:
            now = self._threads.times()
        else:
            now = self._ray.times() if self._before is None else _together(self._before, self._ray.times())
        return replace(now, engine=f"{now.engine}, because {self._why}")


def _together(one: WorkTimes, other: WorkTimes) -> WorkTimes:
    """Of workers that came after others."""
    stages = [*one.seconds, *other.seconds]
    return WorkTimes(
        workers=max(one.workers, other.workers),
        wall=one.wall + other.wall,
        lifetimes=one.lifetimes + other.lifetimes,
        seconds={stage: one.seconds.get(stage, 0.0) + other.seconds.get(stage, 0.0) for stage in stages},
        received=one.received + other.received,
        engine=f"{one.engine}, then {other.engine}",
    )
