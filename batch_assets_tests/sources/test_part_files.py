"""Part files that differ: whatever two files hold, a column is what Arrow reads of both, or is refused."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SourceError
from batch_assets.features.provenance import Provenance
from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.sources.listing import TableSettings
from batch_assets.sources.tables import Table, create_view, link_files

if TYPE_CHECKING:
    import duckdb

NEW_YEAR = datetime(2024, 1, 1, 12, 30, 0, 123456)

TYPES: dict[str, pa.Array] = {
    "bool": pa.array([True, False]),
    "int8": pa.array([-128, 127], pa.int8()),
    "int16": pa.array([-32_768, 32_767], pa.int16()),
    "int32": pa.array([-(2**31), 2**31 - 1], pa.int32()),
    "int64": pa.array([-(2**63), 2**63 - 1], pa.int64()),
    "uint8": pa.array([0, 255], pa.uint8()),
    "uint16": pa.array([0, 65_535], pa.uint16()),
    "uint32": pa.array([0, 2**32 - 1], pa.uint32()),
    "uint64": pa.array([0, 2**64 - 1], pa.uint64()),
    "float16": pa.array(np.array([1.5, 6e-8], np.float16)),
    "float": pa.array([1.1, -0.4], pa.float32()),
    "double": pa.array([1.1, 2.7]),
    "decimal(10,2)": pa.array([Decimal("1.25"), Decimal("-99999999.99")], pa.decimal128(10, 2)),
    "decimal(10,4)": pa.array([Decimal("1.2345"), Decimal("-999999.9999")], pa.decimal128(10, 4)),
    "decimal(38,4)": pa.array([Decimal("1.2345"), Decimal("9" * 30)], pa.decimal128(38, 4)),
    "decimal(50,2)": pa.array([Decimal("1.25"), Decimal("9" * 40)], pa.decimal256(50, 2)),
    "text": pa.array(["007", "x"]),
    "dictionary": pa.array(["007", "x"]).dictionary_encode(),
    "binary": pa.array([b"7", b"\xff"]),
    "date": pa.array([date(1, 1, 1), date(9999, 12, 31)]),
    "time": pa.array([time(1, 2, 3, 4), time(23)]),
    "timestamp(ms)": pa.array([NEW_YEAR, datetime(1969, 1, 1)], pa.timestamp("ms")),
    "timestamp(us)": pa.array([NEW_YEAR, datetime(9999, 12, 31)], pa.timestamp("us")),
    "timestamp(ns)": pa.array([1_704_067_200_000_000_001, -1], pa.timestamp("ns")),
    "timestamp(us, zone)": pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("us", "America/New_York")),
    "duration": pa.array([1, 2], pa.duration("us")),
    "null": pa.nulls(2),
    "list": pa.array([[1.5], []], pa.list_(pa.float32())),
}

MATRIX = tuple(
    name for name in TYPES if name not in ("int8", "int16", "uint8", "uint16", "float16", "dictionary", "time", "list")
)

COLUMNS = ("user", "x")
"""A key and a feature."""


@pytest.fixture(scope="module")
def type_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A file of two rows of a type, one for each place: the same file twice is no table."""
    folder = tmp_path_factory.mktemp("types")

    def file(name: str, place: int) -> Path:
        path = folder / f"{list(TYPES).index(name)}-{place}.parquet"
        if not path.exists():
            pq.write_table(pa.table(dict.fromkeys(COLUMNS, TYPES[name])), path)
        return path

    return file


@pytest.fixture(scope="module")
def connection() -> "Iterator[duckdb.DuckDBPyConnection]":
    import duckdb

    with duckdb.connect() as connected:
        yield connected


def linked_files(folder: Path, *files: Path) -> list[Path]:
    """A folder of part files, in order."""
    folder.mkdir()
    for place, file in enumerate(files):
        os.link(file, folder / f"{place}.parquet")
    return [folder / f"{place}.parquet" for place in range(len(files))]


def a_view(connection: "duckdb.DuckDBPyConnection", name: str, path: Path) -> Table:
    """A view of this name."""
    links = Path(tempfile.mkdtemp(prefix="_", dir=path.parent))
    return create_view(connection, link_files(0, name, TableSettings(path=str(path)), links))


def as_arrow_reads(*files: Path, column: str) -> list[Any]:
    """What is in files, by Arrow; of moments the nanoseconds since 1970, whatever their zone is written as."""
    values: list[Any] = []
    for path in files:
        array = pq.read_table(path)[column]
        if pa.types.is_timestamp(array.type):
            unit = {"ms": 10**6, "us": 10**3, "ns": 1}[array.type.unit]
            values += [value * unit for value in array.cast(pa.int64()).to_pylist()]
        else:
            values += array.to_pylist()
    return values


