"""The three assets of a pipeline. A body reads its partition, calls the verbs of `nightly`, and says what happened."""

from datetime import timedelta
from enum import StrEnum

import dagster as dg
from pydantic import Field

from batch_assets.config import PipelineConfig
from batch_assets.features.snapshot import current_log
from batch_assets.nightly.accepted import accepted_day_before, accepted_log
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.preflight import preflight
from batch_assets.orchestration import metadata
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.observe import ObservedProgress
from batch_assets.orchestration.pins import pinned
from batch_assets.orchestration.pools import pool_of
from batch_assets.orchestration.remembered import of_logs, require_remembered
from batch_assets.orchestration.resources import Engines, StorageRoot
from batch_assets.orchestration.runs import began
from batch_assets.orchestration.upstream import column_lineage, deps_of
from batch_assets.runs.commit import day_folder
from batch_assets.serving.live import current_log as live_log
from batch_assets.storage.lease import lease

Result = dg.MaterializeResult[None]


class EngineKind(StrEnum):
    """Where to score."""

    auto = "auto"
    ray = "ray"
    spark = "spark"
    local = "local"


class FreezeOptions(dg.Config):
    """What can be asked of user_features for one run."""

    refresh: bool = Field(default=False, description="Compute the features again although the day has a snapshot.")


class ScoreOptions(dg.Config):
    """What can be asked of predictions for one run."""

    engine: EngineKind | None = Field(default=None, description="Where to score; by default as the pipeline says.")
    approval: int | None = Field(
        default=None, description="The approval whose model version is used; by default the one in force when the run begins."
    )


_OWN = ("batch_assets_root", "batch_assets_engines", "batch_assets_progress", "batch_assets_nights")
"""The resources of an asset that may need one of the project's own beside them."""


def _own(context: dg.AssetExecutionContext) -> tuple[StorageRoot, Engines, Progress, Nights]:
    root, engines, progress, nights = (getattr(context.resources, name) for name in _OWN)
    return root, engines, progress, nights


def asset_key(config: PipelineConfig, asset: str) -> dg.AssetKey:
    """The key of one of a pipeline's assets."""
    return dg.AssetKey([config.name, asset])


def partitions(config: PipelineConfig) -> dg.DailyPartitionsDefinition:
    """The pipeline's days; Dagster's end is exclusive."""
    end = config.partitions.end
    return dg.DailyPartitionsDefinition(
        start_date=config.partitions.start.isoformat(),
        end_date=(end + timedelta(days=1)).isoformat() if end else None,
        timezone=config.partitions.timezone,
    )


def build_assets(pipeline: PipelineConfig) -> list[dg.AssetsDefinition]:
    """user_features -> predictions -> serving_table."""
    days = partitions(pipeline)

    @dg.asset(
        key_prefix=pipeline.name,
        partitions_def=days,
        group_name=pipeline.name,
        deps=deps_of(pipeline),
        kinds={pipeline.features.source.kind},
    )
    def user_features(
        context: dg.AssetExecutionContext,
        config: FreezeOptions,
        batch_assets_root: StorageRoot,
        batch_assets_progress: dg.ResourceParam[Progress],
    ) -> Result:
        """The day's features, computed from what was known by its end and frozen as a snapshot."""
        storage, day = batch_assets_root.storage(), context.partition_key
        require_remembered(pipeline, context.instance, storage, day)
        with lease(storage, day_folder(pipeline.name, day)):
            frozen = freeze(pipeline, storage, day, batch_assets_progress, refresh=config.refresh)
            verdict = judge_features(pipeline, storage, frozen, day)
        shown = metadata.of_features(frozen, verdict, began(context.instance, context.run.run_id))
        lineage = column_lineage(pipeline)
        shown |= {"dagster/column_lineage": lineage} if lineage else {}
        return Result(
            metadata=shown | of_logs(storage, current_log(storage, pipeline.name, day)),
            data_version=dg.DataVersion(frozen.snapshot.digest),
        )

    @dg.asset(
        key_prefix=pipeline.name,
        partitions_def=days,
        group_name=pipeline.name,
        deps=[user_features],
        pool=pool_of(pipeline),
        kinds={pipeline.engine.kind if pipeline.engine.kind in ("ray", "spark") else "python"},
        required_resource_keys={*_OWN, *filter(None, [pipeline.engine.resource])},
    )
    def predictions(context: dg.AssetExecutionContext, config: ScoreOptions) -> Result:
        """Every user of the day, scored by one approved model and proven complete."""
        root, engines, progress, nights = _own(context)
        storage, day = root.storage(), context.partition_key
        model = pinned(context, pipeline, root, nights)
        require_remembered(pipeline, context.instance, storage, day)
        engine = engines.engine(pipeline.engine, config.engine.value if config.engine else None)
        observing = ObservedProgress(progress, context, asset_key(pipeline, "predictions"))
        with lease(storage, day_folder(pipeline.name, day)):
            if pipeline.preflight:
                found = preflight(pipeline, storage, day, model, progress)
                found.require()
                progress.say(found.sentence())
            scored = score(nights.night(pipeline, storage, day, model), engine, observing)
            nights.keep(scored.night)
            verdict = judge(scored.night, scored.manifest)
        before = accepted_day_before(storage, pipeline.name, day, model.withdrawn())
        shown = metadata.of_predictions(scored, verdict, model, before, began(context.instance, context.run.run_id))
        _, *others = scored.night.made_from()
        return Result(
            metadata=shown | of_logs(storage, accepted_log(storage, pipeline.name, day), *others),
            data_version=dg.DataVersion(scored.manifest.run_id),
            tags=metadata.model_tags(scored.manifest.model),
        )

    @dg.asset(
        key_prefix=pipeline.name,
        partitions_def=days,
        group_name=pipeline.name,
        deps=[predictions],
        kinds={store.kind for store in pipeline.stores[:3]},  # Dagster shows no more
    )
    def serving_table(
        context: dg.AssetExecutionContext,
        batch_assets_root: StorageRoot,
        batch_assets_progress: dg.ResourceParam[Progress],
        batch_assets_nights: dg.ResourceParam[Nights],
    ) -> Result:
        """The day's predictions by key, published all at once if the verdict on them is good."""
        storage, nights, day = batch_assets_root.storage(), batch_assets_nights, context.partition_key
        model = pinned(context, pipeline, batch_assets_root, nights)
        require_remembered(pipeline, context.instance, storage, day)
        with lease(storage, day_folder(pipeline.name, day)):
            published = publish(nights.night(pipeline, storage, day, model), batch_assets_progress)
        return Result(
            metadata=metadata.of_release(published) | of_logs(storage, live_log(storage, pipeline.name)),
            data_version=dg.DataVersion(published.release.run_id),
            tags=metadata.model_tags(published.release.model),
        )

    return [user_features, predictions, serving_table]
