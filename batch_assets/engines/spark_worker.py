"""What runs in a Python worker of Spark: a few chunks at a time, by a model that is loaded once for all its tasks."""

import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_assets.engines.engine import Named, Spent
from batch_assets.engines.node import Node
from batch_assets.errors import BatchAssetsError, DeviceLost
from batch_assets.runs.chunks import Chunk
from batch_assets.scoring.scorer import Scorer, ScoringTask

if TYPE_CHECKING:
    from pyspark import Broadcast

ANSWERS = "answer binary"
"""The schema of what a worker gives, as Spark says it."""


@dataclass(frozen=True)
class Opening:
    """One opening of the engine: its name, the task, and what the driver's machine scores with."""

    name: str
    task: "Broadcast[ScoringTask]" = field(compare=False)
    driver: Node = field(compare=False)


@dataclass(frozen=True)
class Answer:
    """What came of one item, or the sentence that ends the run; `worker` is the process that says it, and what it has spent."""

    result: Any
    worker: str
    node: Node
    spent: Spent
    error: BatchAssetsError | None = None


@dataclass(frozen=True)
class Part:
    """Does work on groups of items; Spark is given the numbers of the groups, each as a row of a partition of its own."""

    opening: Opening
    work: Callable[..., Any]
    groups: Sequence[Sequence[Named]]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The answers about the groups whose numbers come, each as soon as it is there."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for answer in self._answers(self.groups[number]):
                    yield pa.record_batch({"answer": pa.array([pickle.dumps(answer)], pa.binary())})

    def _answers(self, items: Sequence[Named]) -> Iterator[Answer]:
        worker = _worker(self.opening)
        try:
            scorer = worker.scorer()
            with ThreadPoolExecutor(len(items), thread_name_prefix="scoring") as pool:
                running = [pool.submit(self.work, scorer, _tried(item)) for item in items]
                for done in as_completed(running):
                    yield worker.answer(done.result())
        except DeviceLost:
            os._exit(1)  # Spark gives the items to another worker
        except BatchAssetsError as error:  # Spark would try again what fails the same way again
            yield worker.answer(None, error)


class _Worker:
    """What this process has for one opening of the engine."""

    def __init__(self, opening: Opening) -> None:
        self._opening, self._since, self._name = opening, time.time(), uuid.uuid4().hex
        self._node = Node.here(opening.task.value)
        self._scorer: Scorer | None = None

    def scorer(self) -> Scorer:
        """The scorer, made when it is first asked for. Raises EngineError if this node differs in what matters."""
        if self._scorer is None:
            task = self._opening.task.value
            self._opening.driver.require_same(self._node, task.storage)
            self._scorer = task.open()
        return self._scorer

    def answer(self, result: Any, error: BatchAssetsError | None = None) -> Answer:
        """What the driver is told."""
        task = self._opening.task.value
        seconds = self._scorer.timer.seconds() if self._scorer else {}
        node, spent = replace(self._node, clock=time.time()), Spent(self._since, seconds, task.storage.received)
        return Answer(result, self._name, node, spent, error)


@lru_cache(maxsize=1)
def _worker(opening: Opening) -> _Worker:
    """Of all tasks that this process is given; Spark keeps the process, and nothing else, from one to the next."""
    return _Worker(opening)


def _tried(item: Named) -> Named:
    """The item, with the attempt that this is; a chunk's commit says it."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return replace(item, attempt=1 + context.attemptNumber()) if context and isinstance(item, Chunk) else item
