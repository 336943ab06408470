"""`kind: iceberg`: one snapshot of an Iceberg table that holds a day's features as they are, one row for each key."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceFile
from batch_assets.ports import extra
from batch_assets.secret import Secret
from batch_assets.sources.days import DayColumn, FileDays, Span
from batch_assets.sources.iceberg_catalog import FoundTable, accepted_properties, explained, table_of_catalog, table_of_metadata
from batch_assets.sources.lake import LakeFile, LakeSource, accepted_place, damage_among, files_of
from batch_assets.sources.streamed import Streamed

if TYPE_CHECKING:
    import pyarrow as pa

_TOGETHER = 64 << 20
"""Bytes of data files that are read, and are in memory, at once; a larger file is alone."""


class IcebergSource(LakeSource):
    """An Iceberg table, of which the rows of the partition's day are taken from one snapshot.

    Files of other days are not read, deleted rows do not come, and what is written after the snapshot was chosen never shows.
    The table is called `rows` in messages and in `quality.sources.not_daily`, and its `day` is what the check calls its
    event_date.

    Example:
        A table of a REST catalog; the token is in an environment variable::

            source:
              kind: iceberg
              catalog: {type: rest, uri: https://catalog.example.com, token: {env: CATALOG_TOKEN}}
              table: shop.features
              day: day
    """

    kind: Literal["iceberg"] = "iceberg"
    catalog: Annotated[dict[str, str | Secret], AfterValidator(accepted_properties)] = Field(
        default_factory=dict,
        description="Properties of the catalog as pyiceberg has them, its `name` among them; secrets are {env: NAME}.",
    )
    table: str | None = Field(None, description="The table in the catalog, like db.features.")
    metadata: Annotated[str, AfterValidator(accepted_place)] | None = Field(
        None,
        description="Instead of a catalog: an absolute path or s3:// URI of a .metadata.json, or of the folder of a table of a "
        "hadoop catalog, whose newest metadata are taken.",
    )
    snapshot: int | None = Field(None, description="The id of the snapshot that is read; by default the current one.")

    @model_validator(mode="after")
    def _said_once(self) -> "IcebergSource":
        if (self.metadata is None) != bool(self.catalog) or (self.table is None) == bool(self.catalog):
            raise ValueError("say either metadata, or catalog and table")
        return self

    @override
    @contextmanager
    def streamed(self, day: str, spill: Path, timezone: str) -> Iterator[Streamed]:
        extra("pyiceberg", "iceberg", "The source iceberg")
        with table_of_metadata(self.metadata) if self.metadata else table_of_catalog(self.catalog, self.table or "") as found:
            snapshot = _Snapshot.of(found, self.snapshot)
            yield self.rows_of(snapshot, found.table.location(), day, timezone)


@dataclass(frozen=True)
class _Snapshot:
    """One snapshot of an Iceberg table: pyiceberg's `table`, whose metadata are read, and what no message may say."""

    table: Any
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, found: FoundTable, number: int | None) -> "_Snapshot":
        """A snapshot by its id, else the current one. Raises SourceError if it is not there."""
        table = found.table
        if number is not None:
            snapshot = table.snapshot_by_id(number)
            if snapshot is None:
                raise SourceError(f"The Iceberg table {table.location()} has no snapshot {number}; read one that is there.")
            as_it_was = {"current_snapshot_id": number}
            if snapshot.schema_id is not None:
                as_it_was["current_schema_id"] = snapshot.schema_id  # else a condition would be about today's columns
            table.metadata = table.metadata.model_copy(update=as_it_was)
        return cls(table, found.secrets)

    @property
    def named(self) -> str:
        return f"The Iceberg table {self.table.location()} ({self.pinned})"

    @property
    def pinned(self) -> str:
        current = self.table.current_snapshot()
        return f"snapshot {current.snapshot_id}" if current else "no snapshot"

    @cached_property
    def schema(self) -> "pa.Schema":
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        with self._explained():
            return schema_to_pyarrow(self._scan(("*",)).projection(), include_field_ids=False)

    @property
    def rows(self) -> int:
        if not self._with_deletes:
            return sum(task.file.record_count for task in self._tasks)
        with self._reading(None, None):
            return int(self._scan(self.schema.names[:1]).count())

    @property
    def told(self) -> tuple[str, ...]:
        found = len(self._with_deletes)
        return (f"{found:,} of its data files have rows that are deleted",) if found else ()

    def files(self, column: DayColumn | None) -> list[LakeFile]:
        days = self._days(column) if column else [FileDays()] * len(self._tasks)
        listed = [
            SourceFile(path=file.file_path, size=file.file_size_in_bytes, rows=file.record_count, stamp="")  # of its own name
            for file in (task.file for task in self._tasks)
        ]
        return [LakeFile(*one) for one in zip(listed, days, strict=True)]

    def read(self, names: Sequence[str], column: DayColumn | None = None, span: Span | None = None) -> "pa.RecordBatchReader":
        import pyarrow as pa
        from pyiceberg.io.pyarrow import ArrowScan

        scan = self._scan(names, column, span)
        schema = pa.schema([self.schema.field(name) for name in names])

        def batches() -> "Iterator[pa.RecordBatch]":
            with self._reading(column, span):
                rows = ArrowScan(self.table.metadata, self.table.io, scan.projection(), scan.row_filter)
                for tasks in _together(scan.plan_files()):
                    for batch in rows.to_record_batches(tasks):
                        yield batch.select(names).cast(schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def _scan(self, names: Sequence[str], column: DayColumn | None = None, span: Span | None = None) -> Any:
        expressions = extra("pyiceberg.expressions", "iceberg", "The source iceberg")
        bounds = column.bounds(span) if column and span else (None, None)
        condition = expressions.AlwaysTrue()
        for meets, value in zip((expressions.GreaterThanOrEqual, expressions.LessThan), bounds, strict=True):
            if column and value:
                condition = expressions.And(condition, meets(column.name, value))
        return self.table.scan(condition, selected_fields=tuple(names))

    @cached_property
    def _tasks(self) -> list[Any]:
        """Each data file of the snapshot, with what is deleted of it."""
        with self._explained():
            return list(self._scan(("*",)).plan_files())

    @cached_property
    def _with_deletes(self) -> list[Any]:
        return [task for task in self._tasks if task.delete_files]

    def _days(self, column: DayColumn) -> list[FileDays]:
        import pyarrow as pa
        from pyiceberg.conversions import from_bytes

        field = self._scan(("*",)).projection().find_field(column.name)

        def ends(bounds: str) -> list[Any]:
            said = [(getattr(task.file, bounds) or {}).get(field.field_id) for task in self._tasks]
            values = [None if value is None else from_bytes(field.field_type, value) for value in said]
            return list(column.days(pa.array(values, column.type)).to_pylist())

        def nulls(file: Any) -> int | None:
            said = (file.null_value_counts or {}).get(field.field_id)
            return None if said is None else int(said)

        said = zip(self._tasks, ends("lower_bounds"), ends("upper_bounds"), strict=True)
        return [
            FileDays.told(task.file.record_count, nulls(task.file), first, last, None if task.delete_files else 0)
            for task, first, last in said
        ]

    @contextmanager
    def _reading(self, column: DayColumn | None, span: Span | None) -> Iterator[None]:
        """What is raised while rows of a span of days are read becomes a sentence about the file that is the cause."""

        def sentence(reason: str) -> str:
            deletes = {file.file_path for task in self._with_deletes for file in task.delete_files}
            damage = damage_among([*files_of(self, column, span), *sorted(deletes)], self._opened)
            return f"{self.named}: {damage or f'it cannot be read: {reason}'}."

        with explained(sentence, self.secrets):
            yield

    def _explained(self) -> AbstractContextManager[None]:
        """What is raised while metadata are read becomes a sentence."""
        return explained(lambda reason: f"{self.named}: its metadata cannot be read: {reason}.", self.secrets)

    def _opened(self, path: str) -> Any:
        return self.table.io.new_input(path).open()


def _together(tasks: Iterable[Any]) -> Iterator[list[Any]]:
    """Files that are read at once: so many that they have the bytes of `_TOGETHER`, at least one."""
    group, size = list[Any](), 0
    for task in tasks:
        if group and size + task.file.file_size_in_bytes > _TOGETHER:
            yield group
            group, size = [], 0
        group.append(task)
        size += task.file.file_size_in_bytes
    if group:
        yield group
