"""Tables in order of their keys -> one Arrow file, no byte of which is believed before it was compared.

Every program that reads Arrow's IPC files reads it. Behind the last batch, where none of them looks, lies a line of JSON, the
index: of each batch where it ends, its CRC-32 and its first key. What comes after the batches is compared with a sha256 when
the file is opened; a batch (all of its bytes, and the file's header before those of the first) is compared with its CRC when it
is taken. The file is never written to again: to cut one that is mapped ends its readers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import date
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pyarrow as pa
from typing_extensions import override

from batch_assets.arrow import regrouped
from batch_assets.errors import ReleaseBroken

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BATCH_ROWS = 1 << 18
"""Rows of a batch: so few that whoever takes one, and compares all of it, waits for milliseconds."""

_MAGIC, _END_OF_STREAM = 8, 8
"""Bytes that Arrow writes before the first message of a file, and between the last batch and the footer."""

_EPOCH = date(1970, 1, 1).toordinal()


def sortable(key: Any) -> Any:
    """A key as a file has it, in whose order it is sorted: a whole number, days since 1970 of a day, bytes of text."""
    if isinstance(key, str):
        return key.encode()
    return key.toordinal() - _EPOCH if isinstance(key, date) else key


def write_arrow(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> dict[str, str]:
    """Write tables, whose first column is the key, to a new file; returns what it is compared with when it is opened."""
    ends, sums, firsts = list[int](), list[int](), list[int | str]()
    with _Summed(FileIO(path, "x")) as file, pa.ipc.new_file(file, schema) as writer:
        for table in regrouped(tables, schema, BATCH_ROWS):
            batch = pa.RecordBatch.from_arrays([_whole(column) for column in table.columns], schema=schema)
            writer.write_batch(batch)
            ends.append(file.tell())
            sums.append(file.sum())
            for first in map(sortable, batch.column(0)[:1].to_pylist()):
                firsts.append(first.hex() if isinstance(first, bytes) else first)
    line = json.dumps({"ends": ends, "crc32": sums, "firsts": firsts}).encode() + b"\n"
    with path.open("r+b") as written:
        written.seek(ends[-1] + _END_OF_STREAM)
        footer = written.read()
        written.seek(ends[-1] + _END_OF_STREAM)
        written.write(line + b" " * (-len(line) % 8) + footer)
        written.seek(ends[-1])
        sha256 = hashlib.sha256(written.read()).hexdigest()
    return {"batches": str(ends[-1]), "sha256": sha256}


class ArrowFile:
    """A file, mapped.

    `firsts` are the first keys of its batches, as `sortable` has them (none of a batch without rows), `schema` is that of the
    batches as they are handed out: of values that have names with their places, as the names lie in the header, for others.
    """

    def __init__(self, path: Path, schema: pa.Schema, said: Mapping[str, str]) -> None:
        """Map a file and read its index.

        Args:
            path: where it lies.
            schema: of its batches.
            said: what `write_arrow` returned.

        Raises:
            OSError: it cannot be read.
            ReleaseBroken: what comes after its batches is not what was written.
        """
        self.memory: pa.Buffer = pa.memory_map(str(path)).read_buffer()
        behind = memoryview(self.memory)[int(said["batches"]) :]
        if hashlib.sha256(behind).hexdigest() != said["sha256"]:
            raise ReleaseBroken(f"The index of {path} was changed since it was built: publish the partition again.")
        index = json.loads(behind[_END_OF_STREAM:].tobytes().partition(b"\n")[0])
        self._path, self._ends, self._sums = path, index["ends"], index["crc32"]
        self.firsts = [bytes.fromhex(one) if isinstance(one, str) else one for one in index["firsts"]]
        self.schema = pa.schema([one.with_type(_kept(one.type)) for one in schema])

    def __len__(self) -> int:
        return len(self._ends)

    def batch(self, number: int) -> pa.RecordBatch:
        """One batch, over the mapped memory. Raises ReleaseBroken."""
        start = self._ends[number - 1] if number else 0
        written = self.memory.slice(start, self._ends[number] - start)
        if crc32(written) != self._sums[number]:
            place = f"Batch {number + 1} of {len(self)} of {self._path}"
            raise ReleaseBroken(f"{place} was changed since it was built: publish the partition again.")
        messages = pa.BufferReader(written)
        messages.seek(0 if number else _MAGIC)
        message = pa.ipc.read_message(messages)
        while message.type != "record batch":  # schema and names come before the first one
            message = pa.ipc.read_message(messages)
        return pa.ipc.read_record_batch(message, self.schema)


class _Summed(BufferedWriter):
    """A file, and the CRC-32 of what was written to it since that was asked last."""

    _crc = 0

    @override
    def write(self, data: "ReadableBuffer", /) -> int:
        self._crc = crc32(data, self._crc)
        return super().write(data)

    def sum(self) -> int:
        found, self._crc = self._crc, 0
        return found


def _kept(kind: pa.DataType) -> pa.DataType:
    return kind.index_type if pa.types.is_dictionary(kind) else kind


def _whole(column: pa.ChunkedArray) -> pa.Array:
    column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
