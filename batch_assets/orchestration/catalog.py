"""From a name to its pipeline: the one door for the command line and for the code location.

Dagster takes longer to load a pipeline's YAML than a look-up takes altogether. So the documents that are ours are read here
as Dagster reads them (its YAML parser, its templates), and whatever cannot be read that way is left to Dagster, which also
says best what is wrong and in which line.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml
from dagster_shared.yaml_utils import parse_yamls_with_source_position
from pydantic import ValidationError

from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError, NoSuchPipeline
from batch_assets.orchestration.attributes import Place, read_config, scope_of
from batch_assets.project import find_project

if TYPE_CHECKING:
    import dagster as dg

    from batch_assets.orchestration.component import ScoringPipeline

TYPE = "batch_assets.ScoringPipeline"
"""What a document that declares a pipeline gives as its `type`."""

_LOG = logging.getLogger(__name__)


def pipelines() -> dict[str, PipelineConfig]:
    """Every pipeline that a defs.yaml declares, by name. Raises ConfigError if one of them cannot be used."""
    found, refused = _declared()
    return _by_name(found if not refused else _loaded_by_dagster())


def usable_pipelines() -> list[PipelineConfig]:
    """Every pipeline that can be used; the UI shows why another cannot. Raises ConfigError if Dagster can load none at all."""
    found, refused = _declared()
    if not refused:
        return found
    return _usable(_components())


def pipeline(name: str) -> PipelineConfig:
    """One pipeline; that another one cannot be used is logged.

    Raises:
        NoSuchPipeline: names those that there are.
        ConfigError: it is not there, and a file that may declare it cannot be used; or two have one name.
    """
    found, refused = _declared()
    known = _by_name(found)
    if name not in known:
        components = _components()
        known = _by_name(_usable(components))
        if name not in known:
            for component in sorted(components, key=lambda one: one.config.name != name):
                component.usable()
    elif refused:
        _LOG.warning("%s cannot be read without Dagster: `batch-assets ui` says why.", " and ".join(map(str, refused)))
    if name not in known:
        raise NoSuchPipeline(f"There is no pipeline {name}; there is {', '.join(sorted(known)) or 'none yet'}.")
    return known[name]


def code_location() -> "dg.Definitions":
    """Everything that Dagster is shown of the project. Parallelism comes from the engine, so runs need one process only."""
    import dagster as dg

    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=find_project().package),
        dg.Definitions(executor=dg.in_process_executor),
    )


def _by_name(configs: list[PipelineConfig]) -> dict[str, PipelineConfig]:
    found: dict[str, PipelineConfig] = {}
    for config in configs:
        if config.name in found:
            raise ConfigError(f"Two pipelines are called {config.name}; names must be unique.")
        found[config.name] = config
    return found


def _declared() -> tuple[list[PipelineConfig], list[Path]]:
    """What the project's files declare, and those files that have to be left to Dagster."""
    project = find_project()
    found: list[PipelineConfig] = []
    refused: list[Path] = []
    for file in _documents(project.defs):
        try:
            found += _read(file, project.root)
        except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError, ConfigError):
            refused.append(file)
    return found, refused


def _documents(folder: Path) -> Iterator[Path]:
    """The files that Dagster would take: none below one of them, unless that is about the folder itself."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        for name in ("defs.yaml", "defs.yml", "component.yaml"):
            if name in files:
                yield Path(path, name)
                if b"DefsFolderComponent" not in Path(path, name).read_bytes():
                    folders.clear()
                break


def _read(file: Path, root: Path) -> list[PipelineConfig]:
    """The pipelines of one file. Raises ValueError, YAMLError or ConfigError where only Dagster knows more."""
    found = []
    documents = parse_yamls_with_source_position(file.read_text(encoding="utf-8"), str(file))
    if not documents:
        raise ValueError(f"{file} is empty.")
    for document in documents:
        said = document.value
        if not isinstance(said, dict) or not isinstance(said.get("type"), str):
            raise ValueError(f"{file} has a document without a type.")
        if said["type"] == TYPE:
            if not said.keys() <= {"type", "attributes", "post_processing", "requirements"}:
                raise ValueError(f"{file} uses more of Dagster than is known here.")
            scope = {"env": _Environment(), **scope_of(root, file.parent)}
            found.append(read_config(said.get("attributes"), scope, Place(("attributes",), document.source_position_tree)))
        elif said["type"].startswith(f"{TYPE.partition('.')[0]}."):
            raise ValueError(f"{file} is of a type that is none of ours.")
    return found


class _Environment:
    """`env("NAME")`, `env("NAME", "default")` and `env.NAME` of a template."""

    def __call__(self, name: str, *default: Any) -> Any:
        if name not in os.environ and not default:
            raise jinja2.UndefinedError(f"The environment variable {name} is not set.")
        return os.environ.get(name, *default)

    def __getattr__(self, name: str) -> str | None:
        if name.startswith("jinja"):
            raise AttributeError(name)
        return os.environ.get(name)


def _loaded_by_dagster() -> list[PipelineConfig]:
    """Every pipeline. Raises ConfigError, of the first that cannot be used."""
    return [component.usable() for component in _components()]


def _components() -> "list[ScoringPipeline]":
    """Every pipeline as Dagster has it, also those that cannot be used. Raises ConfigError if it can load none at all."""
    import dagster as dg

    from batch_assets.orchestration.component import ScoringPipeline

    project = find_project()
    try:
        return dg.ComponentTree.for_project(project.package).get_all_components(of_type=ScoringPipeline)
    except Exception as error:  # Dagster, YAML, Jinja and pydantic each have their own; all of them mean the same here
        raise ConfigError(f"A defs.yaml under {project.defs} cannot be used: {_explained(error)}") from error


def _usable(components: "list[ScoringPipeline]") -> list[PipelineConfig]:
    return [component.config for component in components if isinstance(component.config, PipelineConfig)]


def _explained(error: BaseException) -> str:
    """What went wrong on one line: a setting with its file and line where Dagster knows them, else the innermost cause."""
    while not isinstance(error, ValidationError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc'])).strip('`')}: {one['msg']}" for one in error.errors()) + "."
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
