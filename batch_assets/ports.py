"""Ports: what can be plugged in. A port is a kind's name -> the class that does it, imported when it is first asked for.

An adapter is a frozen pydantic model with a `kind`: its fields are its settings, as they stand in a pipeline's YAML or a
model's card, its methods are the port's. Our own are in a table of strings; a package of somebody else's adds one by an entry
point in the port's group, which is loaded only if something names its kind, and cannot take the place of one of ours:

    [project.entry-points."batch_assets.stores"]
    tapes = "my_package.tapes:TapeStore"
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from batch_assets.errors import MissingExtra, NoSuchKind


class Adapter(BaseModel):
    """What every adapter of every port is: frozen settings, told apart by `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


A = TypeVar("A", bound=Adapter)


@dataclass(frozen=True, eq=False)
class Port(Generic[A]):
    """One port; as the annotation of a field it makes an adapter from settings: `source: Annotated[Source, SOURCES]`.

    `noun` is what people call one of its adapters, `base` the class that all of them inherit.
    """

    noun: str
    group: str
    built_in: Mapping[str, str]

    def kinds(self) -> list[str]:
        """Every kind that can be had here, ours first; nothing is imported."""
        return [*self.built_in, *sorted({point.name for point in self._points()} - set(self.built_in))]

    def adapter(self, kind: str) -> type[A]:
        """The class of a kind. Raises NoSuchKind."""
        if kind in self.built_in:
            return self._loaded(EntryPoint(kind, self.built_in[kind], self.group), "batch-assets")
        points = [point for point in self._points() if point.name == kind]
        if not points:
            raise NoSuchKind(f"There is no {self.noun} of the kind {kind!r}; there is {', '.join(self.kinds())}.")
        packages = [point.dist.name if point.dist else point.value for point in points]
        if len(points) > 1:
            raise NoSuchKind(f"Several packages bring a {self.noun} of the kind {kind}: {', '.join(packages)}; keep one.")
        return self._loaded(points[0], packages[0])

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def _loaded(self, point: EntryPoint, package: str) -> type[A]:
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise NoSuchKind(f"The {self.noun} {point.name} of {package} cannot be imported ({error}).") from error
        if not (isinstance(found, type) and issubclass(found, Adapter)):
            raise NoSuchKind(f"The {self.noun} {point.name} of {package}, {point.value}, is no batch_assets.ports.Adapter.")
        return found  # type: ignore[return-value] # the port's own class is named where the port is

    def __get_pydantic_core_schema__(self, base: type[A], _: GetCoreSchemaHandler) -> CoreSchema:
        def adapted(said: Any) -> A:
            if isinstance(said, base):
                return said
            kind = said.get("kind") if isinstance(said, Mapping) else None
            if not isinstance(kind, str):
                raise ValueError(f"say the kind of {self.noun}: {', '.join(self.kinds())}")
            try:
                cls = self.adapter(kind)
            except NoSuchKind as error:
                raise ValueError(str(error).rstrip(".")) from error
            if not issubclass(cls, base):
                raise ValueError(f"the {self.noun} {kind} is no {base.__name__}")
            return cls.model_validate(said)

        return core_schema.no_info_plain_validator_function(
            adapted,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda value, _, info: value.model_dump(
                    mode=info.mode,
                    exclude_unset=info.exclude_unset,
                    exclude_defaults=info.exclude_defaults,
                    context=info.context,
                ),
                info_arg=True,
                schema=core_schema.any_schema(),
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One of the settings of our own adapters, or anything with another kind; each says its kind."""
        said = [handler(self.adapter(kind).__pydantic_core_schema__) for kind in self.built_in]
        own: list[JsonSchemaValue] = [{**one, "required": ["kind", *one.get("required", [])]} for one in said]
        other = {
            "type": "object",
            "title": f"A {self.noun} of another package",
            "properties": {"kind": {"type": "string", "not": {"enum": list(self.built_in)}}},
            "required": ["kind"],
        }
        return {"anyOf": [*own, other]}


def extra(module: str, name: str, what: str) -> Any:
    """A library that an extra of ours brings; `what` needs it, for messages. Raises MissingExtra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        library = module.partition(".")[0]
        raise MissingExtra(f"{what} needs {library}, which is not installed: pip install 'batch-assets[{name}]'.") from error
