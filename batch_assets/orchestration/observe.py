"""Progress that Dagster's UI can show: an observation of the asset every few seconds while a step runs."""

import time

import dagster as dg

from batch_assets.orchestration import metadata
from batch_assets.pipeline.pace import Pace
from batch_assets.pipeline.watch import Watch

_SECONDS = 3.0


class ObservingWatch:
    """Passes everything on, and records how far a stage has come."""

    def __init__(self, watch: Watch, context: dg.AssetExecutionContext, asset: dg.AssetKey) -> None:
        self._watch, self._context, self._asset = watch, context, asset
        self._paces: dict[str, Pace] = {}
        self._observed = time.monotonic()

    def say(self, message: str) -> None:
        """One line."""
        self._watch.say(message)

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """How far a stage has come; observed at most every few seconds, and when it is done."""
        self._watch.progress(stage, done, total)
        pace = self._paces.setdefault(stage, Pace())
        pace.see(done)
        if total is None or (time.monotonic() - self._observed < _SECONDS and done < total):
            return
        self._observed = time.monotonic()
        found = metadata.of_progress(stage, done, total, pace.estimate(total - done))
        partition = self._context.partition_key
        self._context.log_event(dg.AssetObservation(asset_key=self._asset, partition=partition, metadata=found))
