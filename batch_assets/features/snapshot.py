"""The frozen input of one partition: what exactly will be scored, and how to notice that it is no longer the same.

A snapshot is written once into a folder of its own, sorted by key, and never changed. Its digest covers paths, sizes, row
groups, schema and content, never a time stamp. A digest of the keys of every row group is recorded while writing: the proof
compares what was scored with these, not with what the scorer says it read.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from batch_assets.arrow import regrouped
from batch_assets.digest import Digest, key_digest
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.features.keys import identity, require_ascending
from batch_assets.logs import NumberedLog
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

ROWS_PER_FILE = 1 << 22
"""A new part file is begun after so many rows."""

ROWS_PER_GROUP = 1 << 14
"""Rows of a row group, or fewer: small, so that an audit or a look at one row reads little, and as fast to read as large
ones.
"""

_DOCUMENT = "_snapshot.json"


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class RowGroup:
    """One Parquet row group: how many rows, and the digest of their keys."""

    rows: int
    keys: Digest


class SnapshotFile(BaseModel):
    """One part file. `token` is the storage's stamp of it, beside the digest and not part of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str
    row_groups: tuple[RowGroup, ...]
    token: str

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return sum(group.rows for group in self.row_groups)


class Snapshot(BaseModel):
    """The frozen input of one partition.

    `key` names the columns that say what a row is about; `schema_text` is the Arrow schema, one field a line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    key: tuple[str, ...]
    schema_text: str
    files: tuple[SnapshotFile, ...]

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)

    def stamped(self, tokens: Mapping[str, str]) -> "Snapshot":
        """The same, of whose files those that are named have these stamps."""
        files = tuple(file.model_copy(update={"token": tokens.get(file.name, file.token)}) for file in self.files)
        return self.model_copy(update={"files": files})


def partition_folder(pipeline: str, day: str) -> str:
    """Where a day's snapshots lie."""
    return f"{pipeline}/user_features/date={day}"


def snapshot_folder(pipeline: str, day: str, digest: str) -> str:
    """Where one snapshot lies."""
    return f"{partition_folder(pipeline, day)}/snapshot={digest[:16]}"


