"""The attributes of a YAML document, with Dagster's templates in them -> the settings of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from dagster_shared.yaml_utils.source_position import SourcePositionTree
from jinja2.nativetypes import NativeTemplate
from pydantic import ValidationError
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError, ConfigError


@dataclass(frozen=True)
class Place:
    """Where something stands in a document: under which keys, and in which line if that is known."""

    keys: tuple[str | int, ...]
    lines: SourcePositionTree | None

    def below(self, *keys: str | int) -> "Place":
        """The place of what stands under these keys here."""
        return Place((*self.keys, *keys), self.lines)

    @override
    def __str__(self) -> str:
        named = ".".join(map(str, self.keys))
        return f"{named} at {self.lines.lookup_closest_and_path(self.keys, None)[0]}" if self.lines else named


def scope_of(root: Path, folder: Path) -> dict[str, Any]:
    """What `context` is in a template: the folder of the project, and that of the very defs.yaml."""
    return {"context": {"project_root": str(root.resolve()), "path": str(folder.resolve())}}


def read_config(said: Any, scope: Mapping[str, Any], place: Place) -> PipelineConfig:
    """The settings that attributes say. No message shows a value: it may be a receiver's secret address.

    Raises:
        ConfigError: names each mistake with its place.
    """
    rendered = _rendered(said, scope, place)
    try:
        return PipelineConfig.model_validate(rendered)
    except ValidationError as error:
        mistakes = [f"{place.below(*one['loc'])}: {one['msg']}" for one in error.errors(include_input=False)]
        raise ConfigError(f"{'; '.join(mistakes)}; correct it there.") from None
    except BatchAssetsError as error:  # what an adapter needs is not installed
        raise ConfigError(f"{place}: {error}") from error


def _rendered(value: Any, scope: Mapping[str, Any], place: Place) -> Any:
    """A value whose texts are rendered as Dagster's templates are."""
    if isinstance(value, dict):
        return {name: _rendered(one, scope, place.below(name)) for name, one in value.items()}
    if isinstance(value, list):
        return [_rendered(one, scope, place.below(number)) for number, one in enumerate(value)]
    if not isinstance(value, str) or not value:
        return value
    try:
        rendered = NativeTemplate(value).render(**scope)
        if isinstance(rendered, jinja2.Undefined):
            raise jinja2.UndefinedError(rendered._undefined_message)
    except jinja2.TemplateError as error:  # as text, a wrong one shows its whole template
        raise ConfigError(f"{place}: The template cannot be rendered, as {error.message}; correct it there.") from None
    except Exception as error:  # of what a template calls
        raise ConfigError(f"{place}: The template cannot be rendered, as {error}; correct it there.") from error
    return rendered
