"""The feature contract: which columns a model takes, in which order and type, and what values they may have.

It is declared once in the pipeline's YAML, frozen into the card of every model that is trained on it, and compared with
the schema of each snapshot before a single row is scored. Nothing is ever filled in, cast or reordered silently.
"""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batch_assets.errors import ContractBroken
from batch_assets.features.keys import Key
from batch_assets.histogram import FLOAT_BINS

if TYPE_CHECKING:
    import pyarrow as pa

InputType = Literal["float32", "float64", "int64"]
FeatureType = Literal["float32", "float64", "int8", "int16", "int32", "int64", "bool"]

_ARROW_NAMES = {"float": "float32", "double": "float64", "large_string": "string", "date32[day]": "date"}


def _is_none(value: object) -> bool:
    return value is None


class Column(BaseModel):
    """One feature: its name, type, meaning, permitted values, and which of the model's inputs it is a part of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Column name in the snapshot.", min_length=1)
    dtype: FeatureType = Field("float32", description="Type in the snapshot's Parquet files; of a list, its elements' type.")
    length: Annotated[int, Field(ge=1)] | Literal["variable"] | None = Field(
        None, description="None: one value. A number: a list of exactly so many. variable: a list of any length."
    )
    input: str = Field("features", description="The model input that takes the column.", min_length=1)
    nullable: bool = Field(False, description="Whether null, NaN and infinite values go to the model, as NaN or infinity.")
    min: float | None = Field(None, description="Smallest permitted value.")
    max: float | None = Field(None, description="Largest permitted value.")
    categories: int | None = Field(
        None,
        description="Of a category: how many there are. Its values are their numbers, from 0.",
        ge=2,
        le=FLOAT_BINS,
        exclude_if=_is_none,
    )
    unit: str | None = Field(None, description="What the values are, like days or US dollars.", exclude_if=_is_none)
    since: date | None = Field(
        None, description="The first day on which it means what it means now; moved when that changes.", exclude_if=_is_none
    )

    @model_validator(mode="before")
    @classmethod
    def _permits_categories(cls, said: Any) -> Any:
        """Of categories, their numbers are permitted and nothing else."""
        if isinstance(said, dict) and isinstance(said.get("categories"), int):
            return {**said, "min": said.get("min", 0), "max": said.get("max", said["categories"] - 1)}
        return said

    @model_validator(mode="after")
    def _numbers_categories(self) -> "Column":
        if self.categories is None:
            return self
        if self.dtype.startswith("float") or self.length is not None:
            raise ValueError(f"{self.name} is a category, so it must be one whole number or a bool in each row")
        if (self.min, self.max) != (0, self.categories - 1):
            raise ValueError(
                f"{self.name} has {self.categories} categories: 0 to {self.categories - 1} are permitted, no others"
            )
        return self


class Carried(BaseModel):
    """A column that goes from the snapshot to the predictions untouched; no model sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Column name in the snapshot.", min_length=1)
    dtype: str = Field(description="Its type in the snapshot's Parquet files, like string, int64, date or timestamp[us].")


