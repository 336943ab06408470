"""A bucket as Cassandra keeps it: one CQL map from its keys to their records, in the bytes of the protocol, and back.

A map is a count, then of each entry the key and the record, a user-defined type, each after its size; of the record again
each field after its size. Numbers are big-endian, sizes have four bytes. Keys and labels that are texts are as long as they
are; what lies between two texts has a fixed layout and is called a run. So many entries are written, and read, by a few steps
of numpy and Arrow for each run, and no bit of a float is looked at.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_arrow, as_numpy, as_text
from batch_assets.records import Records, RecordType
from batch_assets.serving.cassandra.fields import (
    CQL,
    as_bits,
    as_column,
    as_int,
    as_packed,
    cql_of,
    foreign,
    layout_of,
    size_of,
)
from batch_assets.serving.store import Batch

TEXT_BYTES = 16
"""As long a text is taken to be before one was seen."""

_EPOCH, _MIDDLE = date(1970, 1, 1), 1 << 31
"""Days are counted from here in CQL's date, which has no sign: the epoch is in its middle."""

_ID, _RECORD = "(key)", "(record)"
"""What the parts of an entry are called that are no fields."""

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A part of an entry that has a fixed layout; `text` is what follows it, whose size is the run's last number."""

    dtype: np.dtype[np.void]
    text: str | None


