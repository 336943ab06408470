"""The reference engine: the same work in this process, on threads."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice

from typing_extensions import override

from batch_assets.engines.engine import THREADS, Engine, Item, Notice, Result, Workers, WorkTimes
from batch_assets.scoring.scorer import Scorer, ScoringTask
from batch_assets.threads import cores


class LocalEngine(Engine):
    """Scores in the calling process; what the other engines are compared with."""

    def __init__(self, workers: int | None = None) -> None:
        self._lanes = workers or cores()

    @override
    @contextmanager
    def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> Iterator[Workers]:
        yield _Threads(task, self._lanes)


class _Threads(Workers):
    """One scorer, shared by threads: as many run the model as there are lanes, one more reads, one more writes."""

    def __init__(self, task: ScoringTask, lanes: int) -> None:
        self._opened = time.perf_counter()
        self._task = task
        self._lanes = lanes if task.settings.device == "cpu" else 1  # a GPU's lane belongs to one thread
        self._scorer: Scorer | None = None
        self._received = 0

    @override
    def map(self, work: Callable[[Scorer, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        remaining = iter(items)
        first = list(islice(remaining, self._lanes + 2))
        if not first:
            return
        before = self._task.storage.received
        scorer = self._scorer = self._scorer or self._task.open(self._lanes)
        with ThreadPoolExecutor(self._lanes + 2, thread_name_prefix="scoring") as pool:
            running: set[Future[Result]] = {pool.submit(work, scorer, item) for item in first}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(work, scorer, item) for item in islice(remaining, len(done))}
                    yield from (future.result() for future in done)
            finally:
                pool.shutdown(cancel_futures=True)
                self._received += self._task.storage.received - before

    @override
    def times(self) -> WorkTimes:
        wall = time.perf_counter() - self._opened
        seconds = self._scorer.timer.seconds() if self._scorer else {}
        before = max(0.0, wall - sum(seconds.values()))
        seconds = {**seconds, "start-up": seconds.get("start-up", 0.0) + before}
        return WorkTimes(1, wall, wall, seconds, self._received, THREADS)
