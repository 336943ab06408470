"""What the proof costs: hashing and counting, rereading keys, and the audit, as shares of a run's CPU time."""

import threading
import time
from collections.abc import Callable
from typing import Any

from batch_assets.digest import RowHashes
from batch_assets.nightly import score as pipeline
from batch_assets.scoring import scorer


class _Meter:
    """Adds up the CPU seconds that wrapped functions take, each in the thread that calls it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, metered."""

        def metered(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*arguments)
            finally:
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started

        return metered


def measure(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Meter a run of the local engine, whose threads are all in this process."""
    meter = _Meter()
    scorer.hash_keys = meter.wrapped("hash keys", scorer.hash_keys)  # type: ignore[attr-defined]
    RowHashes.with_values = meter.wrapped("hash values", RowHashes.with_values)  # type: ignore[method-assign]
    RowHashes.digest = meter.wrapped("count and sum", RowHashes.digest)  # type: ignore[method-assign]
    pipeline.prove = meter.wrapped("reread and compare keys", pipeline.prove)  # type: ignore[attr-defined]
    pipeline.compare = meter.wrapped("audit", pipeline.compare)  # type: ignore[attr-defined]
    started = time.process_time()
    run()
    total = time.process_time() - started
    return {
        "cpu_s": total,
        "proof_cpu_s": sum(meter.seconds.values()),
        "proof_share": sum(meter.seconds.values()) / total,
        "parts_cpu_s": meter.seconds,
    }
