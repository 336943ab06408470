"""`type: batch_assets.ScoringPipeline`: from one YAML document to assets, checks, a job, a schedule and sensors."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.alerting import build_alert_sensors
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.orchestration.assets import build_assets
from batch_assets.orchestration.resources import shared_resources
from batch_assets.orchestration.schedules import build_pruning, build_schedules
from batch_assets.orchestration.sensors import build_dead_runs, build_rollout_sensor
from batch_assets.orchestration.sla import build_sla_sensors
from batch_assets.secret import as_said


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
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "ScoringPipeline":
        """Resolve templates in text fields (`{{ context.project_root }}`, `{{ env("NAME") }}`) and validate again."""
        raw = as_said(attributes) if attributes else {}
        scope = {"context": {"project_root": str(context.project_root.resolve())}}
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
    return dg.Definitions(
        assets=assets,
        asset_checks=build_checks(config),
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
