"""The project whose pipelines are meant: a Dagster project as `dg` makes and finds it."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_assets.errors import ConfigError

PROJECT = "BATCH_ASSETS_PROJECT"
"""The environment variable that names the folder of a project; the command's option `--project` sets it."""

_SETTINGS = Path(__file__).with_name("dagster.yaml")
"""What Dagster's daemon does with runs: killed ones are tried again, and one scores at a time."""


@dataclass(frozen=True)
class Project:
    """A folder with a pyproject.toml (or dg.toml), and in it the package whose folder `defs` holds the pipelines."""

    root: Path
    package: Path
    defs: Path

    def dagster_home(self) -> Path:
        """The folder that DAGSTER_HOME names, or the project's own; one that is made here has settings that fit nights.

        Raises:
            ConfigError: DAGSTER_HOME names no folder.
        """
        if named := os.environ.get("DAGSTER_HOME"):
            if not Path(named).is_dir():
                raise ConfigError(f"DAGSTER_HOME names {named}, which is not a folder.")
            return Path(named).absolute()
        home = self.root / ".dagster_home"
        if not home.exists():
            home.mkdir(exist_ok=True)
            home.joinpath(_SETTINGS.name).write_bytes(_SETTINGS.read_bytes())
        return home


def find_project() -> Project:
    """The project that BATCH_ASSETS_PROJECT names, else the nearest one upwards from here, else the one of this very source.

    Raises:
        ConfigError: there is none, or its file cannot be read.
    """
    if project := project_here():
        return project
    if named := os.environ.get(PROJECT):
        raise ConfigError(f"{PROJECT} names {named}, which is no project: its pyproject.toml has no [tool.dg] that says so.")
    raise ConfigError(
        f"Neither {Path.cwd()} nor a folder above it is a project of dg: go into one, name it with --project, "
        "or make one with `dg init`."
    )


def project_here() -> Project | None:
    """The same, or None if there is none."""
    named = os.environ.get(PROJECT)
    here = Path(named).absolute() if named else Path.cwd()
    for folder in (here,) if named else (here, *here.parents, Path(__file__).resolve().parent.parent):
        settings = _settings(folder)
        if settings.get("directory_type") == "project":
            return _project(folder, settings.get("project", {}))
    return None


def _settings(folder: Path) -> dict[str, Any]:
    """What a folder says of itself to dg; nothing if it does not."""
    for name in ("dg.toml", "pyproject.toml"):
        try:
            said = tomllib.loads((folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder / name} cannot be read: {error}.") from error
        found = said if name == "dg.toml" else said.get("tool", {}).get("dg", {})
        if found:
            return dict(found)
    return {}


def _project(root: Path, settings: dict[str, Any]) -> Project:
    name = settings.get("root_module")
    if not isinstance(name, str):
        raise ConfigError(f"The project {root} names no root_module in its [tool.dg.project].")
    modules = Path(*str(settings.get("defs_module", f"{name}.defs")).split("."))
    for source in (root / "src", root):
        if (source / name).is_dir():
            return Project(root, source / name, source / modules)
    raise ConfigError(f"The project {root} has no folder {name}, neither in src nor beside its pyproject.toml.")
