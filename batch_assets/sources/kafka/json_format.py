"""JSON objects, one a message -> rows with the columns that were named, each of exactly the type that was said.

Objects of a batch are parsed as one text. What begins with `{` and ends with `}` gives one row or more wherever it stands in a
text that can be parsed, as an object that is open there would need a comma first; so as many rows as messages are one each.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from batch_assets.errors import Undecodable

if TYPE_CHECKING:
    import pyarrow as pa

_SPACE = b" \t\r\n"
_NO_OBJECT = "it is no JSON object"


class JsonFormat:
    """Decodes JSON.

    Args:
        schema: the columns; a member that an object does not have is null, one that is not named is left out.
    """

    def __init__(self, schema: "pa.Schema") -> None:
        import pyarrow as pa

        self.schema = schema
        parsed = {pa.date32(): pa.string()}  # Arrow takes JSON's dates for numbers of days
        self._parsed = pa.schema([(one.name, parsed.get(one.type, one.type)) for one in schema])
        wide = {pa.float32(): pa.float64()}
        self._wide = pa.schema([(one.name, wide.get(one.type, one.type)) for one in self._parsed])
        self._narrow = [one.name for one in schema if one.type == pa.float32()]

    def columns(self, values: Sequence[bytes]) -> "list[pa.Array]":
        """The columns of a row for each message. Raises Undecodable."""
        import pyarrow as pa

        text = _joined(values)
        try:
            rows = self._rows(text, self._parsed, len(values))
            self._require_finite(text, rows)
            columns = [column.cast(one.type) for column, one in zip(rows.columns, self.schema, strict=True)]
            for column in columns:
                column.validate(full=True)  # text that is no UTF-8
        except pa.ArrowInvalid as error:
            raise Undecodable(str(error).splitlines()[0]) from error
        return columns

    @staticmethod
    def _rows(text: bytes, schema: "pa.Schema", count: int) -> "pa.RecordBatch":
        import pyarrow as pa
        from pyarrow import json

        table = json.read_json(
            pa.py_buffer(text),
            read_options=json.ReadOptions(block_size=len(text) + 1, use_threads=False),
            parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        if table.num_rows != count:
            raise Undecodable(_NO_OBJECT)
        return table.combine_chunks().to_batches()[0]

    def _require_finite(self, text: bytes, rows: "pa.RecordBatch") -> None:
        """Raise Undecodable if a number became infinite, as it is too big for a float32."""
        import pyarrow.compute as pc

        suspects = [name for name in self._narrow if pc.any(pc.is_inf(rows[name])).as_py()]
        wide = self._rows(text, self._wide, rows.num_rows) if suspects else rows
        for name in suspects:
            if pc.any(pc.and_(pc.is_inf(rows[name]), pc.is_finite(wide[name]))).as_py():
                raise Undecodable(f"a number in {name} is too big for float32")


def _joined(values: Sequence[bytes]) -> bytes:
    """The text of all objects. Raises Undecodable if one of them cannot be one."""
    text = b"\n".join(values)
    if _begin_and_end(text, values):
        return text
    stripped = [value.strip(_SPACE) for value in values]
    text = b"\n".join(stripped)
    if _begin_and_end(text, stripped):
        return text
    raise Undecodable(_NO_OBJECT)


def _begin_and_end(text: bytes, objects: Sequence[bytes]) -> bool:
    """Whether each one begins with { and ends with }."""
    lengths = np.fromiter(map(len, objects), np.int64, len(objects))
    after = np.cumsum(lengths + 1) - 1
    signs = np.frombuffer(text, np.uint8)
    return bool(lengths.all() and (signs[after - lengths] == ord("{")).all() and (signs[after - 1] == ord("}")).all())
