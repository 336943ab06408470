"""`type: batch_assets.ScoringPipeline`: from one YAML document to assets, checks, a job, a schedule and sensors."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_shared.utils.warnings import PreviewWarning
from pydantic import BaseModel, GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override

from batch_assets.config import NAME, PipelineConfig
from batch_assets.errors import BatchAssetsError, ConfigError
from batch_assets.orchestration.alerting import build_alert_sensors
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.orchestration.assets import build_assets
from batch_assets.orchestration.attributes import Place, read_config, scope_of
from batch_assets.orchestration.refused import Refused, stand_in
from batch_assets.orchestration.resources import shared_resources
from batch_assets.orchestration.scaffolding.scaffolder import PipelineScaffolder
from batch_assets.orchestration.schedules import build_pruning, build_schedules
from batch_assets.orchestration.sensors import build_dead_runs, build_rollout_sensor, build_store_sensors
from batch_assets.orchestration.sla import build_sla_sensors
from batch_assets.orchestration.upstream import build_upstream_sensor


class _Attributes(RootModel[Any]):
    """Whatever stands under `attributes`: Dagster would refuse all pipelines for a mistake in one, so `load` judges it."""

    @classmethod
    @override
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What is right, for `dg check yaml` and editors."""
        return handler.resolve_ref_schema(handler(PipelineConfig.__pydantic_core_schema__))


@dg.scaffold_with(PipelineScaffolder)
class ScoringPipeline(dg.Component):
    """The nightly batch inference job of one model: user_features -> predictions -> serving_table, one partition a day.

    One whose settings cannot be used is loaded, too: it says so wherever it is looked at, and the others are as they were.
    """

    def __init__(self, config: PipelineConfig | Refused) -> None:
        self.config = config

    def usable(self) -> PipelineConfig:
        """The settings. Raises ConfigError if they cannot be used."""
        if isinstance(self.config, Refused):
            self.config.refuse()
        return self.config

    @classmethod
    @override
    def get_model_cls(cls) -> type[BaseModel]:
        return _Attributes

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
        """Resolve templates in text fields (`{{ context.path }}`, `{{ env("NAME") }}`) and validate."""
        said = attributes.model_dump() if attributes else {}
        resolution = context.resolution_context
        scope = {**resolution.scope, **scope_of(context.project_root, context.path)}
        try:
            return cls(read_config(said, scope, Place(("attributes",), resolution.source_position_tree)))
        except ConfigError as error:
            return cls(Refused(_name(said, context), str(error)))

    @override
    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        if isinstance(self.config, PipelineConfig):
            try:
                return definitions(self.config)
            except (BatchAssetsError, dg.DagsterInvalidDefinitionError) as error:
                refused = Refused(self.config.name, f"{context.path}: {error}")
        else:
            refused = self.config
        known = context.component_tree.get_all_components(of_type=ScoringPipeline)
        taken = {other.config.name for other in known if other is not self}
        return stand_in(refused, refused.name if refused.name not in taken else _place(context))


def _name(said: dict[str, Any], context: dg.ComponentLoadContext) -> str:
    """The name that a pipeline says, or that of its folder if it says none that could be one."""
    name = said.get("name")
    return name if isinstance(name, str) and re.fullmatch(NAME, name) else re.sub(r"\W", "_", context.path.name)


def _place(context: dg.ComponentLoadContext) -> str:
    """A name that is made of where the document stands, which no other has."""
    return re.sub(r"\W+", "_", context.component_loc.get_display_key(context.defs_module_path)).strip("_")


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
            *build_store_sensors(config),
            *build_upstream_sensor(config),
            *build_sla_sensors(config),
            *build_alert_sensors(config),
        ],
        resources={**shared_resources(), **(resources or {})},
    )
