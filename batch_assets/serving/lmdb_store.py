"""The embedded store: one LMDB file a release, memory-mapped by its readers. The only room that knows LMDB.

Keys are stored so that their bytes sort as the keys do (integers as big-endian with the sign bit flipped, text as
UTF-8); a value is the bytes of the record and a CRC.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from batch_assets.errors import ReleaseBroken, ReleaseBusy
from batch_assets.features.keys import LONGEST_KEY
from batch_assets.records import Records
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.store import Batch, Batches, Release

if TYPE_CHECKING:
    import lmdb

_SIGN = np.uint64(1 << 63)
_EPOCH = date(1970, 1, 1)
_ROWS_AT_ONCE = 1 << 17
_ADDRESS_SPACE = 1 << 38
"""The largest a file may grow, in bytes; it is address space, not disk."""


class LmdbStore(FileStore):
    """One LMDB file a release."""

    kind: Literal["lmdb"] = "lmdb"
    file: ClassVar[str] = "data.mdb"

    @override
    def write(self, folder: Path, release: Release, batches: Batches) -> None:
        import lmdb

        try:
            with lmdb.open(str(folder), map_size=_ADDRESS_SPACE, sync=False, lock=False) as environment:
                for keys, records in batches:
                    encoded = _encoded(keys)
                    items = list(zip(encoded, _values(encoded, records), strict=True))
                    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                        _, added = cursor.putmulti(items, dupdata=False, overwrite=False, append=True)
                    if added != len(items):
                        raise ReleaseBroken(
                            f"{len(items) - added:,} keys could not be added: they are doubled or out of order."
                        )
                environment.sync(True)
        except lmdb.Error as error:
            raise ReleaseBroken(f"The release could not be written under {folder}: {error} (is the disk full?)") from error

    @override
    def read(self, folder: Path, release: Release) -> Iterator[Batch]:
        with (
            _told(folder) as lmdb_open,
            lmdb_open() as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            entries, dtype = iter(cursor), release.record.dtype
            while batch := list(islice(entries, _ROWS_AT_ONCE)):
                packed = b"".join(_checked(key, value, dtype.itemsize, folder) for key, value in batch)
                keys = _decoded([key for key, _ in batch], release.key_type, folder)
                yield keys, release.record.unpacked(np.frombuffer(packed, dtype=dtype))

    @override
    def table(self, folder: Path, release: Release) -> "LmdbTable":
        return LmdbTable(folder, release)


class LmdbTable:
    """An open file for look-ups; one per process, shared by its threads."""

    def __init__(self, folder: Path, release: Release) -> None:
        self._folder, self._dtype = folder, release.record.dtype
        with _told(folder) as lmdb_open:
            self._environment = lmdb_open()

    def get(self, key: Any) -> npt.NDArray[np.void] | None:
        """One key's record, or None. Raises ReleaseBroken."""
        encoded = _encoded_one(key)
        if not 1 <= len(encoded) <= LONGEST_KEY:
            return None
        with _told(self._folder), self._environment.begin() as transaction:
            value = transaction.get(encoded)
        if value is None:
            return None
        record: npt.NDArray[np.void] = np.frombuffer(
            _checked(encoded, value, self._dtype.itemsize, self._folder), dtype=self._dtype
        )
        return record.reshape(())

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


def _values(keys: Sequence[bytes], records: Records) -> list[bytes]:
    """What is kept of each key: its record and a CRC of both."""
    packed = records.packed()
    data, width = packed.tobytes(), packed.dtype.itemsize
    rows = [data[start : start + width] for start in range(0, len(data), width)]
    return [row + crc32(row, crc32(key)).to_bytes(4, "little") for key, row in zip(keys, rows, strict=True)]


def _checked(key: bytes, value: bytes, width: int, folder: Path) -> bytes:
    """The record of a value whose CRC is right. Raises ReleaseBroken."""
    record, check = value[:width], value[width:]
    if crc32(record, crc32(key)).to_bytes(4, "little") != check:
        raise ReleaseBroken(f"The release in {folder} has a damaged record; publish the partition again.")
    return record


def _encoded_one(key: Any) -> bytes:
    """One key, as `_encoded` has it."""
    if isinstance(key, bytes | str):
        return key if isinstance(key, bytes) else key.encode()
    number = (key - _EPOCH).days if isinstance(key, date) else key
    return int(number + (1 << 63)).to_bytes(8, "big")


def _encoded(keys: pa.Array) -> list[bytes]:
    if pa.types.is_binary(keys.type):
        return list(keys.to_pylist())
    if pa.types.is_string(keys.type):
        return [text.encode() for text in keys.to_pylist()]
    numbers = keys.cast(pa.int32()) if pa.types.is_date32(keys.type) else keys
    words = numbers.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64) ^ _SIGN
    data = words.astype(">u8").tobytes()
    return [data[start : start + 8] for start in range(0, len(data), 8)]


def _decoded(keys: Sequence[bytes], key_type: pa.DataType, folder: Path) -> pa.Array:
    try:
        if pa.types.is_binary(key_type):
            return pa.array(keys, key_type)
        if pa.types.is_string(key_type):
            return pa.array([key.decode() for key in keys], pa.string())
        numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64) ^ _SIGN
    except ValueError as error:
        raise ReleaseBroken(f"The release in {folder} has a damaged key; publish the partition again.") from error
    found = pa.array(numbers.view(np.int64))
    return found.cast(pa.int32()).cast(key_type) if pa.types.is_date32(key_type) else found