class CurrentSnapshot(BaseModel):
    """Which snapshot a day uses, by its digest; `tokens` are the stamps that its files have where they lie, as far as known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    tokens: dict[str, str] = {}

    @classmethod
    def of(cls, snapshot: Snapshot) -> "CurrentSnapshot":
        """What says that a day uses this one."""
        return cls(digest=snapshot.digest, tokens={file.name: file.token for file in snapshot.files})


def current_log(storage: Storage, pipeline: str, day: str) -> NumberedLog[CurrentSnapshot]:
    """Which snapshots a day used; the highest entry is in force."""
    return NumberedLog(storage, f"{partition_folder(pipeline, day)}/_current", CurrentSnapshot)


def days_of(storage: Storage, pipeline: str) -> list[str]:
    """Every day of which something is kept, ascending."""
    folders = storage.names(f"{pipeline}/user_features")
    return sorted(name.removeprefix("date=") for name in folders if name.startswith("date="))


def write_snapshot(folder: Path, batches: pa.RecordBatchReader, key: Sequence[str], row_group_rows: int) -> Snapshot:
    """Write rows, which must come in ascending order of their key, to part files in a local folder.

    The files are what reads fastest here: plain encoding without dictionary, LZ4.

    Args:
        folder: an empty local folder.
        batches: the rows.
        key: the columns that say what a row is about.
        row_group_rows: rows per row group.

    Raises:
        BadKeys: a key is null, doubled or out of order.
    """
    names: list[str] = []
    digests: list[list[RowGroup]] = []
    writer: pq.ParquetWriter | None = None
    last_key: pa.Scalar | None = None
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    for table in regrouped(tables, batches.schema, row_group_rows):
        keys = require_ascending(table, key, last_key)
        last_key = keys[-1] if len(keys) else last_key
        if writer is None or sum(group.rows for group in digests[-1]) >= ROWS_PER_FILE:
            if writer is not None:
                writer.close()
            names.append(f"part-{len(names):05d}.parquet")
            digests.append([])
            writer = pq.ParquetWriter(
                folder / names[-1], batches.schema, compression="lz4", use_dictionary=False, write_statistics=False
            )
        writer.write_table(table, row_group_size=row_group_rows)
        if len(keys):
            digests[-1].append(RowGroup(rows=len(keys), keys=key_digest(keys)))
    if writer is not None:
        writer.close()
    return described(folder, key, batches.schema, names, digests)


def described(
    folder: Path, key: Sequence[str], schema: pa.Schema, names: Iterable[str], groups: Iterable[Iterable[RowGroup]]
) -> Snapshot:
    """The description of part files in a local folder, which is put beside them: their names, and the row groups of each."""
    files = tuple(in_threads(lambda part: _describe(folder / part[0], part[1]), zip(names, groups, strict=True)))
    schema_text = str(schema.remove_metadata())
    digest = _digest(tuple(key), schema_text, files)
    snapshot = Snapshot(digest=digest, key=tuple(key), schema_text=schema_text, files=files)
    (folder / _DOCUMENT).write_text(snapshot.model_dump_json(indent=1))
    return snapshot


def read_snapshot(storage: Storage, folder: str, digest: str) -> Snapshot:
    """The description of the snapshot with a digest. Raises SnapshotChanged if it does not have it any more."""
    path = f"{folder}/{_DOCUMENT}"
    try:
        snapshot = Snapshot.model_validate_json(storage.read(path))
    except (NotFound, ValidationError) as error:
        raise SnapshotChanged(f"{path} cannot be read; freeze the partition again with --refresh.") from error
    if digest != snapshot.digest or digest != _digest(snapshot.key, snapshot.schema_text, snapshot.files):
        raise SnapshotChanged(f"{path} is not what was frozen (other digest); freeze the partition again with --refresh.")
    return snapshot


def any_snapshot(storage: Storage, folder: str) -> Snapshot:
    """The description of whatever snapshot lies in a folder. Raises SnapshotChanged."""
    try:
        return Snapshot.model_validate_json(storage.read(f"{folder}/{_DOCUMENT}"))
    except (NotFound, ValidationError) as error:
        raise SnapshotChanged(f"{folder}/{_DOCUMENT} cannot be read; freeze the partition again with --refresh.") from error


class SnapshotReader:
    """Reads row ranges of a snapshot and notices when a file is not what was frozen.

    The size and stamp of a file are compared when it is opened and after every read, before anybody acts on the rows; if at
    first only the stamp differs (a restored copy), the content is hashed. The last file is kept open, because chunks of one
    file usually follow each other.
    """

    def __init__(self, storage: Storage, folder: str, snapshot: Snapshot) -> None:
        self._storage = storage
        self._folder = folder
        self._snapshot = snapshot
        self._open_index: int | None = None
        self._open_token = ""
        self._parquet: pq.ParquetFile | None = None

    def schema(self) -> pa.Schema:
        """The Arrow schema of the part files, read from the first one."""
        return self._file(0).schema_arrow

    def rows(self, file: int, start: int, rows: int, columns: list[str]) -> pa.Table:
        """Rows [start, start + rows) of one part file. Raises SnapshotChanged."""
        groups: list[int] = []
        first_row = position = 0
        for index, group in enumerate(self._snapshot.files[file].row_groups):
            if position < start + rows and start < position + group.rows:
                first_row = first_row if groups else position
                groups.append(index)
            position += group.rows
        parquet, path = self._file(file), self._path(file)
        try:
            table = parquet.read_row_groups(groups, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            self._parquet = None  # the next attempt opens the file anew
            raise SnapshotChanged(f"{path} cannot be read: {_first_line(error)}.") from error
        if self._storage.stamp(path).token != self._open_token:
            raise SnapshotChanged(f"{path} was changed while it was read; freeze the partition again with --refresh.")
        return table.slice(start - first_row, rows)

    def keys(self, file: int, start: int, rows: int) -> pa.Array:
        """What the rows [start, start + rows) of one part file are about: their identities. Raises SnapshotChanged."""
        return identity(self.rows(file, start, rows, list(self._snapshot.key)), self._snapshot.key)

    def _file(self, file: int) -> pq.ParquetFile:
        if self._parquet is None or self._open_index != file:
            path = self._path(file)
            self._open_token = require_unchanged(self._storage, path, self._snapshot.files[file])
            try:
                self._parquet = pq.ParquetFile(self._storage.open(path))
            except (OSError, pa.ArrowException) as error:
                raise SnapshotChanged(f"{path} is not a Parquet file any more: {_first_line(error)}.") from error
            self._open_index = file
        return self._parquet

    def _path(self, file: int) -> str:
        return f"{self._folder}/{self._snapshot.files[file].name}"


def require_unchanged(storage: Storage, path: str, file: SnapshotFile) -> str:
    """The file's present stamp token, if it still holds what was frozen. Raises SnapshotChanged."""
    advice = "restore it, or freeze the partition again with --refresh"
    try:
        stamp = storage.stamp(path)
    except NotFound:
        raise SnapshotChanged(f"{path} is missing: {advice}.") from None
    if stamp.size != file.size:
        raise SnapshotChanged(f"{path} has {stamp.size:,} bytes instead of the frozen {file.size:,}: {advice}.")
    if stamp.token != file.token and storage.sha256(path) != file.sha256:
        raise SnapshotChanged(f"{path} does not hold what was frozen (other sha256): {advice}.")
    return stamp.token


def _digest(key: tuple[str, ...], schema_text: str, files: Iterable[SnapshotFile]) -> str:
    """The sha256 of key, schema and files as one JSON document, of which one file at a time is held."""
    found = hashlib.sha256(f"[{json.dumps(key)}, {json.dumps(schema_text)}, [".encode())
    for number, file in enumerate(files):
        content = json.dumps(file.model_dump(exclude={"token"}), sort_keys=True)
        found.update(f"{', ' if number else ''}{content}".encode())
    found.update(b"]]")
    return found.hexdigest()


def _describe(path: Path, groups: Iterable[RowGroup]) -> SnapshotFile:
    status = path.stat()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return SnapshotFile(
        name=path.name,
        size=status.st_size,
        sha256=sha256,
        row_groups=tuple(groups),
        token=f"{status.st_mtime_ns}-{status.st_ino}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
