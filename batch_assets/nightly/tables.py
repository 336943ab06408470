"""Let the pipeline's tables have of a day what is accepted of it: its rows, those of another run now, or none any more.

A day that a table could not be given is remembered under the root until it has it: the next publication tries again.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial

import pyarrow as pa

from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest, keyed_digest
from batch_assets.errors import AlreadyExists, MissingExtra, TableError
from batch_assets.features.forgotten import Forgotten
from batch_assets.features.keys import identity
from batch_assets.features.snapshot import days_of
from batch_assets.nightly.accepted import TakenBack, accepted_log, accepted_run
from batch_assets.nightly.left_out import without_forgotten
from batch_assets.runs.manifest import Manifest, read_manifest
from batch_assets.serving.export import whole_rows
from batch_assets.serving.release import release_name
from batch_assets.storage import Storage
from batch_assets.tables.table import PARTITION, PIPELINE, RELEASE, Day, Rows, Table

_ONLY_THERE = ".there"


@dataclass(frozen=True)
class _Wanted:
    """What the tables of a pipeline are to have of a day: nothing if no run is accepted, or it has no rows."""

    release: str | None = None
    run: tuple[Manifest, Forgotten | None] | None = None


def follow(
    config: PipelineConfig, storage: Storage, day: str, withdrawn: Collection[int], *, only_there: bool = False
) -> dict[str, str]:
    """Let the tables have of a day what is accepted of it now; says which have not, and why, and remembers the day then.

    A table that has it already is left as it is, and so is a day of which the accepted run is not kept any more.

    Args:
        config: the pipeline.
        storage: its root.
        day: the partition.
        withdrawn: the approvals that were withdrawn.
        only_there: leave tables alone that have nothing of the day.

    Raises:
        CommitBroken: a predictions file cannot be read.
    """
    lagging = _follow(config, storage, day, withdrawn, config.tables, only_there=only_there)
    if not config.tables:
        return lagging
    owed = f"{_owed_folder(config)}/{day}{_ONLY_THERE if only_there else ''}"
    if lagging:
        with suppress(AlreadyExists):
            storage.create(owed, b"")
    else:
        storage.delete(owed)
    return lagging


def follow_required(config: PipelineConfig, storage: Storage, day: str, withdrawn: Collection[int]) -> dict[str, str]:
    """The same for the tables alone that are required, of which nothing is remembered: nothing goes live without them."""
    return _follow(config, storage, day, withdrawn, [table for table in config.tables if table.required], only_there=False)


def follow_again(config: PipelineConfig, storage: Storage, withdrawn: Collection[int]) -> dict[str, str]:
    """The same of days that a table could not be given, and of those that a person went back from, where one still has them."""
    lagging = dict[str, str]()
    for day in days_of(storage, config.name) if config.tables else ():
        latest = accepted_log(storage, config.name, day).latest()
        if latest is not None and isinstance(latest.body.root, TakenBack):
            lagging |= follow(config, storage, day, withdrawn, only_there=True)
    for day, only_there in owed_days(config, storage):
        lagging |= follow(config, storage, day, withdrawn, only_there=only_there)
    return lagging


def owed_days(config: PipelineConfig, storage: Storage) -> list[tuple[str, bool]]:
    """The days that some table could not be given, ascending; and of each whether only tables that have it are meant."""
    names = sorted(storage.names(_owed_folder(config))) if config.tables else []
    return [(name.removesuffix(_ONLY_THERE), name.endswith(_ONLY_THERE)) for name in names if name != "_tmp"]


def unreachable(config: PipelineConfig) -> dict[str, str]:
    """The tables that cannot be asked now, and why."""
    found = dict[str, str]()
    for table in config.tables:
        try:
            table.release(_day(config, str(config.partitions.start)))
        except (TableError, MissingExtra) as error:
            found[table.called] = str(error)
    return found


def lagging_tables(config: PipelineConfig, storage: Storage, day: str, withdrawn: Collection[int]) -> dict[str, str]:
    """The pipeline's tables that have not what is accepted of a day, and why; nothing is written."""
    found, wanted = dict[str, str](), _wanted(config, storage, day, withdrawn) if config.tables else None
    if wanted is None:
        return found
    for table in config.tables:
        try:
            there = table.release(_day(config, day))
        except (TableError, MissingExtra) as error:
            found[table.called] = str(error)
            continue
        if there != wanted.release:
            found[table.called] = f"It has {there or 'nothing'} of {day}, and {wanted.release or 'nothing'} is accepted."
    return found


