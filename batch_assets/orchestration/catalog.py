"""From a name to its pipeline: the one door for the command line and for the code location."""

from pathlib import Path

import dagster as dg

import batch_assets
from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError, NoSuchPipeline
from batch_assets.orchestration.component import ScoringPipeline
from batch_assets.orchestration.resources import shared_resources

_PACKAGE = Path(batch_assets.__file__).parent


def project_root() -> Path:
    """The folder with pyproject.toml, workspace.yaml and the Dagster home."""
    return _PACKAGE.parent


def pipelines() -> dict[str, PipelineConfig]:
    """Every pipeline that a defs.yaml declares, by name. Raises ConfigError."""
    tree = dg.ComponentTree.for_project(_PACKAGE)
    found: dict[str, PipelineConfig] = {}
    for component in tree.get_all_components(of_type=ScoringPipeline):
        if component.config.name in found:
            raise ConfigError(f"Two pipelines are called {component.config.name}; names must be unique.")
        found[component.config.name] = component.config
    return found


def pipeline(name: str) -> PipelineConfig:
    """One pipeline. Raises NoSuchPipeline, naming those that there are."""
    known = pipelines()
    if name not in known:
        raise NoSuchPipeline(f"There is no pipeline {name}; there is {', '.join(sorted(known)) or 'none yet'}.")
    return known[name]


def code_location() -> dg.Definitions:
    """Everything that Dagster is shown. Parallelism comes from the engine, so runs need one process only."""
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=_PACKAGE),
        dg.Definitions(resources=shared_resources(), executor=dg.in_process_executor),
    )
