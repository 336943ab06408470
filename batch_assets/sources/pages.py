"""Whether what is in a file is what DuckDB makes of it: checksums of pages, and time stamps of twelve bytes.

DuckDB does not look at checksums. A page is a header in Thrift's compact protocol and so many bytes; the header may have the
CRC-32 of these bytes (parquet-format, `PageHeader.crc`). Headers are walked through without decoding a value, so that a file
is only read, and one without checksums only touched.
"""

import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import SourceError
from batch_assets.sources.listed import ListedFile

_HEADER_BYTES = (256, 1 << 16)
"""A header is at first taken to be short; what can make it long are its page's smallest and largest value."""


def verify_pages(table: str, file: ListedFile, columns: Collection[str]) -> None:
    """Compare every page of some columns with its checksum, where the column has any.

    Raises:
        SourceError: one differs; names file, column and rows.
    """
    wanted = {name.split(".")[0] for name in columns}
    with open(file.local, "rb") as opened, pq.ParquetFile(file.local) as parquet:
        first_row = 0
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            for place in range(group.num_columns):
                chunk = group.column(place)
                if chunk.path_in_schema.split(".")[0] not in wanted or not chunk.num_values:
                    continue
                start = chunk.data_page_offset
                if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                    start = min(start, chunk.dictionary_page_offset)
                if not _pages_hold(opened, start, start + chunk.total_compressed_size):
                    last_row = first_row + group.num_rows - 1
                    raise SourceError(
                        f"The table {table}: {file.path} is damaged: a page of the column {chunk.path_in_schema}, rows "
                        f"{first_row:,} to {last_row:,}, does not fit its header or its checksum; restore the file."
                    )
            first_row += group.num_rows


def verify_microseconds(table: str, file: ListedFile, column: str) -> None:
    """Look whether time stamps of twelve bytes (INT96) have nothing below a microsecond, which DuckDB would cut off.

    Arrow counts such nanoseconds modulo 2**64, so the rest is right whichever year it is.

    Raises:
        SourceError: one has; names file, column and row.
    """
    first_row = 0
    with (
        pq.ParquetFile(file.local) as exact,
        pq.ParquetFile(file.local, coerce_int96_timestamp_unit="us") as coarse,
    ):
        for number in range(exact.metadata.num_row_groups):
            nanos, micros = (
                opened.read_row_group(number, columns=[column]).column(0).cast(pa.int64()).fill_null(0).to_numpy()
                for opened in (exact, coarse)
            )
            rests = nanos.view(np.uint64) - micros.view(np.uint64) * np.uint64(1_000)
            if rests.any():
                raise SourceError(
                    f"The table {table}: {file.path} has a time stamp with {rests[rests > 0][0]} ns below a microsecond in the "
                    f"column {column}, row {first_row + int(rests.argmax()):,}, which DuckDB would cut off; write the column "
                    "as TIMESTAMP(NANOS)."
                )
            first_row += len(nanos)


@dataclass(frozen=True)
class _Header:
    length: int
    page_bytes: int
    crc: int | None


def _pages_hold(file: BinaryIO, start: int, end: int) -> bool:
    """Whether all pages between two places are what their checksums say."""
    while start < end:
        header = _header_at(file, start, end)
        if header is None:
            return False
        if header.crc is None:
            return True
        file.seek(start + header.length)
        page = file.read(header.page_bytes)
        if len(page) != header.page_bytes or zlib.crc32(page) != header.crc & 0xFFFFFFFF:
            return False
        start += header.length + header.page_bytes
    return True


def _header_at(file: BinaryIO, start: int, end: int) -> _Header | None:
    """The page header at a place, or None if there is none."""
    for length in _HEADER_BYTES:
        file.seek(start)
        with suppress(LookupError, ValueError):
            return _header(file.read(min(length, end - start)))
    return None


def _header(data: bytes) -> _Header:
    """Read a page header: field 3 is the size of its page, field 4 its checksum."""
    numbers: dict[int, int] = {}
    place = field = 0
    while data[place]:
        step, kind = data[place] >> 4, data[place] & 15
        place += 1
        if step:
            field += step
        else:
            value, place = _varint(data, place)
            field = _signed(value)
        if kind == _I32:
            value, place = _varint(data, place)
            numbers[field] = _signed(value)
        else:
            place = _after(data, place, kind)
    if numbers[3] < 0:
        raise ValueError("a page cannot have less than no bytes")
    return _Header(place + 1, numbers[3], numbers.get(4))


_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


def _after(data: bytes, place: int, kind: int) -> int:
    """Where a value ends. Raises ValueError, IndexError if it is none."""
    if kind in (_TRUE, _FALSE):
        return place
    if kind == _BYTE:
        return place + 1
    if kind in (_I16, _I32, _I64):
        return _varint(data, place)[1]
    if kind == _DOUBLE:
        return place + 8
    if kind == _BINARY:
        length, place = _varint(data, place)
        return place + length
    if kind == _STRUCT:
        while data[place]:
            step, inner = data[place] >> 4, data[place] & 15
            place += 1
            if not step:
                place = _varint(data, place)[1]
            place = _after(data, place, inner)
        return place + 1
    raise ValueError(f"a page header has no value of kind {kind}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
