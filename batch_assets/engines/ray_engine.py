"""Scoring on Ray actors. The only room that knows Ray.

Each actor loads the model once. A driver sends descriptors of chunks and gets commits back; rows never pass it. An actor has at
most two chunks in hand, so that a slow one does not hold work that a fast one could do.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from batch_assets.engines.engine import Engine
from batch_assets.errors import BatchAssetsError, EngineError
from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit
from batch_assets.scoring.scorer import Scorer, ScoringTask

_IN_HAND = 2
_PATIENCE_SECONDS = 120


class _Worker:
    """Runs in an actor: one model, loaded with the first chunk (an error then reaches the driver as itself)."""

    def __init__(self, task: ScoringTask) -> None:
        self._task = task

    @cached_property
    def _scorer(self) -> Scorer:
        return self._task.open()

    def ready(self) -> None:
        """Answers once the actor has its place in the cluster."""

    def score(self, chunk: Chunk) -> ChunkCommit:
        return self._scorer.score(chunk)


class RayEngine(Engine):
    """Scores on whatever Ray is connected; if none is, connects to `address`, or starts a local one.

    `close` ends only what this object started.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self._address = address
        self._workers = workers
        self._connected_here = False

    @override
    def score(self, task: ScoringTask, chunks: Sequence[Chunk]) -> Iterator[ChunkCommit]:
        if not chunks:
            return
        import ray

        self._connect()
        wanted = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        actor = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
        workers = [actor.remote(task) for _ in range(min(wanted, len(chunks)))]
        try:
            yield from _dispatch(workers, chunks)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, BatchAssetsError) else EngineError(f"A worker failed: {cause!r}.") from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"Ray could not score: {str(error).splitlines()[0]}") from error
        finally:
            for worker in workers:
                ray.kill(worker)

    def close(self) -> None:
        """Disconnect, and stop the local Ray, if this object connected or started it."""
        if self._connected_here:
            import ray

            ray.shutdown()
            self._connected_here = False

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        try:
            ray.init(
                address=self._address or "local",
                include_dashboard=None if self._address else False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"Ray cannot be reached at {self._address or 'this machine'}: {error}") from error
        self._connected_here = True


def _dispatch(workers: Sequence[Any], chunks: Sequence[Chunk]) -> Iterator[ChunkCommit]:
    """Hand out chunks to workers that are there, as they become free; yield commits as they come."""
    import ray

    waiting = deque(chunks)
    starting = {worker.ready.remote(): worker for worker in workers}
    running: dict[Any, Any] = {}
    while waiting or running:
        patience = None if running else _PATIENCE_SECONDS
        done, _ = ray.wait([*starting, *running], num_returns=1, timeout=patience)
        if not done:
            raise EngineError(f"No worker got a place in the cluster within {patience} s: is there a free CPU for it?")
        for reference in done:
            worker = starting.pop(reference, None)
            places = _IN_HAND if worker else 1
            worker = worker or running.pop(reference)
            for _ in range(min(places, len(waiting))):
                running[worker.score.remote(waiting.popleft())] = worker
            result = ray.get(reference)
            if isinstance(result, ChunkCommit):
                yield result
