"""What a run publishes: its release in each store, and its export; both without the rows of who was forgotten."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date
from functools import partial

import pyarrow as pa

from batch_assets.arrow import as_arrow, as_numpy
from batch_assets.clock import end_of
from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest, keyed_digest
from batch_assets.errors import BatchAssetsError, CommitBroken, ReleaseBroken, ServingError, StoreUnavailable
from batch_assets.features.contract import FeatureContract
from batch_assets.features.forgotten import Forgotten
from batch_assets.features.keys import identity, in_order
from batch_assets.nightly.progress import Progress
from batch_assets.runs.commit import read_committed
from batch_assets.runs.manifest import Manifest, ManifestFile
from batch_assets.serving.build import Content, build_release
from batch_assets.serving.export import export, export_folder
from batch_assets.serving.items import Rows, best_items, record_of
from batch_assets.serving.release import in_stores, release_name
from batch_assets.serving.retention import remove
from batch_assets.serving.store import Batch, Release, Store
from batch_assets.storage import Storage
from batch_assets.threads import in_threads


def build(
    config: PipelineConfig,
    storage: Storage,
    manifest: Manifest,
    left_out: Forgotten | None,
    stores: Iterable[Store],
    progress: Progress,
) -> tuple[list[Release], dict[str, str]]:
    """A run's release in each of some stores that could build it, and why each of the others could not.

    Args:
        config: the pipeline.
        storage: its root.
        manifest: the run.
        left_out: whose rows it leaves out.
        stores: where the release is built, read back and described.
        progress: is told how far it is.

    Raises:
        ReleaseBroken, StoreUnavailable: no store could.
        CommitBroken: a predictions file does not hold the values that the manifest says.
    """
    built, failed = list[Release](), dict[str, ServingError]()
    batches = partial(_batches, config, storage, manifest, left_out, progress)
    content = content_of(config, storage, manifest, left_out)
    for store in stores:
        try:
            built.append(build_release(storage, store, manifest, content, batches))
        except (ReleaseBroken, StoreUnavailable) as error:
            failed[store.called] = error
            progress.say(f"{store.called} lags: {error}")
    if not built:
        raise next(iter(failed.values()))
    return built, {name: str(error) for name, error in failed.items()}


def remove_releases(storage: Storage, pipeline: str, names: Collection[str], progress: Progress) -> None:
    """Take releases out of every store, and their exports away.

    One that a store cannot drop now is not described any more, and pruned later.
    """
    for name in names:
        if storage.names(export_folder(pipeline, name)):
            storage.discard(export_folder(pipeline, name))
    for release in [one for name in names for one in in_stores(storage, pipeline, name)]:
        try:
            remove(storage, release)
        except StoreUnavailable as error:
            progress.say(f"{release.name} stays in {release.store.called} for now, `batch-assets prune` removes it: {error}")


def export_day(
    config: PipelineConfig, storage: Storage, manifest: Manifest, left_out: Forgotten | None, progress: Progress
) -> str:
    """Export what a run's release has, if the pipeline wants that. It blocks nothing: says why it could not be, or nothing."""
    if config.export is None:
        return ""
    over = end_of(date.fromisoformat(manifest.partition), config.partitions.timezone)
    try:
        export(storage, config.export, manifest, config.features.contract, left_out, over)
    except BatchAssetsError as error:
        progress.say(f"{release_name(manifest)} is published and not exported: {error}")
        return str(error)
    return ""


def content_of(
    config: PipelineConfig, storage: Storage, manifest: Manifest, left_out: Forgotten | None, progress: Progress | None = None
) -> Content:
    """What a run's releases hold: its scored rows but for those that are left out or, of items, the best of each key.

    Of rows the manifest knows the digest; of items it is that of what is made of the predictions files, each of which is
    compared with the manifest meanwhile. Raises CommitBroken.
    """
    contract = config.features.contract
    if contract.item is None:
        return Content(contract.key, manifest.record, manifest.released)
    batches = _batches(config, storage, manifest, left_out, progress)
    values = sum((keyed_digest(keys, records.flat()) for keys, records in batches), start=Digest())
    return Content(contract.key, record_of(contract.item, manifest.record, config.items.best), values)


def _batches(
    config: PipelineConfig, storage: Storage, manifest: Manifest, left_out: Forgotten | None, progress: Progress | None
) -> Iterator[Batch]:
    """The records of a release in ascending order of their keys, from files that were compared with the manifest."""
    contract = config.features.contract
    tables = _tables(contract, storage, manifest, left_out, progress)
    if contract.item is None:
        for table in tables:
            yield identity(table, contract.identity), manifest.record.from_table(table)
        return
    pieces = (
        Rows(
            identity(table, contract.key_names),
            as_numpy(table.column(contract.item.name)),
            manifest.record.from_table(table).score,
        )
        for table in tables
    )
    yield from best_items(pieces, record_of(contract.item, manifest.record, config.items.best))


def _tables(
    contract: FeatureContract, storage: Storage, manifest: Manifest, left_out: Forgotten | None, progress: Progress | None
) -> Iterator[pa.Table]:
    """The predictions of each chunk, after their digest was compared with the manifest's, but for those that are left out."""

    def read(files: tuple[ManifestFile, list[ManifestFile]]) -> pa.Table:
        chunk, replays = files
        tables = [_intact(storage, manifest, file, key) for file in (chunk, *replays)]
        table = in_order(pa.concat_tables(tables, promote_options="permissive"), key) if replays else tables[0]
        return table.filter(as_arrow(~left_out.rows(table, contract.key_names))) if left_out else table

    key, done = contract.identity, 0
    for table in in_threads(read, manifest.by_chunk()):
        yield table
        done += len(table)
        if progress is not None:
            progress.at("publishing", done, manifest.released.count)


def _intact(storage: Storage, manifest: Manifest, file: ManifestFile, key: Sequence[str]) -> pa.Table:
    record = manifest.record
    table = read_committed(storage, f"{manifest.folder}/{file.name}", [*key, *record.names])
    if keyed_digest(identity(table, key), record.from_table(table).flat()) != file.values:
        raise CommitBroken(
            f"{manifest.folder}/{file.name} holds other values than its manifest says: remove it and run again, "
            "then the chunk is scored again."
        )
    return table
