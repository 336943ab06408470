"""Settings for which a plain text may stand."""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class TextOrMore(BaseModel):
    """Frozen settings; a plain text in their place is the first of them alone, also for the schema by which YAML is checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, said: Any) -> Any:
        return {next(iter(cls.model_fields)): said} if isinstance(said, str) else said

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}
