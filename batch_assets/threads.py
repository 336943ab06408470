"""Work on several threads, for whoever takes its results one after the other."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 16
"""So many threads at least are worth it for work that may wait for a server most of the time."""


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], at_least: int = 1) -> Generator[Result]:
    """The results of some items in their order; no more are held or under way than one a processor, or `at_least` so many.

    Items are taken by the calling thread. What one of them raises is raised where its result would be.
    """
    at_once = max(at_least, len(os.sched_getaffinity(0)))
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
