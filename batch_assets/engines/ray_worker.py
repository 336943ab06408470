"""What runs in a Ray actor: one loaded model, at the service of one run at a time, that stays a while for the next run.

A worker that stays is named after what it loaded: the model's file, device and precision, and the code that reads it. So a
later run that needs the same finds it ready, and one that needs something else, or has newer code, does not take it.
"""

import hashlib
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batch_assets.engines.engine import Spent
from batch_assets.engines.node import Node, code_digests
from batch_assets.errors import DeviceLost, EngineError
from batch_assets.process import Process
from batch_assets.runs.chunks import Chunk
from batch_assets.scoring.forward import Predictor
from batch_assets.scoring.scorer import Scorer, ScoringTask

_TICK_SECONDS = 1.0

_LOOK_SECONDS = 10.0
"""How often Ray is asked whether an owner on another host still runs."""


@dataclass(frozen=True)
class Owner:
    """Whom a worker serves: one crew of one process, which is a job of Ray's."""

    process: Process
    crew: str
    job: str

    @classmethod
    def new(cls) -> "Owner":
        """One of the calling process, which is connected."""
        import ray

        return cls(Process.current(), uuid.uuid4().hex, ray.get_runtime_context().get_job_id())

    def job_is_over(self) -> bool:
        """Whether Ray says so, which sees the end of each process that was connected, on whichever host.

        Not where Ray cannot be asked now: it is asked again.
        """
        from ray._private.worker import global_worker
        from ray.exceptions import RayError

        try:
            known = global_worker.gcs_client.get_all_job_info(
                job_or_submission_id=self.job, skip_submission_job_info_field=True, skip_is_running_tasks_field=True
            )
        except (RayError, OSError, RuntimeError) as error:
            logging.getLogger(__name__).warning("Ray does not say whether the job %s is over: %s", self.job, error)
            return False
        return all(job.is_dead for job in known.values())


@dataclass(frozen=True)
class Ready:
    """What a worker says when it has loaded the model, or why it will not: what its node has, and how Ray calls the node."""

    node: Node
    place: str
    error: EngineError | None = None

    def require(self, began: float) -> None:
        """Raise EngineError if the node cannot score. A wrong clock comes first: a bucket refuses who has one."""
        self.node.require_time(began)
        if self.error:
            raise self.error


class Worker:
    """Scores for its owner; ends itself when it had none for `keep_seconds`, or at once when its owner died while it worked.

    It also ends itself when its GPU is lost to it: then it is replaced, and the row that did it is found like one that kills.

    May be called by several threads.
    """

    def __init__(self, keep_seconds: float, owner: Owner, task: ScoringTask) -> None:
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()  # whom it serves; never held for long, because others wait for an answer
        self._opening = threading.Lock()
        self._owner: Owner | None = owner
        self._over: Owner | None = None
        self._task = task
        self._scorer: Scorer | None = None
        self._predictor: Predictor | None = None
        self._born = time.time()
        self._busy = 0
        self._called = time.monotonic()
        if keep_seconds:
            threading.Thread(target=self._leave_when_idle, daemon=True).start()

    def engage(self, owner: Owner, task: ScoringTask) -> bool:
        """Serve somebody else from now on; False while somebody is served, who lives."""
        with self._lock:
            if self._busy or self._taken():
                return False
            self._owner, self._task, self._scorer = owner, task, None
            self._born, self._called = time.time(), time.monotonic()
            return True

    def release(self, owner: Owner) -> None:
        """Serve nobody."""
        with self._lock:
            if self._owner == owner:
                self._owner = self._scorer = None
                self._called = time.monotonic()

    def leave(self) -> bool:
        """End this process soon, to make room for others, unless somebody is served."""
        with self._lock:
            if self._taken():
                return False
            threading.Timer(0.05, os._exit, [0]).start()  # after the answer has been sent
            return True

    def ready(self, driver: Node) -> Ready:
        """Loads the model, unless this node differs in what matters from the driver's machine."""
        import ray

        with self._at_work():
            here, place = Node.here(self._task), ray.get_runtime_context().get_node_id()
            try:
                driver.require_same(here, self._task.storage)
            except EngineError as error:
                return Ready(here, place, error)
            self._open()
            return Ready(replace(here, clock=time.time()), place)

    def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do picklable work with the scorer."""
        with self._at_work():
            return function(self._open(), *arguments)

    def probe(self, chunk: Chunk, crashing: tuple[int, ...], batch: int | None) -> Iterator[int]:
        """Say before each forward pass what it is about; see `Scorer.probe`."""
        with self._at_work():
            yield from self._open().probe(chunk, crashing, batch)

    def progress(self) -> int:
        """What moves while the worker works. Only its owner asks."""
        self._called = time.monotonic()
        return self._scorer.passes if self._scorer else 0

    def spent(self) -> Spent:
        """What was spent for its owner until now."""
        return Spent(self._born, self._open().timer.seconds(), self._task.storage.received)

    def _open(self) -> Scorer:
        with self._opening:
            if self._scorer is None:
                self._scorer = self._task.open(predictor=self._predictor)
                self._predictor = self._scorer.predictor
            return self._scorer

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        except DeviceLost as error:
            logging.getLogger(__name__).error("The worker ends itself: %s", error)
            os._exit(1)
        finally:
            with self._lock:
                self._busy -= 1
                self._called = time.monotonic()

    def _taken(self) -> bool:
        return self._owner is not None and self._owner != self._over and self._owner.process.alive()

    def _leave_when_idle(self) -> None:
        looked = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            owner = self._owner
            if owner and not owner.process.is_here and time.monotonic() > looked + _LOOK_SECONDS:
                self._over, looked = owner if owner.job_is_over() else None, time.monotonic()
            with self._lock:
                idle = time.monotonic() - self._called
                if not self._taken() and (self._busy or idle > self._keep_seconds):
                    os._exit(0)  # nobody waits for what it is at; commits are complete or not there


def name_of(task: ScoringTask) -> str:
    """The name of workers that have loaded what a task needs, with the code and libraries of the calling process."""
    parts = [repr(task.load), task.settings.device, task.settings.precision, sys.executable, platform.python_version()]
    parts += [task.library, *(version(name) for name in ("numpy", "pyarrow"))]
    parts += [str(Path(__file__).parent.parent), repr(code_digests(task))]
    digest = hashlib.sha256("\n".join(parts).encode())
    return f"{task.model_version}-{digest.hexdigest()[:16]}"
