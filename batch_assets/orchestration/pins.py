"""Which model version a Dagster run uses: decided once, then the same for its whole length and for its retries.

In this order: what the run (or the run that it retries) has pinned in its tags, what its config asks for, what another run of
the same backfill has pinned, the version that was approved at the end of its day if it is tagged so, and else the version that
the alias names now. Wherever the alias moves meanwhile, the run stays with its version; only a roll-back ends it.
"""

from datetime import date, datetime
from typing import Any

import dagster as dg

from batch_assets.clock import end_of
from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError
from batch_assets.models.registry import ModelVersion
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.resources import StorageRoot

AS_OF = "batch_assets/as_of"
"""The tag of runs that use the version that was approved at the end of their day; its value is `day`."""

_APPROVAL = "batch_assets/approval."
_BACKFILL = "dagster/backfill"


def pinned(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    config: PipelineConfig,
    root: StorageRoot,
    nights: Nights,
) -> ModelVersion:
    """The model version of this Dagster run, byte for byte the one that was approved.

    Raises:
        Withdrawn: the approval that the run is pinned to was rolled back.
        NoSuchModel, ModelChanged: see `Registry.resolve`.
    """
    instance, run_id, registry = context.instance, context.run.run_id, root.registry()
    run = instance.get_run_by_id(run_id) or context.run
    approval = approval_tag(run, config.name)
    if approval is not None:
        return nights.model(registry, config.model, approval)
    approval = _asked_for(run, config.name) or _of_backfill(instance, run, config.name)
    as_of = run.tags.get(AS_OF)
    if as_of not in (None, "day"):
        raise ConfigError(f"The tag {AS_OF} of this run is {as_of!r}; the one value that it may have is 'day'.")
    if approval is None and as_of:
        approval = (
            registry.approvals(config.model.name, config.model.alias).as_of(day_end(config, context.partition_key)).number
        )
    model = nights.model(registry, config.model, approval)
    instance.add_run_tags(run_id, pin_tags(config.name, model))
    return model


def pin_tags(pipeline: str, model: ModelVersion) -> dict[str, str]:
    """The tags that pin a model version for a pipeline's part of a run."""
    return {
        f"{_APPROVAL}{pipeline}": str(model.approval),
        "batch_assets/model": f"{model.name} {model.version}",
        "batch_assets/model_sha256": model.card.model_sha256,
    }


def approval_tag(run: dg.DagsterRun, pipeline: str) -> int | None:
    """The approval in a run's tags; a retry has its parent's, so that it resumes what was begun."""
    approval = run.tags.get(f"{_APPROVAL}{pipeline}", "")
    return int(approval) if approval.isdigit() else None


def day_end(config: PipelineConfig, day: str) -> datetime:
    """The moment at which a pipeline's day ends."""
    return end_of(date.fromisoformat(day), config.partitions.timezone)


def _asked_for(run: dg.DagsterRun, pipeline: str) -> int | None:
    found: Any = run.run_config
    for name in ("ops", f"{pipeline}__predictions", "config", "approval"):
        found = found.get(name) if found else None
    return int(found) if found else None


def _of_backfill(instance: dg.DagsterInstance, run: dg.DagsterRun, pipeline: str) -> int | None:
    """What the first run of the same backfill pinned: all its days are scored by one version, unless each asks for its own."""
    backfill = run.tags.get(_BACKFILL)
    if not backfill or AS_OF in run.tags:
        return None
    others = instance.get_runs(filters=dg.RunsFilter(tags={_BACKFILL: backfill}))
    return min((found for other in others if (found := approval_tag(other, pipeline)) is not None), default=None)
