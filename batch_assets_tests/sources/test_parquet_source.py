"""What is particular to a table of Parquet files: which rows are a day's, which columns are given, which folders are read."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.provenance import Provenance
from batch_assets.features.snapshot import write_snapshot
from batch_assets.sources.parquet_source import ParquetSource

DAY = "2024-03-10"

Ask = Callable[..., tuple[pa.Table, Provenance]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


@pytest.fixture
def ask(table: Path, tmp_path: Path) -> Ask:
    def ask(zone: str = "UTC", on: str = DAY, **settings: Any) -> tuple[pa.Table, Provenance]:
        source = ParquetSource(**{"path": str(table), **settings})
        with source.read(on, ["user"], tmp_path, zone) as read:
            return read.rows.read_all(), read.provenance

    return ask


def write(path: Path, users: list[int], **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user": users, **columns}), path)
    return path


class TestColumns:
    def test_without_a_day_every_row_counts(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [2, 1], x=[2.0, 1.0])
        found, provenance = ask()
        assert found.to_pydict() == {"user": [1, 2], "x": [1.0, 2.0]}
        (one,) = provenance.tables
        assert (one.name, one.path, one.rows, one.event_date, one.rows_of_day) == ("rows", str(table), 2, None, None)

    def test_those_that_are_asked_for_come_in_that_order(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [1, 2], x=[1, 2], day=[date(2024, 3, 10), date(2024, 3, 9)], Y=[5, 6])
        assert ask(day="day", columns=["Y", "day", "user"])[0].to_pydict() == {
            "Y": [5],
            "day": [date(2024, 3, 10)],
            "user": [1],
        }
        assert ask(day="DAY")[0].to_pydict() == {"user": [1], "x": [1], "Y": [5]}

    def test_one_that_is_not_there_is_named(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [1], x=[1])
        with pytest.raises(SourceError, match=r'table cannot be computed for 2024-03-10: .*"gone" not found') as refused:
            ask(columns=["user", "gone"])
        assert "\n" not in str(refused.value)

    def test_one_may_be_missing_where_the_yaml_says_so(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [1], x=[1])
        write(table / "1.parquet", [2])
        with pytest.raises(
            SourceError, match=r"x of the table rows is in .*0\.parquet, but not in .*1\.parquet: name it under"
        ):
            ask()
        assert ask(optional=["x"])[0].to_pydict() == {"user": [1, 2], "x": [1, None]}

    @pytest.mark.parametrize("name", ['us"er', "u'ser; --", "{}", "select"])
    def test_any_name_will_do(self, table: Path, ask: Ask, name: str) -> None:
        days = [date(2024, 3, 9), date(2024, 3, 10)]
        write(table / "0.parquet", [1, 2], **{name: days, "x {}": [1, 2]})
        assert ask(day=name)[0].to_pydict() == {"user": [2], "x {}": [2]}
        assert ask(day=name, columns=["user", name])[0].to_pydict() == {"user": [2], name: [days[1]]}


class TestDays:
    @pytest.mark.parametrize(("zone", "users"), [("UTC", [3, 4]), ("Europe/Berlin", [2, 3]), ("Asia/Tokyo", [1, 2, 3])])
    def test_a_moment_is_of_a_day_of_the_partitions(self, table: Path, ask: Ask, zone: str, users: list[int]) -> None:
        hours = (
            datetime(2024, 3, 9, 22, 30),
            datetime(2024, 3, 9, 23, 30),
            datetime(2024, 3, 10, 5),
            datetime(2024, 3, 10, 23, 30),
        )
        moments = pa.array([one.replace(tzinfo=UTC) for one in hours], pa.timestamp("us", "UTC"))
        write(table / "0.parquet", [1, 2, 3, 4], at=moments)
        found, provenance = ask(zone, day="at")
        assert found["user"].to_pylist() == users
        assert provenance.tables[0].rows_of_day == len(users)

    def test_a_text_is_one_that_is_written_like_it(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [1, 2, 3], day=["2024-03-09", "2024-03-10", None])
        assert ask(day="day")[0]["user"].to_pylist() == [2]

    def test_a_text_that_is_none_is_named(self, table: Path, ask: Ask) -> None:
        write(table / "0.parquet", [1, 2], day=["2024-03-09", "soon"])
        with pytest.raises(SourceError, match=r'"soon".* row 1 of .*0\.parquet'):
            ask(day="day")

    @pytest.mark.parametrize(
        ("day", "sentence"),
        [("gone", "its event_date gone is not in its files"), ("x", "its event_date x is BIGINT, which is no")],
    )
    def test_a_column_that_says_no_day_is_refused(self, table: Path, ask: Ask, day: str, sentence: str) -> None:
        write(table / "0.parquet", [1], x=[20240310])
        with pytest.raises(SourceError, match=f"table rows: {sentence}"):
            ask(day=day)

    def test_a_bad_key_is_looked_for_among_the_rows_of_the_day(self, table: Path, tmp_path: Path) -> None:
        days = [date(2024, 3, 9), date(2024, 3, 10)]
        write(table / "0.parquet", [7, 7, 7, 7], day=[days[0], days[1], days[0], days[1]])
        (tmp_path / "snapshot").mkdir()
        with (
            pytest.raises(BadKeys, match=r"It is in row 1 of .*0\.parquet \(table rows\) and row 3 of"),
            ParquetSource(path=str(table), day="day").read(DAY, ["user"], tmp_path) as read,
        ):
            write_snapshot(tmp_path / "snapshot", read.rows, ["user"], 100)

    def test_a_bad_key_of_several_columns_is_found_by_all_of_them(self, table: Path, tmp_path: Path) -> None:
        write(table / "0.parquet", [7, 7, 8], item=["a", "b", "b"])
        with (
            pytest.raises(BadKeys, match=r"twice It is in row 1 of .*0\.parquet \(table rows\)\.$"),
            ParquetSource(path=str(table)).read(DAY, ["user", "item"], tmp_path),
        ):
            raise BadKeys("twice", (7, "b"))


class TestFolders:
    def test_only_those_of_the_day_are_read(self, table: Path, ask: Ask) -> None:
        """Whatever lies in the others, and whoever writes there."""
        write(table / "day=2024-03-10" / "country=DE" / "0.parquet", [2], x=[2.0])
        write(table / "day=2024-03-10" / "country=US" / "0.parquet", [1], x=[1.0])
        write(table / "day=2024-03-09" / "country=DE" / "0.parquet", [1], x=["text"])
        (write(table / "day=2024-03-11" / "country=DE" / "0.parquet", [1])).write_bytes(b"PAR1 damaged")
        found, provenance = ask(day="day", hive=True)
        assert found.to_pydict() == {"user": [1, 2], "x": [1.0, 2.0], "country": ["US", "DE"]}
        assert [file.path for file in provenance.tables[0].files] == [
            str(table / "day=2024-03-10" / f"country={country}" / "0.parquet") for country in ("DE", "US")
        ]

    @pytest.mark.parametrize(("on", "nearest"), [("2024-03-10", "2024-03-08"), ("2024-03-01", "2024-03-07")])
    def test_a_day_that_has_none_has_the_columns_of_the_nearest_before_it(
        self, table: Path, ask: Ask, on: str, nearest: str
    ) -> None:
        for day in ("2024-03-07", "2024-03-08", "2024-03-12"):
            write(table / f"day={day}" / "0.parquet", [1], **{f"x{day[-2:]}": [1]})
        found, provenance = ask(on=on, day="day", hive=True)
        assert (found.num_rows, found.schema.names) == (0, ["user", f"x{nearest[-2:]}"])
        (one,) = provenance.tables
        assert (one.rows_of_day, one.newest) == (0, date.fromisoformat(nearest))

    def test_whose_folder_appears_meanwhile_is_refused(self, table: Path, tmp_path: Path) -> None:
        write(table / "day=2024-03-08" / "0.parquet", [1])
        with (
            pytest.raises(SourceError, match=r"day=2024-03-10/0\.parquet appeared while it was read"),
            ParquetSource(path=str(table), day="day", hive=True).read(DAY, ["user"], tmp_path),
        ):
            write(table / "day=2024-03-10" / "0.parquet", [1])

    def test_another_day_may_change_meanwhile(self, table: Path, tmp_path: Path) -> None:
        write(table / "day=2024-03-10" / "0.parquet", [1])
        with ParquetSource(path=str(table), day="day", hive=True).read(DAY, ["user"], tmp_path) as read:
            write(table / "day=2024-03-11" / "0.parquet", [1])
            assert read.rows.read_all()["user"].to_pylist() == [1]

    @pytest.mark.parametrize("clash", ["day", "Day"])
    def test_that_say_what_a_column_says_are_refused(self, table: Path, ask: Ask, clash: str) -> None:
        write(table / f"{clash}=2024-03-10" / "0.parquet", [1], **{clash: [date(2024, 3, 9)]})
        with pytest.raises(SourceError, match=rf"0\.parquet has a column {clash}, and its folders say {clash}= too"):
            ask(day="day", hive=True)
        assert ask(day="day")[0].num_rows == 0, "without hive: true the column counts"

    def test_that_are_no_columns_are_told_of(self, table: Path, ask: Ask) -> None:
        write(table / "day=2024-03-10" / "0.parquet", [1])
        with pytest.raises(
            SourceError, match=r"table rows has no column day in its files, only folders like day=2024-03-10: say hive"
        ):
            ask(day="day")

    def test_a_file_outside_of_them_is_refused(self, table: Path, ask: Ask) -> None:
        write(table / "day=2024-03-10" / "0.parquet", [1])
        write(table / "0.parquet", [2])
        with pytest.raises(SourceError, match=r"table rows says hive: true, but the folders of .* name"):
            ask(day="day", hive=True)

    def test_that_name_no_days_are_refused(self, table: Path, ask: Ask) -> None:
        write(table / "day=20240310" / "0.parquet", [1])
        with pytest.raises(SourceError, match="its event_date day is BIGINT, which is no date"):
            ask(day="day", hive=True)

    def test_rows_without_a_day_are_of_none(self, table: Path, ask: Ask) -> None:
        write(table / "day=2024-03-10" / "0.parquet", [1])
        write(table / "day=__HIVE_DEFAULT_PARTITION__" / "0.parquet", [2])
        assert ask(day="day", hive=True)[0]["user"].to_pylist() == [1]


def test_a_path_must_not_depend_on_where_it_is_read(ask: Ask) -> None:
    with pytest.raises(SourceError, match="needs an absolute path, not features"):
        ask(path="features")
