"""`type: batch_assets.ScoringPipeline`: from one YAML document to assets, checks, a job, a schedule and sensors."""

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_shared.utils.warnings import PreviewWarning
from pydantic import BaseModel
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.alerting import build_alert_sensors
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.orchestration.assets import build_assets
from batch_assets.orchestration.catalog import places
from batch_assets.orchestration.resources import shared_resources
from batch_assets.orchestration.scaffolding.scaffolder import PipelineScaffolder
from batch_assets.orchestration.schedules import build_pruning, build_schedules
from batch_assets.orchestration.sensors import build_dead_runs, build_rollout_sensor
from batch_assets.orchestration.sla import build_sla_sensors
from batch_assets.secret import as_said


@dg.scaffold_with(PipelineScaffolder)
class ScoringPipeline(dg.Component):
    """The nightly batch inference job of one model: user_features -> predictions -> serving_table, one partition a day."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config

    @classmethod
    @override
    def get_model_cls(cls) -> type[BaseModel]:
        return PipelineConfig

    @classmethod
    @override
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg list components` and the UI show of it."""
        return dg.ComponentTypeSpec(
            description="The nightly batch inference job of one model: user_features -> predictions -> serving_table, one "
            "partition a day. A night that was killed resumes, and one that is not good is not published.",
            tags=["batch-inference", "machine-learning"],
            produces=["asset", "asset_check", "job", "schedule", "sensor", "resource"],
        )

    @classmethod
    @override
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "ScoringPipeline":
        """Resolve templates in text fields (`{{ context.path }}`, `{{ env("NAME") }}`) and validate again."""
        raw = as_said(attributes) if attributes else {}
        scope = {"context": places(context.project_root, context.path)}
        resolution = context.with_rendering_scope(scope).resolution_context.at_path("attributes")
        return cls(PipelineConfig.model_validate(resolution.resolve_value(raw)))

    @override
    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return definitions(self.config)


def definitions(config: PipelineConfig, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Everything of one pipeline, with the resources that all pipelines share, or with others of their names."""
    assets = build_assets(config)
    job = dg.define_asset_job(
        name=config.name,
        description=config.description or None,
        selection=dg.AssetSelection.assets(*assets),
        executor_def=dg.in_process_executor,  # parallelism comes from the engine
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # of partitions of checks, which a user can do nothing about
        checks = build_checks(config)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[job],
        schedules=[*build_schedules(config), *build_pruning(config)],
        sensors=[
            build_dead_runs(config),
            build_rollout_sensor(config),
            *build_sla_sensors(config),
            *build_alert_sensors(config),
        ],
        resources={**shared_resources(), **(resources or {})},
    )
