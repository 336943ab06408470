"""Our sources do what every source does: all that they add is how rows are put in place."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.sources.source import Source
from batch_assets_tests.sources.file_source_behaviour import FileSourceBehaviour


def written(folder: Path, parts: Sequence[pa.Table]) -> None:
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet", write_page_checksum=True)


class TestDuckdb(FileSourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        written(folder, parts)
        query = folder.with_suffix(".sql")
        query.write_text("SELECT * EXCLUDE (day) FROM t WHERE day = $partition")
        return DuckdbSource(query=str(query), tables={"t": {"path": str(folder), "event_date": "day"}})


class TestParquet(FileSourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        written(folder, parts)
        return ParquetSource(path=str(folder), day="day")


class TestParquetInFolders(FileSourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        for number, part in enumerate(parts):
            for day in part["day"].unique().to_pylist():
                rows = part.filter(pa.compute.equal(part["day"], pa.scalar(day))).drop_columns(["day"])
                (folder / f"day={day}").mkdir(exist_ok=True)
                pq.write_table(rows, folder / f"day={day}" / f"{number}.parquet", write_page_checksum=True)
        return ParquetSource(path=str(folder), day="day", hive=True)
