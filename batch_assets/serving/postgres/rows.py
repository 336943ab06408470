"""Rows in PostgreSQL's messages: a batch -> what a binary COPY takes, and back from what queries give.

Numpy and Arrow make and read them, many at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_arrow, as_numpy
from batch_assets.errors import ReleaseBroken
from batch_assets.features.keys import Key, columns_of, identity, values_of
from batch_assets.records import RecordField, Records
from batch_assets.serving.postgres.columns import EPOCH, SIZE, Column, field_column, key_column, quoted
from batch_assets.serving.store import Batch, Release

_DAYS = (EPOCH - date(1970, 1, 1)).days
"""Between the first day of PostgreSQL and that of Arrow."""


class Rows:
    """The rows of a release: its keys' columns, then those of its records."""

    def __init__(self, release: Release) -> None:
        self._release, self._kind = release, release.record
        self.keys = [key_column(key) for key in release.key]
        self.fields = [field_column(field) for field in release.record.fields]
        self._pieces = _pieces([*self.keys, *self.fields])
        self._record = np.dtype([(column.name, column.value) for column in self.fields])

    def copied(self, batch: Batch) -> memoryview:
        """Rows as a binary COPY takes them, without its head and its end. Raises ReleaseBroken if a text has a NUL."""
        keys, records = batch
        columns = [keys] if len(self.keys) == 1 else columns_of(keys, [key.arrow for key in self._release.key])
        values = [*map(self._sent, columns), *(records[column.name] for column in self.fields)]
        parts = list[Any]()
        for piece in self._pieces:
            rows = np.frombuffer(bytearray(piece.template.tobytes() * len(keys)), piece.template.dtype)
            for place, column in piece.numbers:
                sent = rows[str(place)]["value"]
                target = sent if column.length is None else sent["items"]["item"]
                target[...] = _bits(values[place]) if column.item.startswith("float") else values[place]
            if piece.text is not None:
                rows["size"] = _lengths(values[piece.text])
            parts += [rows] if piece.text is None else [rows, values[piece.text]]
        return memoryview(parts[0]).cast("B") if len(parts) == 1 else _joined(parts)

    @property
    def scanned(self) -> str:
        """What a query selects of many rows, so that `scan` can read them: arrays; of texts all bytes, and their lengths."""
        return ", ".join(
            f"string_agg({quoted(one.name)}, ''), array_agg(octet_length({quoted(one.name)}))"
            if one.is_text
            else f"array_agg({quoted(one.name)})"
            for one in (*self.keys, *self.fields)
        )

    def scan(self, values: Iterator[bytes]) -> Batch:
        """Many rows, from what such a query gave. Raises ValueError if it is nothing that `copied` could have made."""
        columns = [self._received(key, values) for key in self._release.key]
        keys = columns[0]
        if len(columns) > 1:
            names = [str(place) for place in range(len(columns))]
            keys = identity(pa.table(columns, names=names), names)
        found = {}
        for field, column in zip(self._kind.fields, self.fields, strict=True):
            items = _items(next(values), column)
            found[field.name] = _native(items if column.length is None else items.reshape(-1, column.length), field)
        return keys, Records(self._kind, found)

    def records(self, values: Iterable[bytes]) -> npt.NDArray[np.void]:
        """Packed records, shape (rows,), from the values of their columns, row after row."""
        rows, found = np.frombuffer(b"".join(values), self._record), {}
        for field in self._kind.fields:
            items = rows[field.name] if field.length is None else rows[field.name]["items"]["item"]
            found[field.name] = _native(items, field)
        return Records(self._kind, found).packed()

    def asked(self, key: Any) -> tuple[tuple[Any, ...], bytes] | None:
        """A key as the values of its columns, and as messages have these, joined; None if nobody can have it."""
        values = (key,) if len(self.keys) == 1 else values_of(key, [one.arrow for one in self._release.key])
        raw = [column.raw(value) for column, value in zip(self.keys, values, strict=True)] if values else [None]
        return (values, b"\0".join(one for one in raw if one is not None)) if values and None not in raw else None

    def _sent(self, column: pa.Array) -> Any:
        """A column of a key as its messages have it: numbers, or texts as bytes."""
        if pa.types.is_date32(column.type):
            return as_numpy(column.cast(pa.int32())) - _DAYS
        if not pa.types.is_string(column.type):
            return as_numpy(column)
        import pyarrow.compute as pc

        texts = column.cast(pa.binary())
        if pc.any(pc.match_substring(texts, b"\0"), min_count=0).as_py():
            raise ReleaseBroken(
                f"The release {self._release.name} cannot be built: a key has the character NUL, and no text of PostgreSQL can."
            )
        return texts

    def _received(self, key: Key, values: Iterator[bytes]) -> pa.Array:
        """A column of a key."""
        column, data = key_column(key), next(values)
        if column.is_text:
            lengths = _items(next(values), Column("", "int4"))
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))
        numbers = _items(data, column)
        if key.dtype == "date":
            return as_arrow(numbers.astype(np.int32) + np.int32(_DAYS)).cast(pa.date32())
        return as_arrow(numbers.astype(numbers.dtype.newbyteorder("=")))


@dataclass(frozen=True)
class _Piece:
    """Values of fixed width beside each other, complete but for the numbers, and the text behind them, by its place."""

    template: npt.NDArray[np.void]
    numbers: Sequence[tuple[int, Column]]
    text: int | None


def _pieces(columns: Sequence[Column]) -> list[_Piece]:
    """A row, cut behind each of its texts; it begins with the number of its values."""
    found, template, numbers = list[_Piece](), [("columns", np.array([len(columns)], ">i2"))], list[tuple[int, Column]]()
    for place, column in enumerate(columns):
        if column.is_text:
            found.append(_Piece(_beside([*template, ("size", np.zeros(1, SIZE))]), numbers, place))
            template, numbers = [], []
        else:
            template.append((str(place), column.framed))
            numbers.append((place, column))
    return [*found, _Piece(_beside(template), numbers, None)] if template else found


def _beside(parts: Sequence[tuple[str, npt.NDArray[Any]]]) -> npt.NDArray[np.void]:
    """Named values side by side in memory, shape (1,)."""
    found = np.zeros(1, [(name, part.dtype) for name, part in parts])
    for name, part in parts:
        found[name] = part
    return found


def _joined(parts: Iterable[Any]) -> memoryview:
    """Rows whose pieces are of any length, each piece of shape (rows,)."""
    import pyarrow.compute as pc

    pieces = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(one.itemsize), len(one), [None, pa.py_buffer(one)]).cast(pa.binary())
        if isinstance(one, np.ndarray)
        else one
        for one in parts
    ]
    rows = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.binary()))
    return memoryview(rows.buffers()[2] or b"")[: int(_offsets(rows)[-1])]


def _offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    return np.frombuffer(texts.buffers()[1] or bytes(4), np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _lengths(texts: pa.Array) -> npt.NDArray[np.int32]:
    return np.diff(_offsets(texts))


def _items(data: bytes, column: Column) -> npt.NDArray[Any]:
    """The numbers of an array of values, or of an array of lists, one after the other; shape (items,)."""
    dimensions = 1 if column.length is None else 2
    return np.frombuffer(data, [("size", SIZE), ("item", column.number)], offset=12 + 8 * dimensions)["item"]


def _native(items: npt.NDArray[Any], field: RecordField) -> npt.NDArray[Any]:
    """Numbers of a message as those of a field, bit for bit."""
    if field.dtype.startswith("f"):
        return items.astype(f"<u{field.dtype[1]}").view(f"<{field.dtype}")
    return items.astype(f"<{field.dtype}")


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
