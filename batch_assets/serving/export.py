"""An export: a day's predictions as Parquet, a folder for each shard, for consumers who take whole shards.

    <pipeline>/exports/<release>/user_shard=00017/predictions.parquet

A row is in the shard that is the bucket of its key (`serving.buckets`), of as many buckets as there are shards. Each file is
written once, from its first row to its last, in order of the keys; one without rows is there, too. It has the columns of the
predictions files, and when the day was over.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.arrow import as_arrow
from batch_assets.digest import Digest, keyed_digest
from batch_assets.errors import AlreadyExists, ReleaseBroken
from batch_assets.features.contract import FeatureContract
from batch_assets.features.forgotten import Forgotten
from batch_assets.features.keys import identity, in_order
from batch_assets.runs.commit import read_committed
from batch_assets.runs.manifest import Manifest
from batch_assets.serving.buckets import buckets_of, parted
from batch_assets.serving.release import release_name
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

EVENT_TIMESTAMP = "event_timestamp"
"""The column that says when the day was over: what rows tell is known from then on."""

_FILE, _MOMENT = "predictions.parquet", pa.timestamp("us", "UTC")


class ExportSettings(BaseModel):
    """Into which folders a published day is written as Parquet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field("user_shard", description="What a folder is called: user_shard=00017.", pattern=r"^[a-z][a-z0-9_]*$")
    shards: int = Field(description="How many there are; one is in memory at once.", ge=1, le=100_000)

    def folder(self, shard: int) -> str:
        """What a shard's folder is called."""
        return f"{self.by}={shard:05d}"


def export_folder(pipeline: str, name: str) -> str:
    """Where the export of a release lies."""
    return f"{pipeline}/exports/{name}"


def is_exported(storage: Storage, settings: ExportSettings, pipeline: str, name: str) -> bool:
    """Whether a release is exported, in these shards."""
    there = {one for one in storage.names(export_folder(pipeline, name)) if one.startswith(f"{settings.by}=")}
    return there == {settings.folder(shard) for shard in range(settings.shards)}


def exports_of(storage: Storage, pipeline: str) -> list[str]:
    """The names of the releases that are exported."""
    return sorted(storage.names(f"{pipeline}/exports"))


def export(
    storage: Storage,
    settings: ExportSettings,
    manifest: Manifest,
    contract: FeatureContract,
    left_out: Forgotten | None,
    over: datetime,
) -> str:
    """Write a run's predictions, read them back, and put all of them in their place at once; returns the folder.

    What is there already is left as it is; what is there in other shards is replaced.

    Args:
        storage: the storage root.
        settings: which shards there are.
        manifest: the run.
        contract: says whom a row is about.
        left_out: whose rows are left out.
        over: when the day was over.

    Raises:
        ReleaseBroken: what was read back is not what the manifest says; nothing is put in its place then.
        CommitBroken: a predictions file cannot be read.
        StorageFull: there is no room for it.
    """
    name = release_name(manifest)
    folder = export_folder(manifest.pipeline, name)
    if is_exported(storage, settings, manifest.pipeline, name):
        return folder
    with storage.scratch() as scratch:
        new = scratch / "export"
        new.mkdir()
        key = contract.identity
        tables = _tables(storage, manifest, contract, left_out, over)
        _write(storage, settings, tables, key, manifest.released.count, new)
        _require_equal(settings, manifest, key, new)
        if storage.names(folder):
            storage.discard(folder)
        with suppress(AlreadyExists):  # another process exported the same in the same moment
            storage.adopt(new, folder)
    return folder


def _write(
    storage: Storage, settings: ExportSettings, tables: Iterator[pa.Table], key: Sequence[str], rows: int, new: Path
) -> None:
    """Write every shard into a new folder, one after the other."""
    first = next(tables)
    written = [field.name for field in first.schema if pa.types.is_dictionary(field.type)]
    for part in parted(storage, first.schema, key, chain([first], tables), rows, settings.shards):
        table = part.table.take(pa.array(part.order))
        for number, (start, end) in enumerate(pairwise(part.starts)):
            place = new / settings.folder(part.first + number)
            place.mkdir()
            shard = table.slice(start, end - start)
            pq.write_table(shard, place / _FILE, use_dictionary=written, write_page_checksum=True)


def _tables(
    storage: Storage, manifest: Manifest, contract: FeatureContract, left_out: Forgotten | None, over: datetime
) -> Iterator[pa.Table]:
    """The rows of each chunk, and when the day was over."""
    for table in whole_rows(storage, manifest, contract, left_out):
        moment = pa.repeat(pa.scalar(over, _MOMENT), len(table))
        yield table.append_column(EVENT_TIMESTAMP, moment).replace_schema_metadata(None)


def whole_rows(
    storage: Storage, manifest: Manifest, contract: FeatureContract, left_out: Forgotten | None
) -> Iterator[pa.Table]:
    """The rows of each chunk with all their columns, but for those that are left out, in order of their keys.

    Rows that were dead letters before are among them.
    """
    for chunk, replays in manifest.by_chunk():
        tables = [read_committed(storage, f"{manifest.folder}/{file.name}") for file in (chunk, *replays)]
        table = in_order(pa.concat_tables(tables, promote_options="permissive"), contract.identity) if replays else tables[0]
        yield table.filter(as_arrow(~left_out.rows(table, contract.key_names))) if left_out is not None else table


def _require_equal(settings: ExportSettings, manifest: Manifest, key: Sequence[str], folder: Path) -> None:
    """Read every shard back. Raises ReleaseBroken if together they are not what the manifest says, or a key is elsewhere."""
    columns = [*key, *manifest.record.names]

    def digest(shard: int) -> Digest:
        file = folder / settings.folder(shard) / _FILE
        with pq.ParquetFile(file, page_checksum_verification=True) as written:
            table = written.read(columns)
        keys = identity(table, key)
        if np.any(buckets_of(keys, settings.shards) != shard):
            raise ReleaseBroken(
                f"The export of {release_name(manifest)} has a key in another shard than its own: publish again."
            )
        return keyed_digest(keys, manifest.record.from_table(table).flat())

    found = sum(in_threads(digest, range(settings.shards)), start=Digest())
    if found != manifest.released:
        raise ReleaseBroken(
            f"The export of {release_name(manifest)} holds {found.count:,} records with digest {found.hex()}, its manifest "
            f"says {manifest.released.count:,} with {manifest.released.hex()}: publish again."
        )
