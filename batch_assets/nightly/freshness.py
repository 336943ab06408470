"""What a night's sources say of themselves beside the good days before: rows of the day by table, and how many rows changed."""

from collections.abc import Iterable
from dataclasses import dataclass

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.features.provenance import Provenance, read_provenance
from batch_assets.features.snapshot import read_snapshot, snapshot_folder
from batch_assets.nightly.changed_rows import changed_rows
from batch_assets.nightly.freeze import Frozen
from batch_assets.nightly.verdict import Verdict
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.quality.sources import SOURCES, ChangedRows, TableRows, judge_sources
from batch_assets.storage import Storage


@dataclass(frozen=True)
class GoodLoad:
    """An earlier day whose features are good, its snapshot, and the tables of which somebody overrode that they were not."""

    day: str
    digest: str
    without: tuple[str, ...]


@dataclass(frozen=True)
class Loads:
    """What a night was read from, and the good days before that it is compared with, newest first."""

    tonight: Provenance
    before: tuple[GoodLoad, ...]

    @property
    def basis(self) -> str:
        """All of it as text."""
        return f"{self.tonight.model_dump_json()} {self.before}"


def loads_of(frozen: Frozen, judged: Iterable[tuple[str, str, Verdict]]) -> Loads:
    """The loads of a snapshot and of the days before, which are given newest first with digest and verdict.

    Raises:
        SnapshotChanged: nothing is kept of what the snapshot was read from.
    """
    before = tuple(
        GoodLoad(day, digest, tuple(sorted(finding.subject for check, finding in verdict.overridden if check == SOURCES)))
        for day, digest, verdict in judged
        if verdict.good and verdict.is_yardstick
    )
    return Loads(read_provenance(frozen.storage, frozen.folder), before)


def judge_loads(
    config: PipelineConfig, storage: Storage, frozen: Frozen, day: str, loads: Loads, *, same_columns: bool
) -> CheckOutcome:
    """`sources`; rows are compared where a snapshot has the columns of the contract."""
    return judge_sources(
        day,
        _table_rows(config, storage, loads),
        _changed(config, storage, frozen, loads) if same_columns else None,
        config.quality.sources,
        allow_unchanged=config.quality.changes.allow_unchanged,
    )


def _table_rows(config: PipelineConfig, storage: Storage, loads: Loads) -> list[TableRows]:
    """Every table's rows of the day, and those of days before on which they were counted by the same column."""
    counted: dict[tuple[str, str | None], dict[str, int]] = {}
    for load in loads.before:
        try:
            tables = read_provenance(storage, snapshot_folder(config.name, load.day, load.digest)).tables
        except SnapshotChanged:
            continue  # it was pruned
        for table in tables:
            if table.rows_of_day is not None and table.name not in load.without:
                counted.setdefault((table.name, table.event_date), {})[load.day] = table.rows_of_day
    return [
        TableRows(
            name=table.name,
            event_date=table.event_date or "",
            newest=table.newest_until_day,
            rows=table.rows_of_day or 0,
            before=counted.get((table.name, table.event_date), {}),
            all_rows=table.rows,
            unreadable=table.unreadable,
        )
        for table in loads.tonight.tables
    ]


def _changed(config: PipelineConfig, storage: Storage, frozen: Frozen, loads: Loads) -> ChangedRows | None:
    """How many rows are otherwise than on the newest good day; None if nobody can say.

    Of the days before that one it is only asked whether their features are these, to the last byte.
    """
    same = [load for load in loads.before if load.digest == frozen.snapshot.digest]
    other = next(iter(same or loads.before), None)
    if other is None:
        return None
    folder, names = snapshot_folder(config.name, other.day, other.digest), config.features.contract.names
    try:
        before = Frozen(read_snapshot(storage, folder, other.digest), storage, folder, reused=True, seconds={})
        return changed_rows(frozen, before, other.day, names)
    except (NotFound, SnapshotChanged):
        return None  # it was pruned or damaged: it says nothing about this one
