"""Avro records, one a message -> rows with the columns of the schema that a file gives."""

import json
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_assets.errors import SourceError, Undecodable
from batch_assets.ports import extra

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER = struct.Struct(">bI")
"""What Confluent's serializers put before a record: a zero, and the number that its schema has in their registry."""

_BROKEN = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error)
"""What fastavro raises of bytes that are no record."""


class AvroFormat:
    """Decodes Avro's binary encoding.

    Args:
        path: of the file with the schema, a record, as JSON. Fields of a simple type are columns, arrays of one, and unions of
            that and null; those of other types are `left_out`.
        schema_id: the number of that schema in Confluent's header, which each message then has; None: there is no header.

    Raises:
        SourceError: there is no such file, or no such schema in it.
    """

    def __init__(self, path: str, schema_id: int | None) -> None:
        import pyarrow as pa

        fastavro = extra("fastavro", "kafka", "The format avro")
        self._read: Callable[..., Any] = fastavro.schemaless_reader
        self._id = schema_id
        try:
            self.text = Path(path).read_text(encoding="utf-8")
            self._avro = fastavro.parse_schema(json.loads(self.text))
        except (OSError, ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException) as error:
            raise SourceError(f"The Avro schema {path} cannot be read: {error!r}.") from error
        if not isinstance(self._avro, dict) or self._avro.get("type") != "record":
            raise SourceError(f"The Avro schema {path} is none of a record, so it has no columns; give one of a record.")
        fields = {one["name"]: _arrow_type(one["type"]) for one in self._avro["fields"]}
        self.left_out = [name for name, type_ in fields.items() if type_ is None]
        self.schema: pa.Schema = pa.schema([(name, type_) for name, type_ in fields.items() if type_ is not None])

    def columns(self, values: Sequence[bytes]) -> "list[pa.Array]":
        """The columns of a row for each message. Raises Undecodable."""
        import pyarrow as pa

        try:
            records = [self._record(value) for value in values]
            columns = [pa.array([record[one.name] for record in records], one.type) for one in self.schema]
        except (*_BROKEN, pa.ArrowException) as error:
            raise Undecodable(f"it is no record of the schema: {type(error).__name__} {error}".splitlines()[0]) from error
        return columns

    def _record(self, value: bytes) -> dict[str, Any]:
        encoded = BytesIO(value)
        if self._id is not None:
            magic, found = _HEADER.unpack(encoded.read(_HEADER.size))
            if (magic, found) != (0, self._id):
                raise Undecodable(f"its header names the schema {found}, not {self._id}" if magic == 0 else "it has no header")
        record: dict[str, Any] = self._read(encoded, self._avro, None)
        left = len(value) - encoded.tell()
        if left:
            raise Undecodable(f"{left} bytes follow the record")
        return record


def _arrow_type(avro: Any) -> "pa.DataType | None":
    """The Arrow type of what fastavro gives of an Avro type; None if a column cannot be made of it."""
    import pyarrow as pa

    if isinstance(avro, list):
        other = [one for one in avro if one != "null"]
        return _arrow_type(other[0]) if len(other) == 1 else None
    if isinstance(avro, str):
        avro = {"type": avro}
    type_, logical = avro["type"], avro.get("logicalType")
    if type_ in ("bytes", "fixed") and logical == "decimal":
        return pa.decimal128(avro["precision"], avro.get("scale", 0)) if avro["precision"] <= 38 else None
    if type_ == "array":
        return _list_of(_arrow_type(avro["items"]))
    kinds = {
        ("int", "date"): pa.date32(),
        ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
        ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
        ("long", "local-timestamp-millis"): pa.timestamp("ms"),
        ("long", "local-timestamp-micros"): pa.timestamp("us"),
        ("boolean", None): pa.bool_(),
        ("int", None): pa.int32(),
        ("long", None): pa.int64(),
        ("float", None): pa.float32(),
        ("double", None): pa.float64(),
        ("string", None): pa.string(),
        ("enum", None): pa.string(),
        ("bytes", None): pa.binary(),
    }
    return kinds.get((type_, logical))


def _list_of(items: "pa.DataType | None") -> "pa.DataType | None":
    import pyarrow as pa

    return None if items is None else pa.list_(items)
