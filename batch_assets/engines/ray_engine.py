"""Scoring on Ray: the connection. Who works there is in `ray_crew`; no other room knows Ray.

Each actor loads the model once and scores a few chunks at a time, so that its disk waits while its model works. The
driver sends descriptors of chunks and gets commits back; rows never pass it.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

from batch_assets.engines.engine import Engine, EngineSettings, Notice, Workers
from batch_assets.engines.ray_crew import Crew
from batch_assets.errors import BatchAssetsError, EngineError
from batch_assets.scoring.scorer import ScoringTask


class RayEngine(Engine):
    """Scores on whatever Ray is connected; if none is, connects to `address`, or starts a local one.

    `close` ends only what this object started.
    """

    def __init__(self, address: str | None = None, settings: EngineSettings | None = None) -> None:
        self._address = address
        self._settings = settings or EngineSettings()
        self._connected_here = False

    @override
    @contextmanager
    def open(self, task: ScoringTask, notice: Notice) -> Iterator[Workers]:
        import ray

        crew = Crew(task, self._settings, notice, self.connect)
        try:
            yield crew
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, BatchAssetsError) else EngineError(f"A worker failed: {cause!r}.") from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"Ray could not score: {str(error).splitlines()[0]}") from error
        finally:
            crew.dismiss()

    @property
    def address(self) -> str:
        """Where other processes reach the Ray that is connected."""
        import ray

        return str(ray.get_runtime_context().gcs_address)

    def close(self) -> None:
        """Disconnect, and stop the local Ray, if this object connected or started it."""
        if self._connected_here:
            import ray

            ray.shutdown()
            self._connected_here = False

    def connect(self) -> None:
        """Connect, or start a local Ray, unless this process is connected already. Raises EngineError."""
        import ray

        if ray.is_initialized():
            return
        try:
            with _signals_kept():
                ray.init(
                    address=self._address or "local",
                    include_dashboard=None if self._address else False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"Ray cannot be reached at {self._address or 'this machine'}: {error}") from error
        self._connected_here = True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM by leaving at once; whoever called decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
