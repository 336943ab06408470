"""A chunk's commit, and resume: what is planned minus what is committed.

A commit is one Parquet file of predictions that appears whole and exclusively; its footer says everything that is known about
the chunk. Rows that were not scored go first to a rejects file with a random part in its name; it counts only if the
footer of a committed predictions file names it, so a writer that loses the race leaves nothing that anybody reads.
"""

import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from batch_assets.arrow import as_arrow
from batch_assets.digest import Digest
from batch_assets.errors import AlreadyExists, CommitBroken
from batch_assets.features.keys import identity
from batch_assets.histogram import Histogram
from batch_assets.records import Records, as_dictionary
from batch_assets.runs.chunks import Chunk
from batch_assets.storage import Storage
from batch_assets.threads import WAITING, in_threads

_FOOTER = b"batch_assets.commit"


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class RejectsFile:
    """The file of rows that were excluded or dead-lettered."""

    name: str
    size: int
    sha256: str


class Written(BaseModel):
    """When a chunk was written, and by which process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str
    host: str
    pid: int

    @classmethod
    def here(cls) -> "Written":
        """Now, by this process."""
        return cls(when=datetime.now(UTC).isoformat(timespec="milliseconds"), host=socket.gethostname(), pid=os.getpid())


class ChunkCommit(BaseModel):
    """What the footer of a committed chunk says.

    `keys` digests every input row's key, `values` the scored (key, record). `labels` is how many rows have each label, if the
    record has some. `batch_rows` is the smallest shape that was run. `seconds` are by stage; a footer cannot know how long its
    own file takes to become durable, so its `write` is what came before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    number: int
    file: int
    start: int
    rows: int
    scored: int
    excluded: int
    dead_lettered: int
    keys: Digest
    values: Digest
    rejects: RejectsFile | None
    histogram: Histogram
    labels: tuple[int, ...]
    model_version: str
    model_sha256: str
    batch_rows: int
    environment: dict[str, str]
    seconds: dict[str, float]
    attempt: int
    written: Written


def day_folder(pipeline: str, day: str) -> str:
    """Where a day's runs lie."""
    return f"{pipeline}/predictions/date={day}"


def run_folder(pipeline: str, day: str, run_id: str) -> str:
    """Where a run's files lie."""
    return f"{day_folder(pipeline, day)}/run={run_id}"


def write_rejects(storage: Storage, folder: str, chunk: Chunk, rejects: pa.Table) -> RejectsFile:
    """Write the rows that were not scored; to be named in the commit that follows."""
    data = as_parquet(rejects)
    name = f"{chunk.name}.rejects.{uuid.uuid4().hex[:12]}.parquet"
    storage.create(f"{folder}/{name}", data)
    return RejectsFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_commit(storage: Storage, folder: str, chunk: Chunk, predictions: pa.Table, commit: ChunkCommit) -> ChunkCommit:
    """Commit a chunk. If somebody else committed it first, remove what this writer made and return the winner's commit."""
    path = f"{folder}/{chunk.name}.parquet"
    metadata = {**(predictions.schema.metadata or {}), _FOOTER: commit.model_dump_json().encode()}
    try:
        storage.create(path, as_parquet(predictions.replace_schema_metadata(metadata)))
    except AlreadyExists:
        winner = read_commit(storage, folder, chunk, commit.run_id)
        if commit.rejects and commit.rejects != winner.rejects:  # the winner may be this writer's own first attempt
            storage.delete(f"{folder}/{commit.rejects.name}")
        return winner
    return commit


def read_commit(storage: Storage, folder: str, chunk: Chunk, run_id: str) -> ChunkCommit:
    """The commit of a chunk, from its footer alone. Raises CommitBroken."""
    path = f"{folder}/{chunk.name}.parquet"
    commit = read_footer(storage, path)
    expected = (run_id, chunk.number, chunk.file, chunk.start, chunk.rows)
    if (commit.run_id, commit.number, commit.file, commit.start, commit.rows) != expected:
        raise CommitBroken(f"{path} belongs to another run or plan: remove it and run again, then the chunk is scored again.")
    return commit


def read_footer(storage: Storage, path: str) -> ChunkCommit:
    """What the footer of a predictions file says, whatever plan it belongs to. Raises CommitBroken."""
    try:
        with storage.open(path) as file:
            metadata: Mapping[bytes, bytes] = pq.read_metadata(file).metadata or {}
        return ChunkCommit.model_validate_json(metadata[_FOOTER])
    except (OSError, pa.ArrowException, KeyError, ValidationError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CommitBroken(
            f"{path} cannot be read ({reason}): remove it and run again, then the chunk is scored again."
        ) from error


def read_commits(storage: Storage, folder: str, plan: Sequence[Chunk], run_id: str) -> Iterator[ChunkCommit]:
    """The commits that are there, in the order of the plan: one listing and their footers, never rows.

    A commit whose rejects file was lost or cut since is none: its predictions file is removed, so that the chunk is scored
    again. Raises CommitBroken.
    """
    names = storage.names(folder)
    there = [chunk for chunk in plan if f"{chunk.name}.parquet" in names]
    read = in_threads(lambda chunk: read_commit(storage, folder, chunk, run_id), there, WAITING)
    for chunk, commit in zip(there, read, strict=True):
        if commit.rejects and names.get(commit.rejects.name) != commit.rejects.size:
            storage.delete(f"{folder}/{chunk.name}.parquet")
        else:
            yield commit


def read_committed(storage: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a committed file. Raises CommitBroken if it cannot be read."""
    return _rows(lambda: storage.open(path), path, columns)


def read_keys(storage: Storage, path: str, key: Sequence[str]) -> pa.Array:
    """What the rows of a committed file are about: their identities. Raises CommitBroken if it cannot be read."""
    return identity(read_committed(storage, path, key), key)


def keys_of(content: bytes, path: str, key: Sequence[str]) -> pa.Array:
    """The same of a committed file whose content was read already."""
    return identity(_rows(lambda: pa.BufferReader(content), path, key), key)


def _rows(opened: Callable[[], pa.NativeFile], path: str, columns: Sequence[str] | None) -> pa.Table:
    try:
        with opened() as file:
            parquet = pq.ParquetFile(file)  # pq.read_table makes a dataset of each file first
            if columns is None:
                return parquet.read(use_threads=False)
            return parquet.read(list(columns), use_threads=False).select(list(columns))  # what is not there is a KeyError then
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CommitBroken(
            f"{path} cannot be read ({reason}): remove it and run again, then the chunk is scored again."
        ) from error


def predictions_table(kept: pa.Table, records: Records, version: str, day: str) -> pa.Table:
    """The rows of a predictions file: what is kept of each, its record, and in each row the model version and the partition.

    `kept` are the columns of the key, the item, and what is carried.
    """
    constant = as_arrow(np.zeros(len(kept), dtype=np.int8))
    return pa.table(
        {
            **dict(zip(kept.column_names, kept.columns, strict=True)),
            **records.columns(),
            "model_version": as_dictionary(constant, [version]),
            "partition": as_dictionary(constant, [day]),
        }
    )


def as_parquet(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a Parquet file: LZ4, dictionaries only where the table has them."""
    sink = pa.BufferOutputStream()
    dictionaries = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(table, sink, compression="lz4", use_dictionary=dictionaries, write_statistics=False)
    return sink.getvalue()
