"""What a pipeline is scored by -> the Dagster pool in which runs wait for each other.

Runs that are scored by the same cores, or the same GPU, would only make each other slow; runs on two clusters have nothing to
share. So each target has a pool, whose limit is 1 until somebody says otherwise: `dagster instance concurrency set POOL 2`.
"""

import os
import re

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineName, EngineSettings

MACHINE = "scoring"
"""The pool of all that is scored on the machine that executes its run."""


def pool_of(config: PipelineConfig) -> str:
    """The pool of a pipeline's runs: the one that it names, or that of its target."""
    return config.engine.pool or _of_target(config.engine)


def as_asked(config: PipelineConfig, engine: EngineName | None) -> PipelineConfig:
    """The pipeline as it is when somebody asks for another engine.

    The pool that it names stays, unless that engine scores elsewhere: a GPU is the same one whoever uses it, a cluster is not.
    """
    if engine in (None, config.engine.kind):
        return config
    asked = config.engine.model_copy(update={"kind": engine})
    if _of_target(asked) != _of_target(config.engine):
        asked = asked.model_copy(update={"pool": None})
    return config.model_copy(update={"engine": asked})


def pool_tag(pool: str) -> dict[str, str]:
    """What Dagster's storage finds the runs by that have a part in a pool; a run itself does not have it among its tags."""
    return {f".dagster/pool/{pool}": "true"}


def pools_of(run: dg.DagsterRun) -> list[str]:
    """The pools in which a run has a part."""
    return sorted(run.run_op_concurrency.all_pools or ()) if run.run_op_concurrency else []


def limit_of(instance: dg.DagsterInstance, pool: str) -> int | None:
    """How many runs may be at work in a pool: what somebody set for it, or the instance's default, or None without either."""
    storage = instance.event_log_storage
    for one in storage.get_pool_limits():
        if one.name == pool and not one.from_default:
            return one.limit
    return storage.get_pool_config().default_pool_limit


def ray_address() -> str | None:
    """The cluster that RAY_ADDRESS names, or None: a Ray of this machine."""
    return os.environ.get("RAY_ADDRESS") or None


def _of_target(engine: EngineSettings) -> str:
    """The pool of what scores. `auto` is scored by the Ray cluster that RAY_ADDRESS names, if it names one."""
    if engine.kind == "spark":
        return _of_cluster("spark", engine.master)
    return _of_cluster("ray", ray_address()) if engine.kind != "local" else MACHINE


def _of_cluster(kind: str, address: str | None) -> str:
    """The pool of a cluster, whose name has no sign that a file's could not have; this machine's if it names none."""
    if address is None or re.match(r"local\b", address):
        return MACHINE
    return "-".join([MACHINE, kind, *re.findall(r"[A-Za-z0-9_.]+", address)])
