"""A field of a record as Cassandra keeps it: its type in CQL, and its bytes, which are those of its numbers, turned round."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_numpy, as_text
from batch_assets.errors import ReleaseBroken
from batch_assets.records import RecordField

CQL = {"f4": "float", "f8": "double", "i1": "tinyint", "i2": "smallint", "i4": "int", "i8": "bigint"}


def as_int(number: int) -> bytes:
    """A number as CQL's int."""
    return number.to_bytes(4, "big")


def cql_of(field: RecordField) -> str:
    """The type of a field."""
    kind = "text" if field.names else CQL[field.dtype]
    return f"frozen<list<{kind}>>" if field.length else kind


def size_of(field: RecordField) -> int:
    """How many bytes a field has; of one that is kept as text none is certain."""
    width = int(field.dtype[1])
    return 0 if field.names else 4 + field.length * (4 + width) if field.length else width


def layout_of(field: RecordField) -> np.dtype[Any]:
    """The layout of a number, or of a list of them."""
    bits = np.dtype(f">u{field.dtype[1]}")
    each = np.dtype([("size", ">i4"), ("bits", bits)])
    return np.dtype([("count", ">i4"), ("each", each, (field.length,))]) if field.length else bits


def as_bits(field: RecordField, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of numbers, or of as many lists, in its layout."""
    bits = column.view(f"<u{field.dtype[1]}")
    if not field.length:
        return bits
    found = np.empty(len(column), layout_of(field))
    found["count"], found["each"]["size"], found["each"]["bits"] = field.length, bits.itemsize, bits
    return found


def as_column(field: RecordField, parts: Any) -> npt.NDArray[Any]:
    """A column of records from its numbers in their layout, or its labels. Raises ReleaseBroken if the field has no such."""
    import pyarrow.compute as pc

    if field.names:
        places = pc.index_in(parts, as_text(field.names).cast(pa.binary()))
        if places.null_count:
            raise foreign()
        found: npt.NDArray[Any] = as_numpy(places).astype(np.int8)
        return found
    if field.length:
        each = parts["each"]
        if (parts["count"] != field.length).any() or (each["size"] != each["bits"].dtype.itemsize).any():
            raise foreign()
        parts = each["bits"]
    return np.ascontiguousarray(parts, f"<u{field.dtype[1]}").view(f"<{field.dtype}")


def as_packed(field: RecordField, part: bytes) -> bytes:
    """A field of one record as it is packed. Raises ReleaseBroken if it is none."""
    if field.names:
        try:
            return bytes([field.names.index(part.decode())])
        except ValueError:
            raise foreign() from None
    if not field.length:
        return part[::-1]
    return as_column(field, np.frombuffer(part, layout_of(field))).tobytes()


def foreign() -> ReleaseBroken:
    """What is raised where a bucket has something else in it."""
    return ReleaseBroken("A bucket does not hold what a release does: somebody else wrote it, so publish the partition again.")
