"""Work on several threads, for whoever takes its results one after the other, and how many this process may keep busy."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 16
"""So many threads at least are worth it for work that may wait for a server most of the time."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use of the cores that it sees, as cgroup v2 says it: `200000 100000` are two, `max 100000` are all."""


def cores(quota: Path = _QUOTA) -> int:
    """How many cores this process may keep busy: those that it may run on, or fewer, if its container has a CPU limit."""
    allowed = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no container, or one without a limit
        used, period = map(int, quota.read_text().split())
        allowed = min(allowed, max(1, math.ceil(used / period)))
    return allowed


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], at_least: int = 1) -> Generator[Result]:
    """The results of some items in their order; no more are held or under way than one a core, or `at_least` so many.

    Items are taken by the calling thread. What one of them raises is raised where its result would be.
    """
    at_once = max(at_least, cores())
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