class ModelInput(BaseModel):
    """One tensor that the model takes.

    Of single values and lists of fixed length it is a matrix of shape (rows, width), the columns side by side. Of one list of
    variable length it is a matrix of shape (rows, longest), shorter lists padded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    dtype: InputType = "float32"
    max_length: int = Field(512, description="Of lists of variable length: a longer one is dead-lettered.", ge=1)
    pad: float = Field(0.0, description="What shorter lists are padded with.")

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, at most {self.max_length}, padded with {self.pad:g})"


class FeatureContract(BaseModel):
    """Key and ordered features. A missing or non-finite value that is not permitted dead-letters its row; none is filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: tuple[Key, ...] = Field(description="Whom a row is about: one column, or a list of them.", min_length=1)
    item: Key | None = Field(
        None, description="What a row is about beside the key, like a candidate for a user; then a key has many rows."
    )
    columns: tuple[Column, ...] = Field(description="Features in the order in which the model takes them.", min_length=1)
    inputs: tuple[ModelInput, ...] = Field(
        (ModelInput(name="features"),), description="What the model takes, in its order; by default one float32 matrix."
    )
    carry: tuple[Carried, ...] = Field((), description="Columns that go from the snapshot to the predictions untouched.")
    strict: bool = Field(True, description="Whether a column that the contract does not name is an error.")

    @field_validator("key", mode="before", json_schema_input_type=Key | tuple[Key, ...])
    @classmethod
    def _one_or_several(cls, said: Any) -> Any:
        return [said] if isinstance(said, dict | Key) else said

    @model_validator(mode="after")
    def _fits_together(self) -> "FeatureContract":
        names = [*self.names, *(one.name for one in self.carry)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"columns are named twice: {', '.join(doubled)}")
        for name in self.identity:
            if name in names:
                raise ValueError(f"the key {name} cannot be a feature too")
        if len(set(self.identity)) < len(self.identity):
            raise ValueError(f"the key names a column twice: {', '.join(self.identity)}")
        inputs = [model_input.name for model_input in self.inputs]
        if len(set(inputs)) != len(inputs):
            raise ValueError(f"inputs are named twice: {', '.join(inputs)}")
        known = {model_input.name: model_input for model_input in self.inputs}
        for column in self.columns:
            if column.input not in known:
                raise ValueError(f"{column.name} is for the input {column.input}, which is not among inputs")
            if column.dtype.startswith("float") and known[column.input].dtype == "int64":
                raise ValueError(f"{column.name} is {column.dtype}, but its input {column.input} takes whole numbers")
            if column.nullable and known[column.input].dtype == "int64":
                raise ValueError(f"{column.name} cannot be nullable: its input {column.input} has whole numbers")
        for name in known:
            columns = self.columns_of(name)
            if not columns:
                raise ValueError(f"no column is for the input {name}")
            if len(columns) > 1 and any(column.length == "variable" for column in columns):
                raise ValueError(f"the input {name} takes a list of variable length and must have no other column")
        return self

    def columns_of(self, model_input: str) -> list[Column]:
        """The columns of one input, in order."""
        return [column for column in self.columns if column.input == model_input]

    def width_of(self, model_input: str) -> int | None:
        """How many numbers a row has in one input; None if they are a list of variable length."""
        lengths = [column.length for column in self.columns_of(model_input)]
        return None if "variable" in lengths else sum(length if isinstance(length, int) else 1 for length in lengths)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The columns of the key, which say whom a row is about."""
        return tuple(one.name for one in self.key)

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that say what a row is about: those of the key and, if there is one, the item."""
        return tuple(one.name for one in (*self.key, *([self.item] if self.item else [])))

    @property
    def categories(self) -> list[str]:
        """The names of the features that are categories."""
        return [column.name for column in self.columns if column.categories is not None]

    @property
    def names(self) -> list[str]:
        """The features' names, in order."""
        return [column.name for column in self.columns]

    def fingerprint(self) -> str:
        """A sha256 of everything the contract says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def differences(self, schema: "pa.Schema") -> list[str]:
        """Each way in which a schema differs from the contract, as a phrase; empty if it fits."""
        expected = [*_key_types(self), *_types(self), *((one.name, one.dtype) for one in self.carry)]
        found = [(field.name, _arrow_name(field.type)) for field in schema]
        return _differences(expected, found, self.strict)

    def changes(self, other: "FeatureContract") -> list[str]:
        """Each way in which another contract means other columns than this one, as a phrase; empty if it means the same.

        Permitted ranges are no part of it: they say what is let through, not what it is.
        """
        expected, found = ([*_key_types(one), *_types(one)] for one in (self, other))
        theirs = {column.name: column for column in other.columns}
        phrases = _differences(expected, found, strict=True)
        for column in self.columns:
            if column.name in theirs:
                phrases += _of_meaning(column, theirs[column.name])
        if self.inputs != other.inputs:
            ours, others = (", ".join(map(str, contract.inputs)) for contract in (self, other))
            phrases.append(f"the inputs are {others} instead of {ours}")
        return phrases

    def require_same(self, other: "FeatureContract", whose: str) -> None:
        """Raise ContractBroken with every change, if there is any."""
        changes = self.changes(other)
        if changes:
            raise ContractBroken(
                f"{whose} was trained on other features than the pipeline's contract says: {'; '.join(changes)}. "
                "Train it on these features, or correct the contract."
            )

    def require(self, schema: "pa.Schema", where: str) -> None:
        """Raise ContractBroken with every difference, if there is any."""
        differences = self.differences(schema)
        if differences:
            raise ContractBroken(f"{where} breaks the feature contract: {'; '.join(differences)}.")


def _key_types(contract: FeatureContract) -> list[tuple[str, str]]:
    return [(one.name, one.dtype) for one in (*contract.key, *([contract.item] if contract.item else []))]


def _types(contract: FeatureContract) -> list[tuple[str, str]]:
    return [(column.name, _type_name(column)) for column in contract.columns]


def _of_meaning(ours: Column, theirs: Column) -> list[str]:
    """How two columns of one name and type differ. A unit that only one of them states is none that differs."""
    phrases = []
    if ours.unit and theirs.unit and ours.unit != theirs.unit:
        phrases.append(f"{ours.name} is in {theirs.unit} instead of {ours.unit}")
    if ours.since != theirs.since:
        spoken = [f"since {column.since}" if column.since else "since always" for column in (theirs, ours)]
        phrases.append(f"{ours.name} is what it means {spoken[0]}, not what it means {spoken[1]}")
    if ours.categories != theirs.categories:
        spoken = [f"one of {one.categories} categories" if one.categories else "a number" for one in (theirs, ours)]
        phrases.append(f"{ours.name} is {spoken[0]} instead of {spoken[1]}")
    if ours.nullable != theirs.nullable:
        phrases.append(f"{ours.name} {'may' if theirs.nullable else 'must not'} be missing")
    if ours.input != theirs.input:
        phrases.append(f"{ours.name} is for the input {theirs.input} instead of {ours.input}")
    return phrases


def _type_name(column: Column) -> str:
    if column.length is None:
        return column.dtype
    return f"list of {column.dtype}" if column.length == "variable" else f"list of {column.length} {column.dtype}"


def _arrow_name(dtype: "pa.DataType") -> str:
    if hasattr(dtype, "list_size"):
        return f"list of {dtype.list_size} {_arrow_name(dtype.value_type)}"
    if str(dtype).startswith(("list<", "large_list<")):
        return f"list of {_arrow_name(dtype.value_type)}"
    return _ARROW_NAMES.get(str(dtype), str(dtype))


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
