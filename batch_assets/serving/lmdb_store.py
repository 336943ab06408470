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
from zlib import crc32

import numpy as np
import pyarrow as pa

from batch_assets.errors import ReleaseBroken, ReleaseBusy
from batch_assets.features.snapshot import LONGEST_KEY
from batch_assets.scoring.postprocess import RECORD_DTYPE, Predictions

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
                encoded = _encoded(keys)
                items = list(zip(encoded, _records(encoded, predictions), strict=True))
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
            keys = [key for key, _ in batch]
            records = [_checked(key, value, folder) for key, value in batch]
            yield _decoded(keys, key_type, folder), _predictions(records)


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
        record = np.frombuffer(_checked(encoded, value, self._folder), dtype=RECORD_DTYPE)[0]
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
        if "already open in this process" in str(error):
            raise ReleaseBusy(f"The release in {folder} is open in this process already; share that reader.") from error
        raise ReleaseBroken(f"The release in {folder} cannot be read: {error}; publish the partition again.") from error


def _records(keys: Sequence[bytes], predictions: Predictions) -> list[bytes]:
    records = np.empty(len(keys), dtype=RECORD_DTYPE)
    for name, column in zip(RECORD_DTYPE.names or (), predictions, strict=True):
        records[name] = column
    data, width = records.tobytes(), RECORD_DTYPE.itemsize
    rows = [data[start : start + width] for start in range(0, len(data), width)]
    return [row + crc32(row, crc32(key)).to_bytes(4, "little") for key, row in zip(keys, rows, strict=True)]


def _checked(key: bytes, value: bytes, folder: Path) -> bytes:
    """The record of a value whose CRC is right. Raises ReleaseBroken."""
    record, check = value[: RECORD_DTYPE.itemsize], value[RECORD_DTYPE.itemsize :]
    if crc32(record, crc32(key)).to_bytes(4, "little") != check:
        raise ReleaseBroken(f"The release in {folder} has a damaged record; publish the partition again.")
    return record


def _encoded(keys: pa.Array) -> list[bytes]:
    if not pa.types.is_integer(keys.type):
        return [text.encode() for text in keys.to_pylist()]
    numbers = keys.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64) ^ _SIGN
    data = numbers.astype(">u8").tobytes()
    return [data[start : start + 8] for start in range(0, len(data), 8)]


def _decoded(keys: Sequence[bytes], key_type: str, folder: Path) -> pa.Array:
    try:
        if key_type == "string":
            return pa.array([key.decode() for key in keys], pa.string())
        numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64) ^ _SIGN
    except ValueError as error:
        raise ReleaseBroken(f"The release in {folder} has a damaged key; publish the partition again.") from error
    return pa.array(numbers.view(np.int64))


def _predictions(records: Sequence[bytes]) -> Predictions:
    joined = np.frombuffer(b"".join(records), dtype=RECORD_DTYPE)
    return Predictions(*(np.ascontiguousarray(joined[name]) for name in RECORD_DTYPE.names or ()))
