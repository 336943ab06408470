"""What monitoring is told: of requests, and of the nights; never whom they are about."""

import os
from collections.abc import Iterable
from datetime import date
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from batch_assets.clock import Clock, end_of, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError
from batch_assets.runs.commit import run_folder
from batch_assets.runs.manifest import latest_manifest
from batch_assets.service.options import SEVERAL
from batch_assets.serving.live import live_release
from batch_assets.storage import Storage

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Requests:
    """What one worker counts of requests. Labels are what the service has: its routes, its pipelines."""

    def __init__(self, pipelines: Iterable[str]) -> None:
        self._pipelines = frozenset(pipelines)
        self.registry = CollectorRegistry()
        labels = ("route", "pipeline", "status")
        self._count = Counter("batch_assets_requests", "Requests that were answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "batch_assets_request_seconds", "What they took.", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self._counts: dict[tuple[str, str, int], Any] = {}
        self._took: dict[str, Any] = {}

    def note(self, scope: Any, status: int, seconds: float) -> None:
        """One request was answered; `status` 0: whoever asked went away."""
        route, pipeline = self._about(scope["path"])
        key = (route, pipeline, status)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._count.labels(route, pipeline, str(status) if status else "gone")
        count.inc()
        took = self._took.get(route)
        if took is None:
            took = self._took[route] = self._seconds.labels(route)
        took.observe(seconds)

    def _about(self, path: str) -> tuple[str, str]:
        """The route and the pipeline of a path; what the service has not is `other`."""
        if path.startswith("/v1/"):
            name, slash, _ = path[4:].partition("/")
            verb = "get" if slash else name.partition(":")[2]
            name = name.partition(":")[0]
            return (verb if verb in ("get", "batchGet", "score") else "other", name if name in self._pipelines else "other")
        named = {"/": "page", "/healthz": "health", "/readyz": "ready", "/metrics": "metrics", "/openapi.json": "openapi"}
        return named.get(path, "other"), ""


class Nights(Collector):
    """What is live, how old it is, and what its night took; read from the storage root when monitoring asks."""

    def __init__(self, storage: Storage, pipelines: Iterable[PipelineConfig], clock: Clock = utc_now) -> None:
        self._storage, self._pipelines, self._clock = storage, tuple(pipelines), clock

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks. A pipeline whose live release cannot be read has `batch_assets_live_readable` 0."""
        readable = GaugeMetricFamily("batch_assets_live_readable", "Whether what is live can be read.", labels=("pipeline",))
        live = InfoMetricFamily("batch_assets_live", "What is live.", labels=("pipeline",))
        age = GaugeMetricFamily(
            "batch_assets_live_age_seconds", "Since when the day that is live is over.", labels=("pipeline",)
        )
        rows = GaugeMetricFamily("batch_assets_night_rows", "Rows of its night.", labels=("pipeline", "outcome"))
        stages = GaugeMetricFamily("batch_assets_night_stage_seconds", "Seconds of its workers.", labels=("pipeline", "stage"))
        took = GaugeMetricFamily("batch_assets_night_seconds", "Seconds that its scoring took.", labels=("pipeline",))
        for config in self._pipelines:
            try:
                release = live_release(self._storage, config.name)
                manifest = (
                    latest_manifest(self._storage, run_folder(config.name, release.partition, release.run_id))
                    if release
                    else None
                )
            except BatchAssetsError:
                readable.add_metric((config.name,), 0)
                continue
            readable.add_metric((config.name,), 1 if release else 0)
            if release is None:
                continue
            said = {"release": release.name, "model": release.model.name, "version": release.model.version}
            live.add_metric((config.name,), said)
            over = end_of(date.fromisoformat(release.partition), config.partitions.timezone)
            age.add_metric((config.name,), (self._clock() - over).total_seconds())
            if manifest is None:
                continue
            for outcome in ("scored", "excluded", "dead_lettered"):
                rows.add_metric((config.name, outcome), getattr(manifest, outcome))
            for stage, seconds in manifest.seconds.items():
                stages.add_metric((config.name, stage), seconds)
            took.add_metric((config.name,), manifest.wall_seconds)
        yield from (readable, live, age, rows, stages, took)


def exposed(requests: Requests, nights: Nights) -> bytes:
    """Everything in the text format of Prometheus."""
    counted = requests.registry
    if SEVERAL in os.environ:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    asked = CollectorRegistry()
    asked.register(nights)
    return bytes(generate_latest(counted) + generate_latest(asked))
