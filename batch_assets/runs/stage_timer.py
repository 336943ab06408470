"""Where a worker's time goes: every moment of its life is given to the stages that are at work in it.

Stages of several chunks overlap. A moment in which two are at work counts half for each, one in which none is counts as
waiting; so the stages of a worker add up to its lifetime, whatever overlaps.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WAITING = "waiting"


class StageTimer:
    """Thread-safe; its time begins when it is made. Seconds everywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[str] = []
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    @contextmanager
    def stage(self, name: str, clock: dict[str, float]) -> Iterator[None]:
        """One stage of one chunk: shares the worker's time while it lasts, and adds its own duration to the chunk's clock."""
        self._move(begins=name)
        started = time.perf_counter()
        try:
            yield
        finally:
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - started
            self._move(ends=name)

    def reassign(self, stage: str, part: str, seconds: float, clock: dict[str, float]) -> None:
        """Count a part of what a stage was given, measured by itself, under a name of its own."""
        with self._lock:
            for totals in (self._seconds, clock):
                moved = min(seconds, totals.get(stage, 0.0))
                totals[stage] = totals.get(stage, 0.0) - moved
                totals[part] = totals.get(part, 0.0) + moved

    def seconds(self) -> dict[str, float]:
        """Seconds by stage up to now; together they are the timer's age."""
        self._move()
        with self._lock:
            return dict(self._seconds)

    def _move(self, begins: str = "", ends: str = "") -> None:
        with self._lock:
            now = time.perf_counter()
            sharing = self._active or [WAITING]
            for name in sharing:
                self._seconds[name] = self._seconds.get(name, 0.0) + (now - self._since) / len(sharing)
            self._since = now
            if begins:
                self._active.append(begins)
            if ends:
                self._active.remove(ends)
