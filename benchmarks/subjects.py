"""What is compared, by name. Each does all its work in the process that calls it."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import stages
from workload import COLUMNS, DAY, Workload

NAIVE_ROWS = 100_000
"""The naive pattern is measured on no more rows than this: it would take an hour for what the others do in half a minute."""


@dataclass(frozen=True)
class Settings:
    """What can be set about the peers; the defaults are what was fastest."""

    daft_batch_rows: int = 16_384
    daft_processes: int = 0
    ray_batch_format: str = "pyarrow"
    ray_batch_rows: int = 16_384
    ray_cpus: int = 4
    spark_batch_rows: int = 16_384


@dataclass(frozen=True)
class Job:
    """One subject's work: `output` is a folder that does not exist yet; batch-assets writes under its root instead."""

    workload: Workload
    rows: int
    output: Path
    settings: Settings
    checkpoint: Path | None = None


def ours(job: Job) -> dict[str, Any]:
    """batch-assets with the engine of a night for which nobody says one: commits, proof, manifest.

    A test holds it equal to what Dagster's resource makes. Dagster is not in the time, as nothing like it is in the others'.
    """
    from batch_assets.engines.auto_engine import AutoEngine
    from batch_assets.engines.local_engine import LocalEngine
    from batch_assets.engines.ray_engine import RayEngine

    with closing(RayEngine()) as ray:
        return _ours(job.workload, AutoEngine(LocalEngine(), ray, cluster=False))


def ours_ray(job: Job) -> dict[str, Any]:
    """batch-assets on Ray workers."""
    from batch_assets.engines.ray_engine import RayEngine

    with closing(RayEngine()) as ray:
        return _ours(job.workload, ray)


def ours_spark(job: Job) -> dict[str, Any]:
    """batch-assets in Python workers of Spark, through which no row passes."""
    from batch_assets.engines.spark_engine import SparkEngine

    with closing(SparkEngine()) as spark:
        return _ours(job.workload, spark)


def ours_local(job: Job) -> dict[str, Any]:
    """batch-assets on threads of one process."""
    from batch_assets.engines.local_engine import LocalEngine

    return _ours(job.workload, LocalEngine())


def daft(job: Job) -> dict[str, Any]:
    """See `peers.daft`."""
    peers.daft(job.workload.files, job.output, job.settings.daft_batch_rows, job.settings.daft_processes)
    return {}


def ray_data(job: Job) -> dict[str, Any]:
    """See `peers.ray_data`."""
    chosen = job.settings
    files = job.workload.files
    peers.ray_data(files, job.output, chosen.ray_batch_format, chosen.ray_batch_rows, chosen.ray_cpus, job.checkpoint)
    return {}


def spark(job: Job) -> dict[str, Any]:
    """See `peers.spark`."""
    peers.spark(job.workload.files, job.output, job.settings.spark_batch_rows)
    return {}


def one_get_per_batch(job: Job) -> dict[str, Any]:
    """See `peers.one_get_per_batch`."""
    peers.one_get_per_batch(job.workload.files, job.output, job.rows)
    return {}


def forward_only(job: Job) -> dict[str, Any]:
    """The eager module (ReLUs in place) alone on both cores, batches resident: what no pipeline can surpass.

    The best of three times for each batch size, a third of the rows each.
    """
    import torch
    from model import mlp

    torch.set_num_threads(2)
    module = mlp(inplace=True)
    resident = torch.from_numpy(np.random.default_rng(0).standard_normal((1 << 16, len(COLUMNS)), dtype=np.float32))
    rates = dict.fromkeys((512, 1024, 2048, 4096), 0.0)
    with torch.inference_mode():
        for number in range(4):
            for batch_rows in rates:
                batches = [resident[start : start + batch_rows] for start in range(0, len(resident), batch_rows)]
                calls = -(-job.rows // (3 * batch_rows))
                started = time.perf_counter()
                for call in range(calls):
                    module(batches[call % len(batches)])
                if number:  # the first time warms up
                    rates[batch_rows] = max(rates[batch_rows], calls * batch_rows / (time.perf_counter() - started))
    best = max(rates, key=rates.__getitem__)
    return {"steady_rows_per_s": rates[best], "batch_rows": best, "rows_per_s_by_batch_rows": rates}


def all_stages(job: Job) -> dict[str, Any]:
    """See `stages.measure`."""
    return stages.measure(job.workload.files, job.workload.model_file, job.output)


def proof_cost(job: Job) -> dict[str, Any]:
    """See `proof.measure`."""
    import proof

    return proof.measure(lambda: ours_local(job))


def prepare(job: Job) -> dict[str, Any]:
    """No subject: makes the workload, in a process of its own because it takes torch."""
    job.workload.prepare()
    return {}


PIPELINES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "ours": ours,
    "ours_ray": ours_ray,
    "ours_spark": ours_spark,
    "ours_local": ours_local,
    "daft": daft,
    "ray_data": ray_data,
    "spark": spark,
    "one_get_per_batch": one_get_per_batch,
}
"""Subjects that read files and write files; the others only calculate."""

SUBJECTS = {**PIPELINES, "forward_only": forward_only, "stages": all_stages, "ours_proof": proof_cost, "prepare": prepare}


class _Silent:
    """Progress that says nothing."""

    def say(self, message: str) -> None:
        """Nobody listens."""

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Nobody looks."""


def _ours(workload: Workload, engine: Any) -> dict[str, Any]:
    from batch_assets.models.registry import Registry
    from batch_assets.nightly.night import Night
    from batch_assets.nightly.score import score

    config, storage = workload.config, workload.storage
    model = Registry(storage).resolve(config.model)
    scored = score(Night.open(config, storage, DAY, model), engine, _Silent())
    manifest = scored.manifest
    return {
        "rows": manifest.rows,
        "resumed_chunks": scored.resumed_chunks,
        "score_s": manifest.wall_seconds,
        "worker_s": manifest.seconds,
    }
