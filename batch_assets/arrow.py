"""Between numpy and Arrow, over the same memory.

`pa.array`, `pa.scalar` and `to_numpy` import pandas to see whether they were given, or should give, something of it. Neither
a worker that starts nor a look-up has time for that.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def as_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Numbers or booleans of shape (rows,) as an Arrow array without nulls; numbers are not copied."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def as_text(values: Sequence[str]) -> pa.StringArray:
    """Texts as an Arrow array."""
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def as_column(value: int | str | date, kind: pa.DataType) -> pa.Array:
    """One whole number, day or text, shape (1,). Raises OverflowError if the number does not fit into its type."""
    if isinstance(value, str):
        return as_text([value])
    number = (value - date(1970, 1, 1)).days if isinstance(value, date) else value
    signed = not pa.types.is_unsigned_integer(kind)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(number.to_bytes(kind.bit_width // 8, "little", signed=signed))])


def as_numpy(array: "pa.Array | pa.ChunkedArray") -> npt.NDArray[Any]:
    """A column of numbers or booleans as an array of shape (rows,); what stands where it is null is not defined."""
    if isinstance(array, pa.ChunkedArray):
        pieces = [as_numpy(piece) for piece in array.chunks]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, dtype=_numpy_type(array.type)), *pieces])
    buffer = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        packed = np.frombuffer(buffer, dtype=np.uint8) if buffer else np.empty(0, dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little")[array.offset : array.offset + len(array)].astype(bool)
    values = np.frombuffer(buffer, dtype=_numpy_type(array.type)) if buffer else np.empty(0, dtype=_numpy_type(array.type))
    return values[array.offset : array.offset + len(array)]


def regrouped(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` each but for the last; one empty table if there is none."""
    pending, yielded = schema.empty_table(), False
    for table in tables:
        pending = pa.concat_tables([pending, table])
        while len(pending) >= rows:
            yield pending.slice(0, rows)
            yielded, pending = True, pending.slice(rows)
    if len(pending) or not yielded:
        yield pending


def _numpy_type(dtype: pa.DataType) -> Any:
    """The numpy type of an Arrow type; `to_pandas_dtype` does not import pandas for numbers."""
    return np.dtype(bool) if pa.types.is_boolean(dtype) else np.dtype(dtype.to_pandas_dtype())


def differ(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """Where two columns of numbers, text or lists of them differ, shape (rows,); a missing value is like a missing one."""
    import pyarrow.compute as pc

    if pa.types.is_list(one.type) or pa.types.is_large_list(one.type) or pa.types.is_fixed_size_list(one.type):
        lengths = [_numpy(pc.list_value_length(lists).fill_null(-1)) for lists in (one, other)]
        found: npt.NDArray[np.bool_] = lengths[0] != lengths[1]
        filled = np.flatnonzero(~found & (lengths[0] > 0))
        if len(filled):
            inner = differ(*(lists.take(pa.array(filled)).flatten() for lists in (one, other)))
            starts = np.concatenate([[0], np.cumsum(lengths[0][filled])[:-1]])
            found[filled] = np.logical_or.reduceat(inner, starts)
        return found
    missing = [column.is_null(nan_is_null=True) for column in (one, other)]
    return ~_numpy(pc.or_(pc.equal(one, other).fill_null(False), pc.and_(*missing)))


def _numpy(array: pa.Array) -> npt.NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))
