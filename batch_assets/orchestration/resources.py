"""What all pipelines share: the storage root, where scoring runs, and who is told about progress.

Each resource is thin: it hands out the plain object.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import Any

import dagster as dg
from pydantic import Field
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.engines.auto_engine import AutoEngine
from batch_assets.engines.engine import Engine, EngineName, EngineSettings
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.engines.spark_engine import SparkEngine
from batch_assets.models.registry import Registry
from batch_assets.orchestration.liveness import process_tags
from batch_assets.orchestration.nights import opened_nights
from batch_assets.orchestration.pools import ray_address
from batch_assets.orchestration.turns import give_way
from batch_assets.storage import Storage, default_root, open_storage


class StorageRoot(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The folder that holds everything: snapshots, predictions, releases and models."""

    root: str | None = Field(default=None, description="A folder; by default BATCH_ASSETS_ROOT, or ./data.")
    models: str | None = Field(
        default=None, description="Where the models are, if not there: a folder or s3://…; by default BATCH_ASSETS_MODELS."
    )

    def storage(self) -> Storage:
        """The storage behind the folder."""
        return open_storage(self.root or default_root())

    def registry(self) -> Registry:
        """The models."""
        return Registry(open_storage(self.models or os.environ.get("BATCH_ASSETS_MODELS") or self.root or default_root()))

    @override
    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Tag the run with its process, so that a dead one can be told from a slow one, and let others go first if it must."""
        if context.instance and context.run:
            context.instance.add_run_tags(context.run.run_id, process_tags(context.run.run_id))
            give_way(context.instance, context.run)


class Engines:
    """Ray or Spark, connected when the first chunk is scored, or threads. A connection that exists is used, and left alone.

    Ray is the cluster that RAY_ADDRESS names, or a local one that ends with the run.
    """

    def __init__(self) -> None:
        self._connected = ExitStack()

    def engine(self, settings: EngineSettings, kind: EngineName | None = None) -> Engine:
        """The engine that scores: the pipeline's own, unless the run asks for another."""
        chosen, local, address = kind or settings.kind, LocalEngine(settings.workers), ray_address()
        if chosen == "local":
            return local
        if chosen == "spark":
            return self._connected.enter_context(closing(SparkEngine(settings)))
        ray = self._connected.enter_context(closing(RayEngine(address, settings)))
        return ray if chosen == "ray" else AutoEngine(local, ray, cluster=address is not None)

    def close(self) -> None:
        """End only what this object started."""
        self._connected.close()


@dg.resource(description="Where scoring runs.")
def engines_of_run(_: dg.InitResourceContext) -> Iterator[Engines]:
    """Engines of one run, which end with it."""
    with closing(Engines()) as engines:
        yield engines


@contextmanager
def connected(config: PipelineConfig, kind: EngineName | None = None) -> Iterator[None]:
    """Keep Ray or Spark connected for several runs of this process that are known to score there. Raises EngineError."""
    with ExitStack() as stack:
        engine = _known(config, kind, stack)
        if engine:
            engine.connect()
        yield


@contextmanager
def connecting(config: PipelineConfig, kind: EngineName | None = None) -> Iterator[None]:
    """Connect as `connected` does, while the block freezes features; who scores in it waits, and learns what is wrong."""
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:  # what Ray starts ends with the thread that started it
        engine = _known(config, kind, stack)
        if engine:
            stack.callback(wait, [pool.submit(engine.connect)])
        yield


def _known(config: PipelineConfig, kind: EngineName | None, stack: ExitStack) -> RayEngine | SparkEngine | None:
    """The engine of runs that are known to need one that starts, from the beginning, closed with the stack; None of others."""
    chosen, address = kind or config.engine.kind, ray_address()
    if chosen == "spark":
        return stack.enter_context(closing(SparkEngine(config.engine)))
    if chosen == "ray" or (chosen == "auto" and (address or config.scoring.device != "cpu")):
        return stack.enter_context(closing(RayEngine(address, config.engine)))
    return None


@contextmanager
def shared_ray(*, wanted: bool) -> Iterator[dict[str, str]]:
    """A Ray for other processes, for the time of the block, if it is wanted: gives the environment that leads them to it.

    One that RAY_ADDRESS names is left as it is.
    """
    address = ray_address()
    if address:
        yield {"RAY_ADDRESS": address}
        return
    engine = RayEngine()
    try:
        yield engine.connect() if wanted else {}
    finally:
        engine.close()


class LogProgress:
    """Tells Dagster's log."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def say(self, message: str) -> None:
        """One line."""
        self._log.info(message)

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Nothing: a log line per chunk would bury the others."""


@dg.resource(description="Told what a run does: Dagster's log, or the terminal of the command line.")
def log_progress(context: dg.InitResourceContext) -> LogProgress:
    """The progress of runs that nobody looks at in a terminal."""
    return LogProgress(context.log)


@cache
def shared_resources() -> dict[str, Any]:
    """The resources of all pipelines: the same objects for each, as Dagster asks of definitions that it merges.

    Their names are ours, so that they do not meet those of a project's own.
    """
    return {
        "batch_assets_root": StorageRoot(),
        "batch_assets_engines": engines_of_run,
        "batch_assets_progress": log_progress,
        "batch_assets_nights": opened_nights,
    }
