"""The embedded store: one LMDB file a release, memory-mapped by its readers. The only room that knows LMDB.

Keys are stored so that their bytes sort as the keys do (integers as big-endian with the sign bit flipped, text as
UTF-8); a value is the 6 bytes of RECORD_DTYPE. What is the same for all records of a release is kept once, in the
release.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.errors import ReleaseBroken
from batch_assets.scoring.postprocess import RECORD_DTYPE, Predictions

_SIGN = np.uint64(1 << 63)
_ROWS_AT_ONCE = 1 << 17
_BYTES_PER_ROW = 128


def build(folder: Path, rows: int, batches: Iterable[tuple[pa.Array, Predictions]]) -> None:
    """Write predictions to a new file in a local folder.

    Args:
        folder: an existing local folder.
        rows: how many rows will come, at the most.
        batches: keys and predictions in ascending order of their keys.
    """
    import lmdb

    with lmdb.open(str(folder), map_size=(1 << 24) + rows * _BYTES_PER_ROW, sync=False, lock=False) as environment:
        for keys, predictions in batches:
            records = np.empty(len(keys), dtype=RECORD_DTYPE)
            for name, column in zip(RECORD_DTYPE.names or (), predictions, strict=True):
                records[name] = column
            values = records.tobytes()
            width = RECORD_DTYPE.itemsize
            items = [(key, values[position * width : (position + 1) * width]) for position, key in enumerate(_encoded(keys))]
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                _, added = cursor.putmulti(items, dupdata=False, overwrite=False, append=True)
            if added != len(items):
                raise ReleaseBroken(f"{len(items) - added:,} keys could not be added: they are doubled or out of order.")
        environment.sync(True)


def scan(folder: Path, key_type: str) -> Iterator[tuple[pa.Array, Predictions]]:
    """Everything in the file, in order of its keys, in batches."""
    import lmdb

    with (
        lmdb.open(str(folder), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
        transaction.cursor() as cursor,
    ):
        keys: list[bytes] = []
        values: list[bytes] = []
        for key, value in cursor:
            keys.append(key)
            values.append(value)
            if len(keys) == _ROWS_AT_ONCE:
                yield _decoded(keys, key_type), _predictions(values)
                keys, values = [], []
        if keys:
            yield _decoded(keys, key_type), _predictions(values)


class LmdbTable:
    """An open file for look-ups; one per process, shared by its threads."""

    def __init__(self, folder: Path, key_type: str) -> None:
        import lmdb

        try:
            self._environment = lmdb.open(str(folder), readonly=True, lock=False)
        except lmdb.Error as error:
            raise ReleaseBroken(f"The release in {folder} cannot be opened: {error}.") from error
        self._key_type = key_type

    def get(self, key: int | str) -> dict[str, Any] | None:
        """Probability, decile and label index of one key, or None."""
        with self._environment.begin() as transaction:
            value = transaction.get(_encoded(pa.array([key], self._key_type))[0])
        if value is None:
            return None
        record = np.frombuffer(value, dtype=RECORD_DTYPE)[0]
        return {name: record[name].item() for name in RECORD_DTYPE.names or ()}

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()


def _encoded(keys: pa.Array) -> list[bytes]:
    if not pa.types.is_integer(keys.type):
        return [text.encode() for text in keys.to_pylist()]
    numbers = keys.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64) ^ _SIGN
    data = numbers.astype(">u8").tobytes()
    return [data[start : start + 8] for start in range(0, len(data), 8)]


def _decoded(keys: list[bytes], key_type: str) -> pa.Array:
    if key_type == "string":
        return pa.array([key.decode() for key in keys], pa.string())
    numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64) ^ _SIGN
    return pa.array(numbers.view(np.int64))


def _predictions(values: list[bytes]) -> Predictions:
    records = np.frombuffer(b"".join(values), dtype=RECORD_DTYPE)
    return Predictions(*(np.ascontiguousarray(records[name]) for name in RECORD_DTYPE.names or ()))
