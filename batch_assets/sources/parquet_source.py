"""`kind: parquet`: a table of Parquet files that holds a day's features as they are, one row for each key; no SQL to write."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field
from typing_extensions import override

from batch_assets.features.provenance import sha256_of
from batch_assets.sources.closed import bytes_of, folded, quoted, quoted_name
from batch_assets.sources.hive import files_of_day
from batch_assets.sources.lineage import Lineage, same_columns
from batch_assets.sources.listing import TableSettings
from batch_assets.sources.session import Query, ordered_rows
from batch_assets.sources.source import Read, Source

TABLE = "rows"
"""What the one table is called."""


class ParquetSource(Source):
    """A table of Parquet files, of which the rows of the partition's day are taken.

    It is called `rows` in messages and in `quality.sources.not_daily`, and its `day` is what the check calls its event_date.

    Example:
        Folders like features/day=2026-01-31/, written every night::

            source: {kind: parquet, path: /data/features, hive: true, day: day}
    """

    kind: Literal["parquet"] = "parquet"
    path: str = Field(
        description="A Parquet file, a folder of them, or a glob of files with * ? [ ] and **; s3://bucket/… too.", min_length=1
    )
    day: str | None = Field(
        None,
        description="The column of dates or time stamps that says to which day a row belongs; of a table that is written anew "
        "every day there is none, and every row counts.",
    )
    hive: bool = Field(False, description="Whether folders like day=2026-01-01 are columns.")
    columns: tuple[str, ...] = Field((), description="What is read, keys included, in this order; all but `day` by default.")
    optional: tuple[str, ...] = Field((), description="Columns that some files may lack; they are null there.")
    memory_limit: str = Field("4GB", description="What may be used before rows are sorted on disk.")

    @override
    def table_names(self) -> tuple[str, ...]:
        return (TABLE,)

    @override
    def held(self) -> int | None:
        return bytes_of(self.memory_limit)

    @override
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> AbstractContextManager[Read]:
        of_day = f"{{}}::DATE = {quoted(date.fromisoformat(day).isoformat())}::DATE"
        query = Query(
            named=self.path,
            text=self._select(of_day),
            tables={TABLE: TableSettings(path=self.path, hive=self.hive, event_date=self.day, optional=self.optional)},
            memory_limit=self.memory_limit,
            settings_sha256=sha256_of(self.model_dump_json()),
            only={folded(self.day): of_day} if self.day else {},
            chosen=lambda files: files_of_day(files, self.day, day) if self.hive and self.day else tuple(files),
        )
        return ordered_rows(query, day, keys, spill, timezone)

    @override
    def lineage(self, columns: Collection[str], tables: Collection[str]) -> Lineage:
        return same_columns(TABLE, columns) if TABLE in tables else {}

    def _select(self, of_day: str) -> str:
        columns = ", ".join(map(quoted_name, self.columns)) or "*"
        if self.day is None:
            return f"SELECT {columns} FROM {TABLE}"
        if not self.columns:
            columns = f"* EXCLUDE ({quoted_name(self.day)})"
        return f"SELECT {columns} FROM {TABLE} WHERE {of_day.format(quoted_name(self.day))}"
