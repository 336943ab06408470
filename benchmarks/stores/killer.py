"""A server that is killed at a random moment of a stage of a store's work, and started again."""

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from batch_assets.serving.store import Store
from batch_assets_tests.servers import Server

STAGES = {"build": "build", "verify": "scan", "publish": "publish", "prune": "drop"}
"""Each stage, and the store's method that is under way meanwhile."""

UNDISTURBED = 3
"""Times that a stage goes on undisturbed before a kill: how long it takes."""


class Failed(Exception):
    """Something is not as it must be after a kill."""


class Killer:
    """Kills a server at a random moment of a stage, once it is armed, and starts it again."""

    def __init__(self, server: Server, store: type[Store], source: random.Random) -> None:
        self._server, self._source = server, source
        self._armed, self._running, self._thread = "", "", threading.Thread()
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.hit = ""
        for stage, method in STAGES.items():
            setattr(store, method, self._watched(stage, getattr(store, method)))

    def arm(self, stage: str) -> None:
        """The next time that the stage begins, the server is killed."""
        self._armed = stage

    def wait(self) -> None:
        """Until the server has been killed and answers again. Raises Failed if the stage never began."""
        if self._armed:
            raise Failed(f"The stage {self._armed} never began.")
        self._thread.join()

    def _watched(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def plain(*arguments: Any) -> Any:
            with self._within(stage):
                return method(*arguments)

        @functools.wraps(method)
        def generator(*arguments: Any) -> Iterator[Any]:
            with self._within(stage):
                yield from method(*arguments)

        return generator if STAGES[stage] == "scan" else plain

    @contextmanager
    def _within(self, stage: str) -> Iterator[None]:
        self._running, began = stage, time.monotonic()
        if self._armed == stage:
            self._armed = ""
            later = self._source.random() * median(self.seconds[stage][:UNDISTURBED])
            self._thread = threading.Thread(target=self._kill, args=(later,))
            self._thread.start()
        try:
            yield
        finally:
            self.seconds[stage].append(time.monotonic() - began)
            self._running = ""

    def _kill(self, later: float) -> None:
        time.sleep(later)
        self.hit = self._running or "after it"
        self._server.kill()
        self._server.start()
