"""Work on as many threads as this process may use processors, for whoever takes its results one after the other."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """The results of some items in their order; no more are held or under way than one for each processor.

    Items are taken by the calling thread. What one of them raises is raised where its result would be.
    """
    processors = len(os.sched_getaffinity(0))
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(processors) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > processors:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