def values_of(connection: "duckdb.DuckDBPyConnection", view: str, column: str) -> tuple[list[Any], str | None]:
    """What a column of a view holds, or why it is refused."""
    import duckdb

    try:
        return as_was_read(connection.sql(f'SELECT "{column}" FROM "{view}"').to_arrow_table()[column]), None
    except duckdb.Error as error:
        return [], str(error)


def as_was_read(found: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(found.type):
        unit = {"us": 10**3, "ns": 1}[found.type.unit]
        return [value if value is None else value * unit for value in found.cast(pa.int64()).to_pylist()]
    return found.to_pylist()


@pytest.mark.parametrize("first", MATRIX)
def test_every_pair_of_types_is_what_arrow_reads_or_refused(
    first: str, type_files: Callable[[str, int], Path], connection: "duckdb.DuckDBPyConnection", tmp_path: Path
) -> None:
    for number, second in enumerate(MATRIX):
        files = linked_files(tmp_path / f"{number} files", type_files(first, 0), type_files(second, 1))
        table = a_view(connection, f"{first} {second}", files[0].parent)
        for column in COLUMNS:
            found, refusal = values_of(connection, f"{first} {second}", column)
            if refusal is None:
                assert found == as_arrow_reads(*files, column=column)
            elif "Conversion Error" in refusal:  # a moment outside of the years that nanoseconds can say
                assert {first, second} == {"timestamp(us)", "timestamp(ns)"}
                assert [one.name for one in table.columns_in(refusal)] == [column]
            else:
                assert f"column {column} of the table {first} {second} is " in refusal
                assert "which has not the same values" in refusal or all(str(file) in refusal for file in files)


def test_one_file_is_read_but_for_columns_that_duckdb_reads_otherwise(
    type_files: Callable[[str, int], Path], connection: "duckdb.DuckDBPyConnection"
) -> None:
    refused = []
    for name in TYPES:
        path = type_files(name, 0)
        if a_view(connection, f"one {name}", path).troubles:
            refused.append(name)
        else:
            assert values_of(connection, f"one {name}", "x") == (as_arrow_reads(path, column="x"), None)
    assert refused == ["decimal(50,2)", "duration"]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        *itertools.combinations(("int8", "int16", "int32", "int64"), 2),
        *itertools.combinations(("uint8", "uint16", "uint32", "uint64"), 2),
        *(("uint8", wide) for wide in ("int16", "int32", "int64")),
        ("uint32", "int64"),
        ("float16", "double"),
        ("float", "double"),
        ("decimal(10,2)", "decimal(38,4)"),
        ("decimal(10,4)", "decimal(38,4)"),
        ("timestamp(ms)", "timestamp(us)"),
        ("null", "text"),
        ("dictionary", "text"),
    ],
)
def test_a_widening_that_loses_nothing_is_read_in_either_order(
    narrow: str, wide: str, type_files: Callable[[str, int], Path], connection: "duckdb.DuckDBPyConnection", tmp_path: Path
) -> None:
    alone, _ = a_view(connection, f"{narrow} in {wide}", type_files(wide, 0)).agreement.columns
    for order in ((narrow, wide), (wide, narrow)):
        files = linked_files(tmp_path / order[0], *(type_files(name, place) for place, name in enumerate(order)))
        view = f"{order[0]} then {order[1]}"
        table = a_view(connection, view, tmp_path / order[0])
        assert [(column.duck, column.trouble) for column in table.agreement.columns] == [(alone.duck, None)] * 2
        assert values_of(connection, view, "x") == (as_arrow_reads(*files, column="x"), None)


