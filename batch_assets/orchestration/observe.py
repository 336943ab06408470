"""Progress that Dagster's UI can show: an observation of the asset every few seconds while a step runs."""

import time

import dagster as dg

from batch_assets.nightly.progress import Progress
from batch_assets.nightly.throughput import Throughput
from batch_assets.orchestration import metadata

_SECONDS = 3.0


class ObservedProgress:
    """Passes everything on, and records how far a stage has come."""

    def __init__(self, progress: Progress, context: dg.AssetExecutionContext, asset: dg.AssetKey) -> None:
        self._progress, self._context, self._asset = progress, context, asset
        self._throughputs: dict[str, Throughput] = {}
        self._observed = time.monotonic()

    def say(self, message: str) -> None:
        """One line."""
        self._progress.say(message)

    def at(self, stage: str, done: int, total: int | None) -> None:
        """How far a stage has come; observed at most every few seconds, and when it is done."""
        self._progress.at(stage, done, total)
        throughput = self._throughputs.setdefault(stage, Throughput())
        throughput.see(done)
        if total is None or (time.monotonic() - self._observed < _SECONDS and done < total):
            return
        self._observed = time.monotonic()
        found = metadata.of_progress(stage, done, total, throughput.estimate(total - done))
        partition = self._context.partition_key
        self._context.log_event(dg.AssetObservation(asset_key=self._asset, partition=partition, metadata=found))
