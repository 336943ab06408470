"""Look-ups in an Arrow file: binary search among the first keys of its batches, then in one batch, over the mapped memory."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from batch_assets.serving.arrow_file import ArrowFile, sortable
from batch_assets.serving.arrow_search import Asked, Numbers, Texts, anywhere, find
from batch_assets.serving.store import Table

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""What `struct` calls whole numbers of so many bytes; fields are copied as such, so that no bit of a NaN is lost."""


class ArrowTable(Table):
    """A file that is open for look-ups; `dtype` is that of its records."""

    def __init__(self, file: ArrowFile, dtype: np.dtype[np.void]) -> None:
        self._file, self._dtype = file, dtype
        self._firsts, self._key = file.firsts, file.schema.field(0).type
        widths = {name: dtype[name].itemsize for name in dtype.names or ()}
        self._pack = Struct("<" + "".join(_CODES.get(width, f"{width}s") for width in widths.values())).pack
        self._bits = np.dtype([(name, f"<u{width}" if width in _CODES else f"V{width}") for name, width in widths.items()])
        self._touched: list[_Rows | None] = [None] * len(file)

    @override
    def get(self, key: Any) -> np.void | None:
        sought = sortable(key)
        number = bisect_right(self._firsts, sought) - 1
        if number < 0:
            return None
        rows = self._touched[number] or self._touch(number)
        keys = rows.keys
        row = bisect_left(keys, sought)
        if row == len(keys) or keys[row] != sought:
            return None
        packed = self._pack(*[field[row] for field in rows.fields])
        record: np.void = np.ndarray((), self._dtype, packed)[()]  # type: ignore[assignment] # it is of no dimension
        return record

    @override
    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        asked = self._asked(keys) if self._firsts else None
        if asked is None:
            return super().get_many(keys)
        numbers = np.maximum(asked.batches(self._firsts), 0)  # what comes before all is not in the first one either
        used, which = np.unique(numbers, return_inverse=True)
        touched = [self._touched[number] or self._touch(number) for number in used.tolist()]
        counts, *places = np.array([[len(rows.keys), *rows.places] for rows in touched])[which].T
        memory, names = memoryview(self._file.memory), self._bits.names or ()
        rows, there = find(asked, memory, places[: -len(names)], counts)
        bits = np.empty(len(rows), self._bits)
        for name, start in zip(names, places[-len(names) :], strict=True):
            bits[name] = anywhere(memory, self._bits[name])[start + self._bits[name].itemsize * rows]
        answers: list[np.void | None] = list(bits.view(self._dtype))
        for missing in np.flatnonzero(~there).tolist():
            answers[missing] = None
        return answers

    @override
    def close(self) -> None:
        """Let go of the file; it is unmapped when the last look-up that is under way has its answer."""
        self.__dict__.clear()

    def _asked(self, keys: Sequence[Any]) -> Asked | None:
        """The keys for `find`; None if there are none, or some that are no numbers of 64 bits where keys are numbers."""
        numbers = pa.types.is_integer(self._key)
        if not numbers and not pa.types.is_date32(self._key):
            return Texts([sortable(key) for key in keys]) if len(keys) else None
        values = np.array(keys if numbers else [sortable(key) for key in keys])
        return Numbers(values.astype(np.int64), f"<i{self._key.bit_width // 8}") if values.dtype.kind == "i" else None

    def _touch(self, number: int) -> "_Rows":
        """A batch that is asked for the first time; if several threads do so at once, they find the same."""
        keys, *columns = self._file.batch(number).columns
        _, *parts = keys.buffers()
        data = [column.buffers()[-1] for column in columns]
        fields = [np.frombuffer(one, self._bits[at], count=len(keys)) for at, one in enumerate(data)]
        found = self._touched[number] = _Rows(
            keys=_Texts(*parts) if len(parts) > 1 else memoryview(parts[0]).cast("i" if self._key.bit_width == 32 else "q"),
            fields=[one.data if one.dtype.kind == "u" else _Bytes(one) for one in fields],
            places=[one.address - self._file.memory.address for one in (*parts, *data)],
        )
        return found


@dataclass(frozen=True)
class _Rows:
    """A batch that was compared: its keys, the bits of each field, and where keys and fields lie, in bytes."""

    keys: Sequence[Any]
    fields: Sequence[Any]
    places: Sequence[int]


class _Texts(Sequence[bytes]):
    """The texts of a batch, by their offsets and bytes."""

    def __init__(self, offsets: pa.Buffer, data: pa.Buffer) -> None:
        self._offsets, self._data = memoryview(offsets).cast("i"), memoryview(data)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override] # nobody takes a slice
        return self._data[self._offsets[row] : self._offsets[row + 1]].tobytes()


class _Bytes:
    """Fields of so many bytes that they are no number."""

    def __init__(self, values: npt.NDArray[np.void]) -> None:
        self._values = values

    def __getitem__(self, row: int) -> bytes:
        found: bytes = self._values[row].tobytes()
        return found
