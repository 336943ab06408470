"""What a row is about: a key of one or more columns, and perhaps an item beside it. Each row has another.

Of one column the identity of a row is that column itself. Of several it is one column of bytes whose order and equality are
those of the columns, the first before the second: whole numbers and days as eight bytes, big-endian, the sign bit flipped; text
as its UTF-8 bytes, 00 in it as 00 FF, and 00 01 at its end. So whoever sorts, compares or hashes keys knows one column.
"""

import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.arrow import as_arrow, as_column, as_numpy
from batch_assets.errors import BadKeys

LONGEST_KEY = 511
"""Bytes of a key with text in it. Whoever keeps 2**18 such keys side by side needs offsets of no more than four bytes."""

KeyType = Literal["int32", "int64", "string", "date"]

KeyValue = int | str | date
"""What stands in one column of a key."""

Parser = Callable[[Sequence[object]], tuple[KeyValue, ...] | None]
"""From a key that somebody wrote to what stands in its columns; None if nobody has such a key."""

_DAY, _NUMBER = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), re.compile(r"-?[0-9]{1,19}")
_LIMIT = 1 << 63

_SIGN = np.uint64(1 << 63)
_NUL, _END = b"\0\xff", b"\0\x01"
"""A 00 within a text of an identity, and what follows the text."""


class Key(BaseModel):
    """One column of what a row is about; never null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Column name in the snapshot.", min_length=1)
    dtype: KeyType = Field(description="Type in the snapshot's Parquet files.")

    @property
    def arrow(self) -> pa.DataType:
        """Its Arrow type."""
        return {"int32": pa.int32(), "int64": pa.int64(), "string": pa.string(), "date": pa.date32()}[self.dtype]


Said = int | str | date | Sequence[object]
"""A key as somebody says it: one value, or one for each column."""


def parts(said: Said) -> tuple[object, ...]:
    """What was said of a key, one value for each column."""
    return tuple(said) if isinstance(said, Sequence) and not isinstance(said, str) else (said,)


def parsed(said: Sequence[object], types: Sequence[pa.DataType]) -> tuple[KeyValue, ...] | None:
    """A key that somebody wrote, as what stands in columns of these types; None if nobody has such a key."""
    return parser(types)(said)


def parser(types: Sequence[pa.DataType]) -> Parser:
    """What parses keys whose columns have these types, as `parsed` does: for whoever has many of them."""
    each: list[Callable[[str], KeyValue | None]] = [
        str if pa.types.is_string(kind) else _day if pa.types.is_date32(kind) else _number for kind in types
    ]

    def parse_one(said: Sequence[object]) -> tuple[KeyValue, ...] | None:
        value = first(str(said[0])) if len(said) == 1 else None
        return None if value is None else (value,)

    def parse(said: Sequence[object]) -> tuple[KeyValue, ...] | None:
        if len(said) != len(each):
            return None
        values = [one(str(text)) for one, text in zip(each, said, strict=True)]
        return None if None in values else tuple(values)  # type: ignore[arg-type] # there is no None in it

    first = each[0]
    return parse_one if len(each) == 1 else parse


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None


def _number(text: str) -> int | None:
    return number if _NUMBER.fullmatch(text) and -_LIMIT <= (number := int(text)) < _LIMIT else None


def identity(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """The identity of each row, from its columns; shape (rows,)."""
    columns = [_whole(table.column(name)) for name in names]
    if len(columns) == 1:
        return columns[0]
    import pyarrow.compute as pc

    parts = [_as_bytes(column) for column in columns]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))


def as_bytes(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """The identity of each row as bytes, of one column too, and what its columns are: 42 is another key than "42"."""
    import pyarrow.compute as pc

    columns = [_whole(table.column(name)) for name in names]
    kinds = "".join("i" if pa.types.is_integer(one.type) else "d" if pa.types.is_date32(one.type) else "s" for one in columns)
    parts = [pa.scalar(f"{kinds}:".encode(), pa.binary()), *(_as_bytes(column) for column in columns)]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))


def identity_of(values: Sequence[KeyValue], types: Sequence[pa.DataType]) -> pa.Array | None:
    """The identity of one row, shape (1,), from the values of its columns; None if they do not fit into their types."""
    names = [str(number) for number in range(len(types))]
    try:
        columns = [as_column(value, kind) for value, kind in zip(values, types, strict=True)]
    except OverflowError:
        return None
    return identity(pa.table(columns, names=names), names)


def columns_of(identities: pa.Array, types: Sequence[pa.DataType]) -> list[pa.Array]:
    """The columns of a key of several, each of shape (rows,), from what `identity` made of them."""
    _, offset_buffer, byte_buffer = identities.buffers()
    data = np.frombuffer(byte_buffer or b"", dtype=np.uint8)
    offsets = np.frombuffer(offset_buffer or bytes(4), dtype=np.int32)[identities.offset : identities.offset + len(identities)]
    starts = offsets.astype(np.int64)
    ends = np.flatnonzero((data[:-1] == _END[0]) & (data[1:] == _END[1]))
    found = []
    for kind in types:
        if pa.types.is_string(kind):  # a 00 of the text itself is followed by FF, so the next 00 01 is its end
            stops = ends[np.searchsorted(ends, starts)] if len(starts) else starts
            found.append(_texts(data, starts, stops))
            starts = stops + len(_END)
        else:
            words = data[starts[:, np.newaxis] + np.arange(8)].view(">u8")[:, 0].astype(np.uint64) ^ _SIGN
            numbers = as_arrow(words.view(np.int64)).cast(pa.int32() if kind.bit_width == 32 else pa.int64())
            found.append(numbers.cast(kind))
            starts = starts + 8
    return found


def values_of(identity: bytes, types: Sequence[pa.DataType]) -> tuple[KeyValue, ...] | None:
    """The values of one identity's columns; None if no key has such an identity."""
    values, rest = list[KeyValue](), identity
    try:
        for kind in types:
            if pa.types.is_string(kind):
                text, end, rest = rest.partition(_END)
                values.append(text.replace(_NUL, b"\0").decode())
                if not end:
                    return None
            else:
                number, rest = int.from_bytes(rest[:8], "big") - (1 << 63), rest[8:]
                values.append(date(1970, 1, 1) + timedelta(number) if pa.types.is_date32(kind) else number)
    except (UnicodeDecodeError, OverflowError):
        return None
    made = identity_of(values, types)
    return tuple(values) if made is not None and made[0].as_py() == identity else None


