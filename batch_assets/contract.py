"""The feature contract: which columns a model takes, in which order and type, and what values they may have.

It is declared once in the pipeline's YAML, frozen into the card of every model that is trained on it, and compared with
the schema of each snapshot before a single row is scored. Nothing is ever filled in, cast or reordered silently.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from batch_assets.errors import ContractBroken

if TYPE_CHECKING:
    import pyarrow as pa

KeyType = Literal["int32", "int64", "string"]
FeatureType = Literal["float32", "float64", "int8", "int16", "int32", "int64", "bool"]

_ARROW_NAMES = {"float": "float32", "double": "float64", "large_string": "string"}


class Column(BaseModel):
    """One feature: its name, type and permitted values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Column name in the snapshot.", min_length=1)
    dtype: FeatureType = Field("float32", description="Type in the snapshot's Parquet files.")
    min: float | None = Field(None, description="Smallest permitted value.")
    max: float | None = Field(None, description="Largest permitted value.")


class Key(BaseModel):
    """The column that says whom a row is about; unique and never null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Column name in the snapshot.", min_length=1)
    dtype: KeyType = Field(description="Type in the snapshot's Parquet files.")


class FeatureContract(BaseModel):
    """Key and ordered features. A row with a missing or non-finite feature is dead-lettered, never filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    columns: tuple[Column, ...] = Field(description="Features in the order in which the model takes them.", min_length=1)
    strict: bool = Field(True, description="Whether a column that the contract does not name is an error.")

    @field_validator("columns")
    @classmethod
    def _names_are_unique(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"columns are named twice: {', '.join(doubled)}")
        return columns

    @property
    def names(self) -> list[str]:
        """The features' names, in order."""
        return [column.name for column in self.columns]

    def fingerprint(self) -> str:
        """A sha256 of everything the contract says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def differences(self, schema: "pa.Schema") -> list[str]:
        """Each way in which a schema differs from the contract, as a phrase; empty if it fits."""
        expected = [(self.key.name, self.key.dtype), *((column.name, column.dtype) for column in self.columns)]
        found = [(field.name, _ARROW_NAMES.get(str(field.type), str(field.type))) for field in schema]
        return _differences([(name, str(dtype)) for name, dtype in expected], found, self.strict)

    def require(self, schema: "pa.Schema", where: str) -> None:
        """Raise ContractBroken with every difference, if there is any."""
        differences = self.differences(schema)
        if differences:
            raise ContractBroken(f"{where} breaks the feature contract: {'; '.join(differences)}.")


def _differences(expected: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]], strict: bool) -> list[str]:
    expected_types, found_types = dict(expected), dict(found)
    missing = [name for name, _ in expected if name not in found_types]
    extra = [name for name, _ in found if name not in expected_types]
    phrases = []
    for position, (name, dtype) in enumerate(expected):
        if name in missing and position < len(found) and found[position][0] in extra and found[position][1] == dtype:
            phrases.append(f"{name} seems to be renamed to {found[position][0]}")
            missing.remove(name)
            extra.remove(found[position][0])
    phrases += [f"{name} is missing" for name in missing]
    if strict:
        phrases += [f"{name} is not in the contract" for name in extra]
    doubled = sorted({name for name, _ in found if [other for other, _ in found].count(name) > 1})
    phrases += [f"{name} is there more than once" for name in doubled]
    phrases += [
        f"{name} is {found_types[name]} instead of {dtype}"
        for name, dtype in expected
        if name in found_types and found_types[name] != dtype
    ]
    order = [name for name, _ in found if name in expected_types]
    wanted = [name for name, _ in expected if name in found_types]
    if order != wanted and not doubled:
        phrases.append(f"the order is {', '.join(order)} instead of {', '.join(wanted)}")
    return phrases
