"""A small pipeline as a code location, and what is done with it."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import RunOpConcurrency

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.component import definitions
from batch_assets.orchestration.resources import StorageRoot
from batch_assets_tests.small import Small


def changed(small: Small, **settings: Any) -> PipelineConfig:
    """A small pipeline's config with other settings, scored by threads."""
    return PipelineConfig.model_validate(small.config.model_dump() | {"engine": {"kind": "local"}} | settings)


def repository(small: Small, resources: Mapping[str, object] | None = None, **settings: Any) -> dg.RepositoryDefinition:
    """The code location of a small pipeline with other resources and settings."""
    resources = {"batch_assets_root": StorageRoot(root=small.storage.root), **(resources or {})}
    return definitions(changed(small, **settings), resources).get_repository_def()


def run(location: dg.RepositoryDefinition, instance: dg.DagsterInstance, day: str, *assets: str) -> str:
    """Run the pipeline's job, or as the UI does some of its assets; returns the run's id, also of a run that failed."""
    job = location.get_job("__ASSET_JOB" if assets else "small")
    keys = [dg.AssetKey(["small", asset]) for asset in assets]
    done = job.execute_in_process(instance=instance, partition_key=day, asset_selection=keys or None, raise_on_error=False)
    return done.run_id


def part_in(pool: str) -> RunOpConcurrency:
    """What Dagster notes of a run of which a step is in a pool."""
    return RunOpConcurrency(root_key_counts={}, has_unconstrained_root_nodes=True, all_pools={pool})
