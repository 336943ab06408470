from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.errors import TableError
from batch_assets.tables.delta_table import DeltaTable
from batch_assets.tables.table import Day, Table
from batch_assets_tests.tables.table_behaviour import DAY, TableBehaviour, rows


class TestDeltaTable(TableBehaviour):
    @pytest.fixture
    @override
    def table(self, tmp_path: Path) -> Iterator[Table]:
        return DeltaTable(path=str(tmp_path / "table"))

    @override
    def read(self, table: Table) -> pa.Table:
        assert isinstance(table, DeltaTable)
        return pl.read_delta(table.path).to_arrow()

    def test_a_commit_says_what_it_did(self, table: Table) -> None:
        table.replace(rows())
        table.withdraw(DAY)
        assert isinstance(table, DeltaTable)
        withdrawn, wrote, *_ = deltalake.DeltaTable(table.path).history()
        assert (wrote["batch_assets.release"], wrote["batch_assets.partition"]) == ("first", "2024-03-10")
        assert withdrawn["batch_assets.withdrawn"] == "true"

    def test_a_table_that_many_make_at_once_is_made_once(self, tmp_path: Path) -> None:
        every = [rows(Day("churn", date(2024, 3, day)), 10) for day in range(1, 9)]
        for turn in range(10):
            table = DeltaTable(path=str(tmp_path / f"made-{turn}"))
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(table.replace, every))
            made = [commit["operation"] for commit in deltalake.DeltaTable(table.path).history()].count("CREATE TABLE")
            assert made == 1
            self.seen(table, *every)

    def test_a_place_where_nobody_may_write(self) -> None:
        with pytest.raises(TableError, match="The Delta table /proc/nowhere cannot be written"):
            DeltaTable(path="/proc/nowhere").replace(rows())


class TestDeltaTableInABucket(TableBehaviour):
    @pytest.fixture
    @override
    def table(self, real_bucket: str) -> Table:
        return DeltaTable(path=f"{real_bucket}/table")

    @override
    def read(self, table: Table) -> pa.Table:
        assert isinstance(table, DeltaTable)
        found = deltalake.DeltaTable(table.path, storage_options={"allow_http": "true"})
        return pa.RecordBatchReader.from_stream(
            deltalake.QueryBuilder().register("read", found).execute("SELECT * FROM read")
        ).read_all()
