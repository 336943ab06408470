"""One worker of Ray as who hired it sees it: what it was given, whether it moves, and how it is asked and ended."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from batch_assets.engines.engine import Named, Notice
from batch_assets.engines.ray_worker import Ready
from batch_assets.errors import EngineError

PATIENCE_SECONDS = 120
"""How long a worker may wait for its place in the cluster."""

_TICK_SECONDS = 1.0


class Lost(Exception):
    """A worker died."""


@dataclass
class Hand:
    """One worker: where it is, what it has been given, of which file last, and when it was last seen to move."""

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
    hired: float = field(default_factory=time.time)

    def begin(self, ready: Ready) -> None:
        """It has loaded the model. Raises EngineError if its node cannot score."""
        ready.require(self.hired)
        self.ready, self.place, self.moved = None, ready.place, time.monotonic()

    def settle_in(self) -> None:
        """Wait until it has its place and its model. Raises Lost, EngineError."""
        import ray

        try:
            answer(self.here, timeout=PATIENCE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise EngineError(f"No worker got a place in the cluster within {PATIENCE_SECONDS} s.") from None
        self.begin(answer(self.ready))

    def wait_for(self, reference: Any, item: Named, stall_seconds: float, notice: Notice) -> Any:
        """The only result that it owes, watched meanwhile. Raises Lost."""
        import ray

        self.items[reference] = item
        while not ray.wait([reference], timeout=_TICK_SECONDS)[0]:
            self.watch(stall_seconds, notice)
        return answer(reference)

    def watch(self, stall_seconds: float, notice: Notice) -> None:
        """End it when it has made no progress for too long; it is failed when what it has in hand comes back as lost."""
        import ray

        now = time.monotonic()
        if self.pulse is not None and ray.wait([self.pulse], timeout=0)[0]:
            with suppress(Lost):
                progress = answer(self.pulse)
                self.moved = now if progress != self.progress else self.moved
                self.progress, self.pulse = progress, None
        if self.items and self.pulse is None and now - self.moved > stall_seconds / 4:
            self.pulse = at_once(self.actor.progress).remote()
        if self.items and now - self.moved > stall_seconds:
            notice(f"A worker made no progress for {now - self.moved:.0f} s; it is ended.")
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
    """What a worker answers. Raises Lost if it is gone, and what it raised."""
    import ray

    try:
        return ray.get(reference, timeout=timeout)
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise Lost from error