class TestThroughAQuery:
    @pytest.fixture
    def ask(self, tmp_path: Path) -> Callable[..., tuple[pa.Table, Provenance]]:
        """Reads user and x of tables that are written as part files of one folder."""
        folder = tmp_path / "parts"
        folder.mkdir()

        def ask(*parts: pa.Table, query: str = "SELECT user, x FROM t", **settings: Any) -> tuple[pa.Table, Provenance]:
            for number, part in enumerate(parts):
                pq.write_table(part, folder / f"{number}.parquet")
            (tmp_path / "query.sql").write_text(f"{query} WHERE $partition IS NOT NULL")
            source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": {"path": str(folder), **settings}})
            with source.read("2024-03-10", ["user"], tmp_path) as found:
                return found.rows.read_all(), found.provenance

        return ask

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (pa.array([1]), pa.array([1.5])),
            (pa.array([True]), pa.array([2])),
            (pa.array([Decimal("1.25")], pa.decimal128(10, 2)), pa.array([Decimal("1.2345")], pa.decimal128(10, 4))),
            (pa.array(["7"]), pa.array([7])),
            (pa.array([NEW_YEAR]), pa.array([NEW_YEAR], pa.timestamp("us", "UTC"))),
            (pa.array([date(2024, 1, 1)]), pa.array([NEW_YEAR])),
            (pa.array([{"a": 1}]), pa.array([{"a": 1.5}])),
        ],
    )
    @pytest.mark.parametrize("turned", [False, True])
    def test_files_that_differ_are_refused_with_both_and_the_column(
        self, ask: Callable[..., Any], first: pa.Array, second: pa.Array, turned: bool
    ) -> None:
        parts = [pa.table({"user": [place], "x": x}) for place, x in enumerate((second, first) if turned else (first, second))]
        with pytest.raises(SourceError, match=r"column x of the table t .*parts/0\.parquet.*parts/1\.parquet"):
            ask(*parts)

    def test_a_key_that_is_text_in_a_later_file_is_refused(self, ask: Callable[..., Any]) -> None:
        with pytest.raises(SourceError, match=r"column user .* int64 in .*0\.parquet, but string in .*1\.parquet"):
            ask(pa.table({"user": [7], "x": [1.0]}), pa.table({"user": ["007"], "x": [1.0]}))

    def test_what_is_widened_is_told(self, ask: Callable[..., Any]) -> None:
        small, large = pa.array([1], pa.int32()), pa.array([2**40])
        table, provenance = ask(pa.table({"user": [1], "x": small}), pa.table({"user": [2], "x": large}))
        assert table.to_pydict() == {"user": [1, 2], "x": [1, 2**40]}
        (told,) = provenance.tables[0].told
        assert told.startswith("x is int32 in ")
        assert "0.parquet and read as int64" in told

    def test_a_column_that_the_query_does_not_read_may_differ(self, ask: Callable[..., Any]) -> None:
        table, provenance = ask(
            pa.table({"user": [1], "x": [1.0], "note": ["a"], "Note": ["b"], "kind": [1]}),
            pa.table({"user": [2], "x": [2.0], "kind": [1.5], "more": [1]}),
        )
        assert table.to_pydict() == {"user": [1, 2], "x": [1.0, 2.0]}
        assert provenance.tables[0].told == ()
        assert [(Path(file.path).name, file.rows) for file in provenance.tables[0].files] == [
            ("0.parquet", 1),
            ("1.parquet", 1),
        ]

    @pytest.mark.parametrize(
        "query", ["SELECT * FROM t", "SELECT user, x FROM t ORDER BY kind", "SELECT user, sum(kind) AS x FROM t"]
    )
    def test_a_column_that_it_reads_somehow_may_not(self, ask: Callable[..., Any], query: str) -> None:
        query = query if "ORDER" not in query else "SELECT user, x FROM (FROM t ORDER BY kind LIMIT 1)"
        with pytest.raises(SourceError, match="column kind of the table t"):
            ask(
                pa.table({"user": [1], "x": [1.0], "kind": [1]}),
                pa.table({"user": [2], "x": [2.0], "kind": ["a"]}),
                query=query,
            )

    def test_a_column_that_only_a_later_file_has_is_named(self, ask: Callable[..., Any]) -> None:
        with pytest.raises(
            SourceError, match=r"x of the table t is in .*1\.parquet, but not in .*0\.parquet: name it under optional"
        ):
            ask(pa.table({"user": [1]}), pa.table({"user": [2], "x": [2.0]}))

    def test_a_column_may_be_missing_where_the_yaml_says_so(self, ask: Callable[..., Any]) -> None:
        table, provenance = ask(pa.table({"user": [1]}), pa.table({"user": [2], "x": [2.0]}), optional=["x"])
        assert table.to_pydict() == {"user": [1, 2], "x": [None, 2.0]}
        assert "not in" in provenance.tables[0].told[0]

    @pytest.mark.parametrize("name", ["x", "X"])
    def test_what_may_be_missing_is_a_name_as_sql_takes_it(self, ask: Callable[..., Any], name: str) -> None:
        table, _ = ask(pa.table({"user": [1], name: [1.0]}), pa.table({"user": [2]}), optional=["x"])
        assert table.column(1).to_pylist() == [1.0, None]

    def test_a_column_without_a_name_is_in_nobodys_way(self, ask: Callable[..., Any]) -> None:
        part = pa.table([pa.array([7]), pa.array([1]), pa.array([1.0])], names=["", "user", "x"])
        table, _ = ask(part, query="SELECT * FROM t")
        assert table.to_pydict() == {"user": [1], "x": [1.0]}

    def test_a_column_of_a_type_that_arrow_takes_for_another_is_in_nobodys_way(
        self, ask: Callable[..., Any], connection: "duckdb.DuckDBPyConnection", tmp_path: Path
    ) -> None:
        connection.execute(f"COPY (SELECT 1 AS user, 1.5::FLOAT AS x, 5::VARIANT AS y) TO '{tmp_path}/parts/0.parquet'")
        assert ask()[0].to_pydict() == {"user": [1], "x": [1.5]}
        with pytest.raises(SourceError, match=r"column y of the table t is struct.* would read it as VARIANT"):
            ask(query="SELECT user, y AS x FROM t")

    @pytest.mark.parametrize(
        "query", ["SELECT user, x + 1 AS t0_c99 FROM t", "SELECT user FROM t JOIN (SELECT 't0_c99' AS w) ON w > x::TEXT"]
    )
    def test_a_query_may_say_what_looks_like_a_word_of_ours(self, ask: Callable[..., Any], query: str) -> None:
        assert ask(pa.table({"user": [1], "x": [1.0]}), query=query)[0]["user"].to_pylist() == [1]

    def test_columns_stand_in_any_order(self, ask: Callable[..., Any]) -> None:
        table, _ = ask(pa.table({"user": [1], "x": [1.0]}), pa.table({"x": [2.0], "user": [2]}))
        assert table.to_pydict() == {"user": [1, 2], "x": [1.0, 2.0]}

    @pytest.mark.parametrize("names", [("x", "x"), ("x", "X")])
    def test_columns_that_sql_does_not_tell_apart_are_refused(self, ask: Callable[..., Any], names: tuple[str, str]) -> None:
        part = pa.table([pa.array([1]), pa.array([1.0]), pa.array([2.0])], names=["user", *names])
        with pytest.raises(SourceError, match=r"table t: .*0\.parquet has .*x"):
            ask(part)

    def test_one_name_in_two_cases_is_refused(self, ask: Callable[..., Any]) -> None:
        with pytest.raises(SourceError, match=r"column x in .*0\.parquet and X in .*1\.parquet"):
            ask(pa.table({"user": [1], "x": [1.0]}), pa.table({"user": [2], "X": [2.0]}))

    @pytest.mark.parametrize("type_", ["float16", "float32", "float64"])
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("count(*) AS x FROM (FROM t WHERE x > 5)", 5),
            ("count(*) AS x FROM (FROM t WHERE x <= 2)", 15),
            ("count(*) AS x FROM (FROM t WHERE isnan(x))", 5),
            ("count(*) AS x FROM (FROM t WHERE pair.x > 5)", 5),
            ("count(*) FILTER (x > 5) AS x FROM t", 5),
            ("isnan(max(x))::INT AS x FROM t", 1),
            ("max(y)::INT AS x FROM t", 2),
            ("max(pair.y)::INT AS x FROM t", 2),
            ("signbit(min(y))::INT AS x FROM t", 0),
        ],
    )
    def test_footers_that_leave_nan_out_hide_no_row(
        self, ask: Callable[..., Any], type_: str, expression: str, expected: int
    ) -> None:
        values, numbers = (pa.array(np.array([1, 2, other, 1] * 5, type_)) for other in (np.nan, 0))
        pairs = pa.StructArray.from_arrays([values, numbers], ["x", "y"])
        part = pa.table({"x": values, "y": numbers, "pair": pairs})
        table, _ = ask(part, query=f"SELECT 1 AS user, {expression}")
        assert table["x"].to_pylist() == [expected]

    def test_nanoseconds_of_spark_are_read_if_nothing_is_cut_off(self, tmp_path: Path) -> None:
        (tmp_path / "query.sql").write_text("SELECT user, epoch_us(moment) AS x FROM t WHERE $partition IS NOT NULL")
        source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": str(tmp_path / "t.parquet")})
        moments = pa.array([datetime(9999, 12, 31), datetime(1, 1, 1), NEW_YEAR], pa.timestamp("us"))
        for written in (moments, pa.array([1_000, 2_000, 3_001], pa.timestamp("ns"))):
            pq.write_table(
                pa.table({"user": [1, 2, 3], "moment": written}), tmp_path / "t.parquet", use_deprecated_int96_timestamps=True
            )
            if written is moments:
                with source.read("2024-03-10", ["user"], tmp_path) as found:
                    assert found.rows.read_all()["x"].to_pylist() == moments.cast(pa.int64()).to_pylist()
            else:
                with (
                    pytest.raises(SourceError, match=r"t\.parquet has a time stamp with 1 ns .* column moment, row 2"),
                    source.read("2024-03-10", ["user"], tmp_path),
                ):
                    pass
