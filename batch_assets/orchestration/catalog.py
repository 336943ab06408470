"""From a name to its pipeline: the one door for the command line and for the code location."""

from pathlib import Path

import dagster as dg
from pydantic import ValidationError

import batch_assets
from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError, NoSuchPipeline
from batch_assets.orchestration.component import ScoringPipeline
from batch_assets.orchestration.resources import shared_resources
from batch_assets.orchestration.sensors import dead_runs

_PACKAGE = Path(batch_assets.__file__).parent


def project_root() -> Path:
    """The folder with pyproject.toml, workspace.yaml and the Dagster home."""
    return _PACKAGE.parent


def pipelines() -> dict[str, PipelineConfig]:
    """Every pipeline that a defs.yaml declares, by name. Raises ConfigError."""
    try:
        components = dg.ComponentTree.for_project(_PACKAGE).get_all_components(of_type=ScoringPipeline)
    except Exception as error:  # Dagster, YAML, Jinja and pydantic each have their own; all of them mean the same here
        raise ConfigError(f"A defs.yaml under {_PACKAGE / 'defs'} cannot be used: {_explained(error)}") from error
    found: dict[str, PipelineConfig] = {}
    for component in components:
        if component.config.name in found:
            raise ConfigError(f"Two pipelines are called {component.config.name}; names must be unique.")
        found[component.config.name] = component.config
    return found


def _explained(error: BaseException) -> str:
    """What went wrong on one line: a setting with its file and line where Dagster knows them, else the innermost cause."""
    while not isinstance(error, ValidationError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc'])).strip('`')}: {one['msg']}" for one in error.errors()) + "."
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


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
        dg.Definitions(resources=shared_resources(), sensors=[dead_runs], executor=dg.in_process_executor),
    )