def _follow(
    config: PipelineConfig,
    storage: Storage,
    day: str,
    withdrawn: Collection[int],
    tables: Collection[Table],
    *,
    only_there: bool,
) -> dict[str, str]:
    lagging = dict[str, str]()
    wanted = _wanted(config, storage, day, withdrawn) if tables else None
    if wanted is None:
        return lagging
    for table in tables:
        try:
            _let_have(config, storage, day, table, wanted, only_there=only_there)
        except (TableError, MissingExtra) as error:
            lagging[table.called] = str(error)
    return lagging


def _owed_folder(config: PipelineConfig) -> str:
    return f"{config.name}/tables/owed"


def _let_have(config: PipelineConfig, storage: Storage, day: str, table: Table, wanted: _Wanted, *, only_there: bool) -> None:
    there = table.release(_day(config, day))
    if there == wanted.release or (there is None and only_there):
        return
    if wanted.release is None or wanted.run is None:
        table.withdraw(_day(config, day))
    else:
        table.replace(_rows(config, storage, day, *wanted.run))


def _wanted(config: PipelineConfig, storage: Storage, day: str, withdrawn: Collection[int]) -> _Wanted | None:
    """None if nobody can say: a run was accepted and pruned since, and tables keep days for longer than a root does."""
    accepted = accepted_run(storage, config.name, day, withdrawn)
    if accepted is None:
        return _Wanted()
    manifest = read_manifest(storage, accepted.folder)
    if manifest is None:
        return None
    run = without_forgotten(storage, config, manifest)
    return _Wanted(release_name(run[0]) if run[0].released.count else None, run)


def _rows(config: PipelineConfig, storage: Storage, day: str, manifest: Manifest, left_out: Forgotten | None) -> Rows:
    contract, release = config.features.contract, release_name(manifest)

    def tables() -> Iterator[pa.Table]:
        for table in whole_rows(storage, manifest, contract, left_out):
            yield _plain(table, config.name, date.fromisoformat(day), release)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in tables():
            yield from table.to_batches()

    schema = next(tables()).schema
    check = partial(_require_equal, config, manifest, schema)
    return Rows(_day(config, day), release, manifest.released.count, schema, batches, check)


def _plain(table: pa.Table, pipeline: str, day: date, release: str) -> pa.Table:
    """Rows as every table takes them: no dictionaries, lists of any length, and whose they are."""
    said = {PIPELINE: pa.scalar(pipeline), PARTITION: pa.scalar(day, pa.date32()), RELEASE: pa.scalar(release)}
    columns = {name: column for name, column in zip(table.column_names, table.columns, strict=True) if name not in said}
    columns |= {name: pa.chunked_array([pa.repeat(value, len(table))]) for name, value in said.items()}
    plain = {name: column.cast(_plain_type(column.type)) for name, column in columns.items()}
    return pa.table(plain).replace_schema_metadata(None).combine_chunks()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


def _require_equal(config: PipelineConfig, manifest: Manifest, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Raises TableError."""
    found, key = Digest(), config.features.contract.identity
    for batch in batches:
        table = pa.table(batch).select(schema.names).cast(schema)
        found = found + keyed_digest(identity(table, key), manifest.record.from_table(table).flat())
    if found != manifest.released:
        raise TableError(
            f"What was written of {release_name(manifest)} is {found.count:,} rows with digest {found.hex()}, and its manifest "
            f"says {manifest.released.count:,} with {manifest.released.hex()}: publish the day again."
        )


def _day(config: PipelineConfig, day: str) -> Day:
    return Day(config.name, date.fromisoformat(day))
