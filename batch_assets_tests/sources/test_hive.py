from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SourceError
from batch_assets.sources.duckdb_source import DuckdbSource


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[Any]]:
    """Writes one row into each folder, its user the folder's number; answers with what the query calls x, by user."""

    def ask(*folders: str, x: str, **settings: Any) -> list[Any]:
        for number, folder in enumerate(folders):
            (tmp_path / "table" / folder).mkdir(parents=True)
            pq.write_table(pa.table({"user": [number], "day": [10]}), tmp_path / "table" / folder / "part.parquet")
        (tmp_path / "query.sql").write_text(f"SELECT user, {x} AS x FROM t WHERE $partition IS NOT NULL")
        source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": {"path": str(tmp_path / "table"), **settings}})
        with source.read("2024-03-10", ["user"], tmp_path) as found:
            return found.rows.read_all()["x"].to_pylist()

    return ask


def test_folders_are_no_columns(ask: Callable[..., list[Any]]) -> None:
    assert ask("day=5", "day=6", x="day") == [10, 10]


def test_a_column_that_only_folders_have_is_told_of(ask: Callable[..., list[Any]]) -> None:
    with pytest.raises(SourceError, match=r"table t has no column kind in its files, only folders like kind=5: say hive: true"):
        ask("kind=5", x="kind")


@pytest.mark.parametrize("clash", ["day", "DAY"])
def test_a_clash_is_refused(ask: Callable[..., list[Any]], clash: str) -> None:
    with pytest.raises(SourceError, match=rf"part\.parquet has a column {clash}, and its folders say {clash}= too"):
        ask(f"{clash}=5", x="1", hive=True)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (("5", "-6", "0"), [5, -6, 0]),
        (("007", "8", "9"), ["007", "8", "9"]),
        (("2024-01-31", "2024-02-01", "2024-02-02"), ["2024-01-31", "2024-02-01", "2024-02-02"]),
        (("2024-01-31", "2024-02-30", "x"), ["2024-01-31", "2024-02-30", "x"]),
        (("a%2Fb c", "x[1]", "ü'\""), ["a/b c", "x[1]", "ü'\""]),
        (("5", "__HIVE_DEFAULT_PARTITION__", "6"), [5, None, 6]),
        (("é" * 100, "東" * 70, "%41"), ["é" * 100, "東" * 70, "A"]),
    ],
)
def test_folders_are_columns_where_the_yaml_says_so(
    ask: Callable[..., list[Any]], values: tuple[str, ...], found: list[Any]
) -> None:
    assert [
        str(one) if hasattr(one, "year") else one for one in ask(*(f"k={one}" for one in values), x="k", hive=True)
    ] == found


def test_a_file_outside_of_such_folders_is_refused(ask: Callable[..., list[Any]]) -> None:
    with pytest.raises(
        SourceError, match=r"table t says hive: true, but the folders of .* name no column, and those of .*k=5.* k;"
    ):
        ask(".", "k=5", x="k", hive=True)


def test_a_value_that_is_too_long_is_refused(ask: Callable[..., list[Any]]) -> None:
    with pytest.raises(SourceError, match=r"table t: the folders of .*k=aaa.* name a value that is too long"):
        ask(f"k={'a' * 250}", x="k", hive=True)