def in_order(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Rows in ascending order of their key."""
    return table.sort_by([(name, "ascending") for name in names])


def in_words(values: Sequence[object]) -> str:
    """A key for people: 42, or (42, de)."""
    return str(values[0]) if len(values) == 1 else f"({', '.join(map(str, values))})"


def plain(values: Sequence[object]) -> object:
    """A key for JSON: its value or, of several columns, a list of them; days as text."""
    found = [str(one) if isinstance(one, date) else one for one in values]
    return found[0] if len(found) == 1 else found


def require_ascending(table: pa.Table, names: Sequence[str], previous: "pa.Scalar | None") -> pa.Array:
    """The identities of rows that come after one with the identity `previous`. Raises BadKeys unless they ascend."""
    import pyarrow.compute as pc

    for name in names:
        _require_type(_whole(table.column(name)), name, table, names)
    found, spoken = identity(table, names), names[0] if len(names) == 1 else f"({', '.join(names)})"
    if not (pa.types.is_integer(found.type) or pa.types.is_date32(found.type)) and len(found):
        lengths = pc.min_max(pc.binary_length(found)).as_py()
        if not 1 <= lengths["min"] <= lengths["max"] <= LONGEST_KEY:
            raise BadKeys(f"The key {spoken} must have 1 to {LONGEST_KEY} bytes, not {lengths['min']} to {lengths['max']}.")
    joined = found if previous is None else pa.concat_arrays([pa.array([previous.as_py()], found.type), found])
    ascends = pc.greater(joined[1:], joined[:-1])
    if not pc.all(ascends, min_count=0).as_py():
        place = int(ascends.to_numpy(zero_copy_only=False).argmin()) + 1 - (previous is not None)
        later = _row(table, names, place)
        if joined[place + (previous is not None)] != joined[place + (previous is not None) - 1]:
            before = f"{_said(_row(table, names, place - 1))}" if place else "the row before"
            raise BadKeys(f"The key {spoken} is out of order: {_said(later)} follows {before}.")
        raise BadKeys(
            f"The key {spoken} is there twice: {_said(later)}; every key must have exactly one row: group by it, or take the "
            "second row out of the table.",
            later,
        )
    return found


def _require_type(column: pa.Array, name: str, table: pa.Table, names: Sequence[str]) -> None:
    """Raises BadKeys if a column of a key has nulls, or is nothing that a key can be."""
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_date32(kind)):
        raise BadKeys(f"The key {name} is {kind}; a key must be an integer, text or a date.")
    if column.null_count:
        place = int(pc.index(column.is_null(), pa.scalar(True)).as_py())
        raise BadKeys(
            f"The key {name} is null in {column.null_count:,} or more rows; every row must say whom it is about: leave such "
            "rows out, or correct the table.",
            _row(table, names, place),
        )
    if pa.types.is_uint64(kind) and len(column) and (largest := pc.max(column).as_py()) >= 1 << 63:
        place = int(pc.index(column, pa.scalar(largest, kind)).as_py())
        raise BadKeys(
            f"The key {name} is {largest}, and integer keys end at 2^63 - 1; cast it to text (::VARCHAR) in the query.",
            _row(table, names, place),
        )


def _row(table: pa.Table, names: Sequence[str], place: int) -> tuple[object, ...]:
    return tuple(table.column(name)[place].as_py() for name in names)


def _said(values: Sequence[object]) -> str:
    return repr(values[0]) if len(values) == 1 else repr(tuple(values))


def _whole(column: "pa.ChunkedArray") -> pa.Array:
    column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _as_bytes(column: pa.Array) -> pa.Array:
    """A column as bytes that order and end as it does."""
    if pa.types.is_string(column.type):
        import pyarrow.compute as pc

        escaped = pc.replace_substring(column.cast(pa.binary()), b"\0", _NUL)
        return pc.binary_join_element_wise(escaped, pa.scalar(_END, pa.binary()), pa.scalar(b"", pa.binary()))
    numbers = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column
    words = (as_numpy(numbers.cast(pa.int64())).view(np.uint64) ^ _SIGN).astype(">u8")
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(words), [None, pa.py_buffer(words)]).cast(pa.binary())


def _texts(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> pa.Array:
    """Texts of shape (rows,) that lie, escaped, at some places among bytes."""
    import pyarrow.compute as pc

    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data[places])]
    escaped = pa.Array.from_buffers(pa.binary(), len(lengths), buffers)
    return pc.replace_substring(escaped, _NUL, b"\0").cast(pa.string())
