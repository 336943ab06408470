"""Look-ups in an Arrow file: binary search among the first keys of its batches, then in one batch, over the mapped memory."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from batch_assets.serving.arrow_file import ArrowFile, sortable
from batch_assets.serving.arrow_search import APART, Asked, Heads, Numbers, Rows, Texts, column_of, find
from batch_assets.serving.store import Table

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""What `struct` calls whole numbers of so many bytes; fields are copied as such, so that no bit of a NaN is lost."""


class ArrowTable(Table):
    """A file that is open for look-ups; `dtype` is that of its records."""

    def __init__(self, file: ArrowFile, dtype: np.dtype[np.void]) -> None:
        self._file, self._firsts, self._dtype = file, file.firsts, dtype
        self._key = file.schema.field(0).type
        self._has_numbers = pa.types.is_integer(self._key) or pa.types.is_date32(self._key)
        widths = {name: dtype[name].itemsize for name in dtype.names or ()}
        self._pack = Struct("<" + "".join(_CODES.get(width, f"{width}s") for width in widths.values())).pack
        self._bits = np.dtype([(name, f"<u{width}" if width in _CODES else f"V{width}") for name, width in widths.items()])
        record: Any = np.void(b"").__reduce__()[0]  # what unpickles a record: of its type and bytes, the fastest way to one
        self._record: Callable[[np.dtype[np.void], bytes], np.void] = record
        self._touched: list[Rows | None] = [None] * len(file)

    @override
    def get(self, key: Any) -> np.void | None:
        sought = key if type(key) is int else sortable(key)
        number = bisect_right(self._firsts, sought) - 1
        if number < 0:
            return None
        batch = self._touched[number] or self._touch(number)
        keys, count = batch.keys, batch.rows
        start = (bisect_right(batch.signposts, sought) - 1) * APART  # not below zero: the batch does not begin after the key
        end = start + APART
        row = bisect_right(keys, sought, start, end if end < count else count) - 1
        if keys[row] != sought:
            return None
        return self._record(self._dtype, self._pack(*[field[row] for field in batch.fields]))

    @override
    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        asked = self._asked(keys) if self._firsts else None
        if asked is None:
            return super().get_many(keys)
        each = np.bincount(np.maximum(asked.batches, 0))  # how many keys are looked for in each batch
        touched = [self._touched[number] or self._touch(number) for number in np.flatnonzero(each).tolist()]
        each, names = each[each > 0], self._bits.names or ()
        rows, there = find(asked.among(self._file.memory, touched, each))
        places = np.repeat([batch.places[-len(names) :] for batch in touched], each, axis=0).T
        bits = np.empty(len(rows), self._bits)
        for name, column in zip(names, places, strict=True):
            bits[name][asked.order] = column_of(self._file.memory, self._bits[name], column)(rows)
        answers: list[np.void | None] = list(bits.view(self._dtype))
        for missing in asked.order[~there].tolist():
            answers[missing] = None
        return answers

    @override
    def close(self) -> None:
        """Let go of the file; it is unmapped when the last look-up that is under way has its answer."""
        self.__dict__.clear()

    def _asked(self, keys: Sequence[Any]) -> Asked | None:
        """The keys for `find`; None if there are none, or some that are no numbers of 64 bits where keys are numbers."""
        if not self._has_numbers:
            return Texts([key.encode() if type(key) is str else sortable(key) for key in keys], self._firsts) if keys else None
        found = np.array(keys if pa.types.is_integer(self._key) else [sortable(key) for key in keys])
        return Numbers(found, self._firsts, f"<i{self._key.bit_width // 8}") if found.dtype == np.int64 else None

    def _touch(self, number: int) -> Rows:
        """A batch that is asked for the first time; if several threads do so at once, they find the same."""
        keys, *columns = self._file.batch(number).columns
        _, *parts = keys.buffers()
        data = [column.buffers()[-1] for column in columns]
        fields = [np.frombuffer(one, self._bits[at], count=len(keys)) for at, one in enumerate(data)]
        found_keys = (
            memoryview(parts[0]).cast("i" if self._key.bit_width == 32 else "q") if self._has_numbers else _Texts(*parts)
        )
        places = [one.address - self._file.memory.address for one in (*parts, *data)]
        found = self._touched[number] = Rows(
            rows=len(keys),
            signposts=[found_keys[row] for row in range(0, len(keys), APART)],
            keys=found_keys,
            fields=[field.data if field.dtype.kind == "u" else _Bytes(field) for field in fields],
            places=places,
            heads=found_keys.heads(self._file.memory, places[1]) if isinstance(found_keys, _Texts) else None,
        )
        return found


class _Texts(Sequence[bytes]):
    """The texts of a batch, by their offsets and bytes."""

    def __init__(self, offsets: pa.Buffer, data: pa.Buffer) -> None:
        self._offsets, self._data = memoryview(offsets).cast("i"), memoryview(data)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def heads(self, memory: pa.Buffer, place: int) -> Heads:
        """The words of some of them; `place` is where their bytes lie in the memory."""
        return Heads(memory, np.frombuffer(self._offsets, np.int32), place, self[0], self[len(self) - 1])

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override] # nobody takes a slice
        return self._data[self._offsets[row] : self._offsets[row + 1]].tobytes()


class _Bytes:
    """A field of so many bytes that it is no number."""

    def __init__(self, values: npt.NDArray[np.void]) -> None:
        self._values = values

    def __getitem__(self, row: int) -> bytes:
        found: bytes = self._values[row].tobytes()
        return found
