"""One worker of Ray as who hired it sees it: what it was given, whether it moves, and how it is asked and ended."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from batch_assets.engines.engine import Named, Notice
from batch_assets.engines.ray_worker import Ready
from batch_assets.errors import EngineError, WorkerLost

_TICK_SECONDS = 1.0

_START_SECONDS = 120.0
"""So long a worker may take to start in any case: to import a library may take longer than any pass of a model."""


@dataclass
class Hand:
    """One worker: where it is, what it has been given, of which file last, and when it was last seen to move.

    `here` is there until it has its place, `ready` until it has its model; `since` is when its time began to count.
    """

    actor: Any
    here: Any
    ready: Any
    stays: bool = False
    place: str = ""
    leaving: bool = False
    file: int | None = None
    items: dict[Any, Named] = field(default_factory=dict)
    progress: int = -1
    pulse: Any = None
    moved: float = field(default_factory=time.monotonic)
    idle: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)

    @property
    def loading(self) -> bool:
        """Whether it has its place, and no model yet."""
        return self.here is None and self.ready is not None

    def begin(self, ready: Ready) -> None:
        """It has loaded the model. Raises EngineError if its node cannot score."""
        ready.require(self.since)
        self.ready, self.place, self.moved = None, ready.place, time.monotonic()

    def settle_in(self, stall_seconds: float, notice: Notice) -> None:
        """Wait until it has its place and its model. Raises WorkerLost, EngineError."""
        import ray

        if not ray.wait([self.here], timeout=start_seconds(stall_seconds))[0]:
            raise EngineError(no_place(stall_seconds))
        answer(self.here)
        self.here, self.moved = None, time.monotonic()
        self.begin(self._watched(self.ready, stall_seconds, notice))

    def wait_for(self, reference: Any, item: Named, stall_seconds: float, notice: Notice) -> Any:
        """The only result that it owes, watched meanwhile. Raises WorkerLost."""
        self.items[reference] = item
        return self._watched(reference, stall_seconds, notice)

    def _watched(self, reference: Any, stall_seconds: float, notice: Notice) -> Any:
        import ray

        while not ray.wait([reference], timeout=_TICK_SECONDS)[0]:
            self.watch(stall_seconds, notice)
        return answer(reference)

    def watch(self, stall_seconds: float, notice: Notice) -> None:
        """End it when it made no progress for too long, or loads for so long; what it owes is lost then."""
        import ray

        now = time.monotonic()
        if self.pulse is not None and ray.wait([self.pulse], timeout=0)[0]:
            with suppress(WorkerLost):
                progress = answer(self.pulse)
                self.moved = now if progress != self.progress else self.moved
                self.progress, self.pulse = progress, None
        if self.items and self.pulse is None and now - self.moved > stall_seconds / 4:
            self.pulse = at_once(self.actor.progress).remote()
        limit = start_seconds(stall_seconds) if self.loading else stall_seconds
        if (self.items or self.loading) and now - self.moved > limit:
            did = "has been loading the model" if self.loading else "made no progress"
            notice(f"A worker {did} for {now - self.moved:.0f} s; it is ended.")
            self.end()
            self.moved = now

    def end(self) -> None:
        """End its process, whatever it is at."""
        import ray

        ray.kill(self.actor)


def at_once(method: Any) -> Any:
    """A method that is answered while the worker works."""
    return method.options(concurrency_group="now")


def answer(reference: Any, timeout: float | None = None) -> Any:
    """What a worker answers, or raised. Raises WorkerLost if it is gone, or its answer is, and GetTimeoutError."""
    import ray
    from ray import exceptions

    gone = (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError)
    try:
        return ray.get(reference, timeout=timeout)
    except (*gone, exceptions.OutOfMemoryError, exceptions.ObjectLostError) as error:  # the memory monitor of Ray kills, too
        raise WorkerLost(f"A worker was lost: {str(error).strip().partition(chr(10))[0]}") from error


def start_seconds(stall_seconds: float) -> float:
    """How long a worker may wait for its place, and then load the model."""
    return max(stall_seconds, _START_SECONDS)


def no_place(stall_seconds: float) -> str:
    """The sentence about a cluster that is full."""
    return f"No worker got a place in the cluster within {start_seconds(stall_seconds):,.0f} s: is there a free one?"
