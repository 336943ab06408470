"""The embedded store: one LMDB file a release, memory-mapped by its readers. The only room that knows LMDB.

Keys are stored so that their bytes sort as the keys do (integers as big-endian with the sign bit flipped, text as
UTF-8); a value is the 6 bytes of RECORD_DTYPE. What is the same for all records of a release is kept once, in the
release.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batch_assets.errors import ReleaseBroken
from batch_assets.scoring.postprocess import RECORD_DTYPE, Predictions
from batch_assets.snapshot import LONGEST_KEY

if TYPE_CHECKING:
    import lmdb

FILE = "data.mdb"
"""What a release's folder holds beside its description."""

_SIGN = np.uint64(1 << 63)
_ROWS_AT_ONCE = 1 << 17
_ADDRESS_SPACE = 1 << 38
"""The largest a file may grow, in bytes; it is address space, not disk."""


def build(folder: Path, batches: Iterable[tuple[pa.Array, Predictions]]) -> None:
    """Write predictions, which come in ascending order of their keys, to a new file in a local folder.

    Raises:
        ReleaseBroken: keys are doubled or out of order, or the file cannot be written.
    """
    import lmdb

    try:
        with lmdb.open(str(folder), map_size=_ADDRESS_SPACE, sync=False, lock=False) as environment:
            for keys, predictions in batches:
                items = list(zip(_encoded(keys), _records(predictions), strict=True))
                with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    _, added = cursor.putmulti(items, dupdata=False, overwrite=False, append=True)
                if added != len(items):
                    raise ReleaseBroken(f"{len(items) - added:,} keys could not be added: they are doubled or out of order.")
            environment.sync(True)
    except lmdb.Error as error:
        raise ReleaseBroken(f"The release could not be written under {folder}: {error} (is the disk full?)") from error


def scan(folder: Path, key_type: str) -> Iterator[tuple[pa.Array, Predictions]]:
    """Everything in the file, in order of its keys, in batches. Raises ReleaseBroken."""
    with (
        _told(folder) as lmdb_open,
        lmdb_open() as environment,
        environment.begin() as transaction,
        transaction.cursor() as cursor,
    ):
        entries = iter(cursor)
        while batch := list(islice(entries, _ROWS_AT_ONCE)):
            keys, values = zip(*batch, strict=True)
            yield _decoded(keys, key_type), _predictions(values)


class LmdbTable:
    """An open file for look-ups; one per process, shared by its threads."""

    def __init__(self, folder: Path, key_type: str) -> None:
        self._folder = folder
        self._key_type = key_type
        with _told(folder) as lmdb_open:
            self._environment = lmdb_open()

    def get(self, key: int | str) -> dict[str, Any] | None:
        """Probability, decile and label index of one key, or None. Raises ReleaseBroken."""
        encoded = _encoded(pa.array([key], pa.string() if self._key_type == "string" else pa.int64()))[0]
        if not 1 <= len(encoded) <= LONGEST_KEY:
            return None
        with _told(self._folder), self._environment.begin() as transaction:
            value = transaction.get(encoded)
        if value is None:
            return None
        record = np.frombuffer(value, dtype=RECORD_DTYPE)[0]
        return {name: record[name].item() for name in RECORD_DTYPE.names or ()}

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()


@contextmanager
def _told(folder: Path) -> Iterator[Callable[[], "lmdb.Environment"]]:
    """What LMDB raises while reading a release, told as ReleaseBroken; gives the function that opens it."""
    import lmdb

    try:
        yield lambda: lmdb.open(str(folder), readonly=True, lock=False)
    except lmdb.Error as error:
        raise ReleaseBroken(f"The release in {folder} cannot be read: {error}; publish the partition again.") from error


def _records(predictions: Predictions) -> list[bytes]:
    records = np.empty(len(predictions.probability), dtype=RECORD_DTYPE)
    for name, column in zip(RECORD_DTYPE.names or (), predictions, strict=True):
        records[name] = column
    data, width = records.tobytes(), RECORD_DTYPE.itemsize
    return [data[start : start + width] for start in range(0, len(data), width)]


def _encoded(keys: pa.Array) -> list[bytes]:
    if not pa.types.is_integer(keys.type):
        return [text.encode() for text in keys.to_pylist()]
    numbers = keys.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64) ^ _SIGN
    data = numbers.astype(">u8").tobytes()
    return [data[start : start + 8] for start in range(0, len(data), 8)]


def _decoded(keys: Sequence[bytes], key_type: str) -> pa.Array:
    if key_type == "string":
        return pa.array([key.decode() for key in keys], pa.string())
    numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64) ^ _SIGN
    return pa.array(numbers.view(np.int64))


def _predictions(values: Sequence[bytes]) -> Predictions:
    records = np.frombuffer(b"".join(values), dtype=RECORD_DTYPE)
    return Predictions(*(np.ascontiguousarray(records[name]) for name in RECORD_DTYPE.names or ()))
