"""Messages -> rows. A batch is decoded at once; of one that cannot be, each half is, until the messages to blame are found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batch_assets.errors import Undecodable

if TYPE_CHECKING:
    import pyarrow as pa


class Format(Protocol):
    """How the values of messages are written."""

    @property
    def schema(self) -> "pa.Schema":
        """The columns that they give."""

    def columns(self, values: Sequence[bytes]) -> "list[pa.Array]":
        """A row for each message, of which there is one or more, column by column. Raises Undecodable."""


@dataclass
class Decoded:
    """Rows of messages that could be decoded, in their order, and why the others could not, by their places."""

    rows: "list[pa.RecordBatch]" = field(default_factory=list)
    undecodable: dict[int, str] = field(default_factory=dict)


class Decoder:
    """Makes rows of messages.

    Args:
        values: what their values are written in.
        key: name and type of one column more, the first one, which the messages' keys say as text; None: they say nothing.
    """

    def __init__(self, values: Format, key: "pa.Field | None") -> None:
        import pyarrow as pa

        self.schema: pa.Schema = pa.schema([*([] if key is None else [key]), *values.schema])
        self._values, self._key = values, key

    def decoded(self, values: Sequence[bytes], keys: Sequence[bytes | None]) -> Decoded:
        """Decode what can be decoded."""
        import pyarrow as pa

        found = Decoded()
        parts = [(0, len(values))] if values else []
        while parts:
            start, end = parts.pop()
            try:
                columns = self._columns(values[start:end], keys[start:end])
                found.rows.append(pa.RecordBatch.from_arrays(columns, schema=self.schema))
            except Undecodable as reason:
                middle = (start + end) // 2
                if middle == start:
                    found.undecodable[start] = str(reason)
                else:
                    parts += [(middle, end), (start, middle)]
        return found

    def _columns(self, values: Sequence[bytes], keys: Sequence[bytes | None]) -> "list[pa.Array]":
        import pyarrow as pa

        columns = self._values.columns(values)
        if self._key is None:
            return columns
        try:
            return [pa.array(keys, pa.binary()).cast(pa.string()).cast(self._key.type), *columns]
        except pa.ArrowInvalid as error:
            raise Undecodable(f"its key is no {self._key.type}: {str(error).splitlines()[0]}") from error
