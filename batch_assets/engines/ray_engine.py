"""Scoring on Ray: the connection. Who works there is in `ray_crew`; no other room knows Ray.

Each actor loads the model once and scores a few chunks at a time, so that its disk waits while its model works. The
driver sends descriptors of chunks and gets commits back; rows never pass it.
"""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from typing_extensions import override

from batch_assets.engines.engine import Engine, EngineSettings, Notice, Workers
from batch_assets.engines.ray_crew import Crew
from batch_assets.engines.ray_local import local_ray
from batch_assets.errors import BatchAssetsError, EngineError
from batch_assets.scoring.scorer import ScoringTask

_CONNECTING = threading.Lock()
"""A process has one connection: who asks for it while it is made waits."""

_ANSWER_SECONDS = 5.0
"""How long somebody at an address may take to answer at all."""


class RayEngine(Engine):
    """Scores on whatever Ray is connected; if none is, connects to `address`, or starts a local one.

    `close` ends only what this object started.
    """

    def __init__(self, address: str | None = None, settings: EngineSettings | None = None) -> None:
        self._address = None if address in (None, "", "local") else address
        self._settings = settings or EngineSettings()
        self._connection = ExitStack()

    @override
    @contextmanager
    def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> Iterator[Workers]:
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

    def close(self) -> None:
        """Disconnect, and stop the local Ray, if this object connected or started it."""
        self._connection.close()

    def connect(self) -> dict[str, str]:
        """Connect, or start a local Ray, unless this process is connected already. Raises EngineError.

        Gives the environment by which other processes reach what was connected here; empty if nothing was.
        """
        import ray

        try:
            with _CONNECTING, _signals_kept():
                if ray.is_initialized():
                    return {}
                return self._connection.enter_context(_cluster(self._address) if self._address else local_ray())
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise EngineError(f"Ray cannot be reached at {self._address or 'this machine'}: {reason}") from error


@contextmanager
def _cluster(address: str) -> Iterator[dict[str, str]]:
    """Be connected to a cluster that somebody else runs; how it is authenticated is theirs to say. Raises EngineError."""
    import ray

    if address.startswith("ray://"):
        raise EngineError(
            f"{address} is the address of Ray's client mode, through which workers can be neither watched nor named: run on a "
            "node of the cluster (`ray job submit`, or a pod that has joined it) with RAY_ADDRESS=auto or the head's host:6379."
        )
    _require_answer(address)
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield {"RAY_ADDRESS": address}
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray ends a process that asks at an address where nobody is; so ask before it. Raises EngineError."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if where.hostname is None or where.port is None:  # a name that Ray knows, as `auto`
        return
    try:
        socket.create_connection((where.hostname, where.port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise EngineError(
            f"Nobody answers at the Ray address {address} ({error}): start that cluster, or correct or unset RAY_ADDRESS, "
            "without which a Ray of this machine is started."
        ) from error


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
