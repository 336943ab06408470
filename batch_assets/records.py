"""Records: what a model's answer to a row is kept as, fixed-width and by named fields, as one numpy dtype.

Their bytes are what is digested, compared, audited and served. Many of them lie by column; one
that is looked up is packed.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.arrow import as_arrow, as_numpy, as_text
from batch_assets.digest import bits

MOST_NAMES = 127
"""A field whose values have names is kept in one byte."""

Rows = slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]


class RecordField(BaseModel):
    """One field of a record: a number, or `length` of them; `names` are those of its values 0, 1, …, if they have some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    dtype: Literal["f4", "f8", "i1", "i2", "i4", "i8"]
    length: int | None = Field(None, ge=1)
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> "RecordField":
        if self.names and (self.dtype != "i1" or self.length is not None or len(self.names) > MOST_NAMES):
            raise ValueError(f"{self.name} has names, so it must be one byte, with at most {MOST_NAMES} of them")
        return self


class RecordType(BaseModel):
    """The fields of a record in their order, and which of them is the score: what drift, ranks and plots look at.

    `count` is the field, if there is one, that says how many numbers of each field with several are there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: tuple[RecordField, ...] = Field(min_length=1)
    score: str
    count: str | None = Field(None, exclude_if=lambda name: name is None)

    @model_validator(mode="after")
    def _has_a_score(self) -> "RecordType":
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise ValueError(f"fields are named twice: {', '.join(names)}")
        score = next((field for field in self.fields if field.name == self.score), None)
        if score is None or score.length is not None or not score.dtype.startswith("f"):
            raise ValueError(f"the score {self.score} must be a field with one floating-point number")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields' names."""
        return tuple(field.name for field in self.fields)

    @property
    def label(self) -> RecordField | None:
        """The first field whose values have names, which rows are counted by; None if none has."""
        return next((field for field in self.fields if field.names), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the values of the label; nothing if there is none."""
        return self.label.names if self.label else ()

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """One packed record, little-endian, without padding."""
        return np.dtype([(one.name, f"<{one.dtype}", *([(one.length,)] if one.length else [])) for one in self.fields])

    def length_of(self, name: str) -> int:
        """How many numbers a field has."""
        return next(one.length or 1 for one in self.fields if one.name == name)

    def empty(self) -> "Records":
        """No records."""
        return self.unpacked(np.empty(0, dtype=self.dtype))

    def unpacked(self, packed: npt.NDArray[np.void]) -> "Records":
        """Records of shape (rows,), side by side in memory, by column."""
        return Records(self, {name: np.ascontiguousarray(packed[name]) for name in self.names})

    def from_table(self, table: pa.Table) -> "Records":
        """The records in the columns of a table, as `Records.columns` made them."""
        found = {}
        for field in self.fields:
            column = table.column(field.name)
            if field.names:
                found[field.name] = _places(column, field.names)
            elif field.length:
                lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
                found[field.name] = as_numpy(lists.flatten()).reshape(len(lists), field.length)
            else:
                found[field.name] = as_numpy(column)
        return Records(self, found)

    @cached_property
    def _named(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The fields whose values have names, and these."""
        return tuple((one.name, one.names) for one in self.fields if one.names)

    @cached_property
    def _lists(self) -> tuple[str, ...]:
        """The fields with several numbers."""
        return tuple(one.name for one in self.fields if one.length and not one.names)

    def as_mapping(self, record: np.void) -> dict[str, Any]:
        """One packed record in plain values: of a field with names the name."""
        found = dict(zip(self.names, record.item(), strict=True))
        for name, values in self._named:
            found[name] = values[found[name]]
        if self._lists:
            there = found[self.count] if self.count else None
            for name in self._lists:
                found[name] = found[name][:there].tolist()
        return found


class Records:
    """The records of some rows, by column: each of shape (rows,) or, of a field with a length, (rows, length)."""

    def __init__(self, kind: RecordType, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        self.kind = kind
        self.by_name = columns

    def __len__(self) -> int:
        return len(next(iter(self.by_name.values())))

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.by_name[name]

    @property
    def score(self) -> npt.NDArray[np.floating]:
        """The score of each row, NaN where it is not known; shape (rows,)."""
        return self.by_name[self.kind.score]

    def take(self, rows: Rows) -> "Records":
        """The records of some rows."""
        return Records(self.kind, {name: column[rows] for name, column in self.by_name.items()})

    def flat(self) -> list[npt.NDArray[Any]]:
        """Every number of a record as a column of shape (rows,), in the order of its bytes: what is digested."""
        return [part for column in self.by_name.values() for part in ([column] if column.ndim == 1 else column.T)]

    def packed(self) -> npt.NDArray[np.void]:
        """The records side by side in memory, shape (rows,)."""
        packed = np.empty(len(self), dtype=self.kind.dtype)
        for name, column in self.by_name.items():
            packed[name] = column
        return packed

    def same_bits(self, other: "Records") -> npt.NDArray[np.bool_]:
        """Which rows have the same record, bit for bit; shape (rows,)."""
        pairs = zip(self.flat(), other.flat(), strict=True)
        same: npt.NDArray[np.bool_] = np.logical_and.reduce([bits(one) == bits(two) for one, two in pairs])
        return same

    def by_label(self) -> tuple[int, ...]:
        """How many rows have each of the record's labels."""
        label = self.kind.label
        return tuple(np.bincount(self.by_name[label.name], minlength=len(label.names)).tolist()) if label else ()

    def columns(self) -> dict[str, pa.Array]:
        """The records as columns of a table."""
        found: dict[str, pa.Array] = {}
        for field in self.kind.fields:
            column = self.by_name[field.name]
            if field.names:
                found[field.name] = as_dictionary(as_arrow(column), field.names)
            elif field.length:
                found[field.name] = pa.FixedSizeListArray.from_arrays(as_arrow(column.reshape(-1)), field.length)
            else:
                found[field.name] = as_arrow(column)
        return found


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """The places of texts among `names`, which all of them are; of a dictionary only its few values are looked for."""
    import pyarrow.compute as pc

    texts = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        return as_numpy(pc.index_in(texts.cast(pa.string()), as_text(names))).astype(np.int8)
    known: npt.NDArray[np.int8] = as_numpy(pc.index_in(texts.dictionary.cast(pa.string()), as_text(names))).astype(np.int8)
    places: npt.NDArray[np.int8] = known[as_numpy(texts.indices)]
    return places


def as_dictionary(places: pa.Array, names: Sequence[str]) -> pa.DictionaryArray:
    """Texts by their places among `names`."""
    return pa.DictionaryArray.from_arrays(places, as_text(names))