class Entries:
    """The entries of a release's maps: their types in CQL, and how they are written and read."""

    def __init__(self, key: pa.DataType, record: RecordType) -> None:
        self._key, self._record = key, record
        self._key_width = 0 if pa.types.is_string(key) or pa.types.is_binary(key) else key.bit_width // 8
        self._runs = list(self._cut())
        self._least = sum(4 + size_of(field) for field in record.fields)  # bytes of a record whose texts are empty

    @property
    def cql_key(self) -> str:
        """The type of a key."""
        if not self._key_width:
            return "text" if pa.types.is_string(self._key) else "blob"
        return "date" if pa.types.is_date32(self._key) else CQL[f"i{self._key_width}"]

    @property
    def cql_fields(self) -> str:
        """The fields of a record and their types."""
        return ", ".join(f'"{field.name}" {cql_of(field)}' for field in self._record.fields)

    @property
    def cql_record(self) -> str:
        """The name of a record's type: the same fields have the same."""
        return f"record_{hashlib.sha256(self.cql_fields.encode()).hexdigest()[:12]}"

    @property
    def width(self) -> int:
        """About how many bytes an entry has."""
        return sum(run.dtype.itemsize + TEXT_BYTES * (run.text is not None) for run in self._runs)

    def maps(self, keys: pa.Array, records: Records, starts: Int64s) -> Iterator[bytes]:
        """A map for each bucket: that of rows `starts[n]` to `starts[n + 1]`, whose keys ascend."""
        import pyarrow.compute as pc

        numbers, texts = self._parts(keys, records)
        pieces = list[pa.Array]()
        for run in self._runs:
            block = np.empty(len(keys), run.dtype)
            for name in run.dtype.names or ():
                block[name] = numbers[name]
            kind = pa.binary(run.dtype.itemsize)
            fixed = pa.FixedSizeBinaryArray.from_buffers(kind, len(block), [None, pa.py_buffer(block)])
            pieces += [fixed.cast(pa.binary()), *([texts[run.text]] if run.text else [])]
        joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.binary()))
        offsets, data = _offsets(joined), memoryview(joined.buffers()[2] or b"")
        for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            yield as_int(end - first) + data[offsets[first] : offsets[end]]

    def batch(self, maps: Sequence[bytes]) -> Batch:
        """The keys and records in some maps, map after map. Raises ReleaseBroken if anything else is in them."""
        longest = max(run.dtype.itemsize for run in self._runs)
        data = np.frombuffer(b"".join(maps) + bytes(longest), np.uint8)
        numbers, texts = dict[str, Any](), dict[str, pa.Array]()
        for run, places in zip(self._runs, self._places(data, np.array([len(one) for one in maps])), strict=True):
            block = _at(data, places, run.dtype)
            numbers |= {name: block[name] for name in run.dtype.names or ()}
            if run.text:
                texts[run.text] = _texts(data, places + run.dtype.itemsize, numbers[f"{run.text}.size"])
        self._require_sizes(numbers)
        parts = {field: texts[field.name] if field.names else numbers[f"{field.name}.bits"] for field in self._record.fields}
        columns = {field.name: as_column(field, part) for field, part in parts.items()}
        return self._keys(numbers, texts), Records(self._record, columns)

    def key(self, key: Any) -> bytes | None:
        """A key as it stands in a map, or None if no key of the release's type is so."""
        try:
            if isinstance(key, bytes | str):
                return key if isinstance(key, bytes) else key.encode()
            days = isinstance(key, date)
            number = (key - _EPOCH).days + _MIDDLE if days else key
            return int(number).to_bytes(self._key_width, "big", signed=not days)
        except (UnicodeEncodeError, OverflowError):
            return None

    def record(self, value: bytes) -> np.void:
        """One record. Raises ReleaseBroken if it is none."""
        parts, place = list[bytes](), 0
        for field in self._record.fields:
            size = int.from_bytes(value[place : place + 4], "big", signed=True)
            part, place = value[place + 4 : place + 4 + size], place + 4 + size
            if size < 0 or len(part) != size or size not in (size_of(field), size * bool(field.names)):
                raise foreign()
            parts.append(as_packed(field, part))
        found: np.void = np.frombuffer(b"".join(parts), self._record.dtype)[0]
        return found

    def _cut(self) -> Iterator[Run]:
        """The runs of an entry."""
        texts = {field.name for field in self._record.fields if field.names} | (set() if self._key_width else {_ID})
        kinds: dict[str, Any] = {field.name: layout_of(field) for field in self._record.fields}
        parts = [(_ID, f">u{self._key_width}"), (_RECORD, None), *kinds.items()]
        run = list[tuple[str, Any]]()
        for name, kind in parts:
            run.append((f"{name}.size", ">i4"))
            if name in texts:
                yield Run(np.dtype(run), name)
                run = []
            elif kind:
                run.append((f"{name}.bits", kind))
        if run:
            yield Run(np.dtype(run), None)

    def _parts(self, keys: pa.Array, records: Records) -> tuple[dict[str, Any], dict[str, pa.Array]]:
        """What stands in the runs by its name, and the texts between them."""
        numbers, texts = dict[str, Any](), dict[str, pa.Array]()
        if self._key_width:
            bits = as_numpy(keys.cast(pa.int32()) if pa.types.is_date32(keys.type) else keys).view(f"<u{self._key_width}")
            numbers |= {f"{_ID}.size": self._key_width, f"{_ID}.bits": bits ^ self._moved}
        else:
            texts[_ID] = keys.cast(pa.binary())
            numbers[f"{_ID}.size"] = np.diff(_offsets(texts[_ID]))
        for field in self._record.fields:
            column = np.ascontiguousarray(records[field.name])
            if field.names:
                texts[field.name] = as_text(field.names).cast(pa.binary()).take(as_arrow(column))
                numbers[f"{field.name}.size"] = np.diff(_offsets(texts[field.name]))
            else:
                numbers |= {f"{field.name}.size": size_of(field), f"{field.name}.bits": as_bits(field, column)}
        numbers[f"{_RECORD}.size"] = self._record_size(numbers)
        return numbers, texts

    @property
    def _moved(self) -> int:
        """The bit in which a key of CQL differs from ours."""
        return _MIDDLE if pa.types.is_date32(self._key) else 0

    def _record_size(self, numbers: Mapping[str, Any]) -> Any:
        """How many bytes each record has."""
        return self._least + sum(numbers[f"{field.name}.size"] for field in self._record.fields if field.names)

    def _places(self, data: npt.NDArray[np.uint8], lengths: Int64s) -> npt.NDArray[np.int64]:
        """Where each run of each entry begins; shape (runs, entries). Raises ReleaseBroken if entries are cut or too long."""
        ends = np.cumsum(lengths)
        at = ends - lengths + 4
        counts = _at(data, at - 4, np.dtype(">i4")).astype(np.int64)
        least = sum(run.dtype.itemsize for run in self._runs)
        if (counts < 0).any() or (4 + counts * least > lengths).any():
            raise foreign()
        places = np.empty((len(self._runs), len(lengths), counts.max(initial=0)), np.int64)
        for number in range(places.shape[2]):
            before = at
            for row, run in enumerate(self._runs):
                places[row, :, number] = at
                at = at + run.dtype.itemsize
                if run.text:
                    at = at + np.maximum(_at(data, at - 4, np.dtype(">i4")), 0)
            at = np.where(number < counts, at, before)
        if (at != ends).any():
            raise foreign()
        found: Int64s = places[:, np.arange(places.shape[2]) < counts[:, None]]
        return found

    def _require_sizes(self, numbers: Mapping[str, Any]) -> None:
        """Raises ReleaseBroken if a number is of another size than it should be, or a text of none."""
        expected = {f"{field.name}.size": size_of(field) for field in self._record.fields if not field.names}
        if self._key_width:
            expected[f"{_ID}.size"] = self._key_width
        sizes = {name: column for name, column in numbers.items() if name.endswith(".size")}
        wrong = any((column != expected[name] if name in expected else column < 0).any() for name, column in sizes.items())
        if wrong or (sizes[f"{_RECORD}.size"] != self._record_size(numbers)).any():
            raise foreign()

    def _keys(self, numbers: Mapping[str, Any], texts: Mapping[str, pa.Array]) -> pa.Array:
        if not self._key_width:
            return texts[_ID].cast(self._key)
        bits = numbers[f"{_ID}.bits"].astype(f"<u{self._key_width}") ^ self._moved
        return as_arrow(bits.view(f"<i{self._key_width}")).cast(self._key)


def _at(data: npt.NDArray[np.uint8], places: Int64s, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """What lies at some places; at one behind the end the last that could."""
    every = np.ndarray((len(data) - kind.itemsize + 1,), f"V{kind.itemsize}", data, strides=(1,))
    found: npt.NDArray[Any] = every[np.minimum(places, len(every) - 1)]
    return found.view(kind)


def _texts(data: npt.NDArray[np.uint8], places: Int64s, sizes: npt.NDArray[Any]) -> pa.Array:
    """The texts at some places, as bytes."""
    offsets = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    taken = data[np.repeat(places - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])]
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(taken)]
    return pa.Array.from_buffers(pa.binary(), len(places), buffers)


def _offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
