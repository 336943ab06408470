"""What a night's sources say of themselves beside the good days before: rows of the day by table, and how many rows changed."""

from collections.abc import Mapping

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.features.provenance import Provenance, read_provenance
from batch_assets.pipeline.changed_rows import changed_rows
from batch_assets.pipeline.freeze import Frozen
from batch_assets.quality.sources import ChangedRows, TableRows
from batch_assets.snapshot import read_snapshot, snapshot_folder
from batch_assets.storage import Storage


def table_rows(
    config: PipelineConfig, storage: Storage, provenance: Provenance, before: Mapping[str, str]
) -> tuple[TableRows, ...]:
    """Every table's rows of the day, and those that it had on days before, given as partition -> digest.

    A day whose table was counted by another column, or not at all, says nothing of it.
    """
    counted: dict[tuple[str, str | None], dict[str, int]] = {}
    for day, digest in sorted(before.items()):
        try:
            tables = read_provenance(storage, snapshot_folder(config.name, day, digest)).tables
        except SnapshotChanged:
            continue  # it was pruned
        for table in tables:
            if table.rows_of_day is not None:
                counted.setdefault((table.name, table.event_date), {})[day] = table.rows_of_day
    return tuple(
        TableRows(
            name=table.name,
            event_date=table.event_date or "",
            newest=table.newest_until_day,
            rows=table.rows_of_day or 0,
            before=counted.get((table.name, table.event_date), {}),
        )
        for table in provenance.tables
    )


def compared_with_before(
    config: PipelineConfig, storage: Storage, frozen: Frozen, before: Mapping[str, str]
) -> ChangedRows | None:
    """How many rows are otherwise than on the newest of some days, given as partition -> digest; None if nobody can say.

    Of the other days it is only asked whether their features are these, to the last byte.
    """
    same = [day for day, digest in before.items() if digest == frozen.snapshot.digest]
    newest = max(same or before, default=None)
    if newest is None:
        return None
    folder = snapshot_folder(config.name, newest, before[newest])
    names = config.features.contract.names
    try:
        other = read_snapshot(storage, folder, before[newest])
        return changed_rows(storage, frozen.folder, frozen.snapshot, folder, other, newest, names)
    except (NotFound, SnapshotChanged):
        return None  # it was pruned or damaged: it says nothing about this one
