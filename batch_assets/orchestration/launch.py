"""Materialize a day through the Dagster instance, in this process, so that the UI shows what the command line did."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineName
from batch_assets.errors import BatchAssetsError
from batch_assets.orchestration.assets import asset_key
from batch_assets.orchestration.catalog import code_location, project_root
from batch_assets.orchestration.liveness import active_runs, bury_dead_runs, process_tags
from batch_assets.pipeline.watch import Watch


@dataclass(frozen=True)
class Launched:
    """A Dagster run that succeeded: its id, seconds per asset, and how many chunks were there before."""

    dagster_run_id: str
    seconds: dict[str, float]
    resumed_chunks: int


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The persistent instance: DAGSTER_HOME, or the project's own."""
    os.environ.setdefault("DAGSTER_HOME", str(project_root() / ".dagster_home"))
    with dg.DagsterInstance.get() as instance:
        yield instance


def materialize(
    config: PipelineConfig,
    day: str,
    instance: dg.DagsterInstance,
    watch: Watch,
    *,
    engine: EngineName | None = None,
    refresh: bool = False,
) -> Launched:
    """Materialize the three assets of a day with their checks.

    Raises:
        BatchAssetsError: the sentence that the failed step raised.
        DagsterError: a blocking check failed, or Dagster itself did.
    """
    started = time.perf_counter()
    for run_id in bury_dead_runs(instance):
        watch.say(f"Dagster run {run_id} was left by a dead process; it is marked as failed now.")
    for process in active_runs(instance, config.name, day):
        watch.say(f"Another run of {config.name} {day} is active ({process}); this one waits for its turn to score.")
    options: dict[str, Any] = {
        f"{config.name}__user_features": {"config": {"refresh": refresh}},
        f"{config.name}__predictions": {"config": {"engine": engine} if engine else {}},
    }
    job = code_location().resolve_job_def(config.name)
    try:
        result = job.execute_in_process(
            run_config={"ops": options, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            partition_key=day,
            tags=process_tags(),
            resources={**job.resource_defs, "watch": watch},
        )
    except dg.DagsterError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, BatchAssetsError):
            cause = cause.__cause__
        raise (cause or error) from None
    steps = {stats.step_key: stats for stats in instance.get_run_step_stats(result.run_id)}
    seconds = {
        name: _duration(steps.get(f"{config.name}__{asset}"))
        for name, asset in {"features": "user_features", "scoring": "predictions", "publishing": "serving_table"}.items()
    }
    seconds["total"] = round(time.perf_counter() - started, 3)
    return Launched(result.run_id, seconds, _resumed(config, result))


def _duration(stats: Any) -> float:
    return round(stats.end_time - stats.start_time, 3) if stats and stats.end_time and stats.start_time else 0.0


def _resumed(config: PipelineConfig, result: dg.ExecuteInProcessResult) -> int:
    for event in result.asset_materializations_for_node(f"{config.name}__predictions"):
        if event.asset_key == asset_key(config, "predictions"):
            return int(event.metadata["resumed_chunks"].value)  # type: ignore[arg-type]
    return 0
