"""The columns of a release's table: keys and fields -> their types in PostgreSQL, and how its messages have their values.

A number is big-endian there, a list has a head of five numbers, and before each item of a list is its length in bytes.
"""

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np

from batch_assets.features.keys import Key
from batch_assets.records import RecordField

SIZE = ">i4"
"""How a message has the length of a value."""

EPOCH = date(2000, 1, 1)
"""From when PostgreSQL counts days."""

_KEYS = {"int32": ("int4", "int8"), "int64": ("int8", "int8"), "string": ("text", "text"), "date": ("date", "date")}
_FIELDS = {"f4": "float4", "f8": "float8", "i1": "int2", "i2": "int2", "i4": "int4", "i8": "int8"}
_WIRE = {"float4": ">u4", "float8": ">u8", "int2": ">i2", "int4": ">i4", "int8": ">i8", "date": ">i4"}
"""Floating-point numbers are handled as their bits, so that no NaN becomes another."""

_OIDS = {"float4": 700, "float8": 701, "int2": 21, "int4": 23, "int8": 20}


@dataclass(frozen=True)
class Column:
    """A column of numbers, days or texts, or of lists of `length` numbers.

    `asked` is the type in which a key is asked for; `names` are those of the values 0, 1, …, if they have some.
    """

    name: str
    item: str
    length: int | None = None
    asked: str = ""
    names: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        """Its type; texts are in the order of their bytes."""
        if self.is_text:
            return 'text COLLATE "C"'
        return self.item if self.length is None else f"{self.item}[]"

    @property
    def is_text(self) -> bool:
        """Whether its values are of any length."""
        return self.item == "text"

    @cached_property
    def number(self) -> np.dtype[Any]:
        """One of its numbers in a message."""
        return np.dtype(_WIRE[self.item])

    @cached_property
    def value(self) -> np.dtype[Any]:
        """One value in a message, without the length before it; of a list with its head."""
        if self.length is None:
            return self.number
        head = [(name, SIZE) for name in ("dimensions", "nulls", "oid", "count", "first")]
        return np.dtype([*head, ("items", [("size", SIZE), ("item", self.number)], (self.length,))])

    @property
    def framed(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """A value of zeros with its length before it, shape (1,): complete but for the numbers."""
        found = np.zeros(1, [("size", SIZE), ("value", self.value)])
        found["size"] = self.value.itemsize
        if self.length is not None:
            value = found["value"]
            value["dimensions"], value["oid"], value["count"], value["first"] = 1, _OIDS[self.item], self.length, 1
            value["items"]["size"] = self.number.itemsize
        return found

    def raw(self, value: Any) -> bytes | None:
        """A key's value as a message has it; None if the column cannot hold it."""
        try:
            if isinstance(value, str):
                text = value.encode()
                return None if b"\0" in text else text
            number = (value - EPOCH).days if isinstance(value, date) else value
            found: bytes = number.to_bytes(self.number.itemsize, "big", signed=True)
        except (OverflowError, UnicodeEncodeError):
            return None
        return found


def key_column(key: Key) -> Column:
    """The column of a key."""
    item, asked = _KEYS[key.dtype]
    return Column(key.name, item, asked=asked)


def field_column(field: RecordField) -> Column:
    """The column of a field of the records; of one with names their places."""
    return Column(field.name, _FIELDS[field.dtype], field.length, names=field.names)


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
