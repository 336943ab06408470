"""Damaged files: whatever happened to one, what is refused is said with its name, and nothing wrong is read where pages have
checksums."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.snapshot import write_snapshot
from batch_assets.sources import session
from batch_assets.sources.duckdb_source import DuckdbSource

ROWS = 3_000

TABLE = pa.table(
    {
        "user": np.arange(ROWS),
        "x": np.random.default_rng(3).standard_normal(ROWS).astype(np.float32),
        "word": [f"word {number % 7}" for number in range(ROWS)],
        "unread": np.arange(ROWS),
    }
)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[], pa.Table]:
    """Reads what is in t.parquet by now."""
    (tmp_path / "query.sql").write_text("SELECT user, x, word FROM t WHERE $partition IS NOT NULL")
    source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": str(tmp_path / "t.parquet")})

    def ask() -> pa.Table:
        with source.read("2024-03-10", ["user"], tmp_path) as found:
            return found.rows.read_all()

    return ask


def written(path: Path, **how: Any) -> bytes:
    pq.write_table(TABLE, path, row_group_size=1_000, **how)
    return path.read_bytes()


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing in it": lambda data: b"",
    "four bytes": lambda data: data[:4],
    "text": lambda data: b"user,x\n1,2\n" * 20,
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut in the footer": lambda data: data[:-20],
    "without its beginning": lambda data: data[len(data) // 2 :],
    "other magic": lambda data: data[:-4] + b"PAR2",
    "encrypted": lambda data: data[:-4] + b"PARE",
    "a footer too long": lambda data: data[:-8] + (1 << 30).to_bytes(4, "little") + data[-4:],
    "a footer of zeros": lambda data: data[:-200] + bytes(192) + data[-8:],
    "a footer of ones": lambda data: data[:-200] + b"\xff" * 192 + data[-8:],
    "pages of zeros": lambda data: data[:4] + bytes(3_000) + data[3_004:],
    "pages of ones": lambda data: data[:4] + b"\xff" * 3_000 + data[3_004:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(ask: Callable[[], pa.Table], tmp_path: Path, damage: str) -> None:
    good = written(tmp_path / "t.parquet", compression="zstd")
    assert ask().equals(TABLE.select(["user", "x", "word"]))
    (tmp_path / "t.parquet").write_bytes(DAMAGES[damage](good))
    with pytest.raises(SourceError, match=r"^The table t: .*/t\.parquet .*; (write|restore|take)") as refused:
        ask()
    assert "/t0/" not in str(refused.value)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("use_dictionary", [False, True])
def test_a_flipped_bit_in_a_page_with_a_checksum_is_found(
    ask: Callable[[], pa.Table], tmp_path: Path, compression: str, use_dictionary: bool
) -> None:
    good = written(tmp_path / "t.parquet", compression=compression, use_dictionary=use_dictionary, write_page_checksum=True)
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    for group, column in ((0, 0), (1, 1), (2, 2)):
        chunk = metadata.row_group(group).column(column)
        end = (
            chunk.data_page_offset
            + chunk.total_compressed_size
            - (chunk.data_page_offset - (chunk.dictionary_page_offset or chunk.data_page_offset))
        )
        (tmp_path / "t.parquet").write_bytes(flipped(good, end - 2))
        rows = rf"{group * 1_000:,} to {group * 1_000 + 999:,}"
        with pytest.raises(
            SourceError, match=rf"t\.parquet is damaged: a page of the column {chunk.path_in_schema}, rows {rows}"
        ):
            ask()


def test_pages_that_nobody_reads_are_not_looked_at(ask: Callable[[], pa.Table], tmp_path: Path) -> None:
    good = written(tmp_path / "t.parquet", write_page_checksum=True, use_dictionary=False, compression="none")
    chunk = pq.read_metadata(tmp_path / "t.parquet").row_group(1).column(3)
    (tmp_path / "t.parquet").write_bytes(flipped(good, chunk.data_page_offset + chunk.total_compressed_size - 2))
    assert ask().equals(TABLE.select(["user", "x", "word"]))


@pytest.mark.parametrize("data_page_version", ["1.0", "2.0"])
def test_checksums_of_good_files_hold(ask: Callable[[], pa.Table], tmp_path: Path, data_page_version: str) -> None:
    written(tmp_path / "t.parquet", write_page_checksum=True, data_page_version=data_page_version, data_page_size=500)
    assert ask().equals(TABLE.select(["user", "x", "word"]))


def test_a_page_that_cannot_be_read_is_named_with_its_column(ask: Callable[[], pa.Table], tmp_path: Path) -> None:
    good = written(tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    chunk = pq.read_metadata(tmp_path / "t.parquet").row_group(1).column(1)
    middle = chunk.data_page_offset + 60
    (tmp_path / "t.parquet").write_bytes(good[:middle] + bytes(200) + good[middle + 200 :])
    with pytest.raises(SourceError, match=r"t\.parquet is damaged: the column x cannot be read"):
        ask()


class TestKeys:
    @pytest.mark.parametrize(
        ("users", "sentence"),
        [
            (pa.array([4, None, 5]), r"user is null .*row 1 of .*t\.parquet \(table t\)"),
            (pa.array([4, 5, 4]), r"user is there twice: 4; .*row 0 of .*t\.parquet .* and row 2 of .*t\.parquet"),
            (pa.array([4, 2**63, 5], pa.uint64()), r"user is 9223372036854775808, .* cast it to text .*row 1 of .*t\.parquet"),
            (pa.array(["b", "a", "b"]), r"user is there twice: 'b'; .*row 0 of .* and row 2 of"),
        ],
    )
    def test_a_key_that_is_none_is_named_with_its_row(self, tmp_path: Path, users: pa.Array, sentence: str) -> None:
        pq.write_table(pa.table({"user": users, "x": [1.0, 2.0, 3.0]}), tmp_path / "t.parquet")
        (tmp_path / "query.sql").write_text("SELECT user, x FROM t WHERE $partition IS NOT NULL")
        (tmp_path / "snapshot").mkdir()
        source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": str(tmp_path / "t.parquet")})
        with (
            pytest.raises(BadKeys, match=rf"query\.sql for 2024-03-10: The key {sentence}"),
            source.read("2024-03-10", ["user"], tmp_path) as found,
        ):
            write_snapshot(tmp_path / "snapshot", found.rows, ["user"], 100)

    @pytest.mark.parametrize(
        ("values", "kind", "value"),
        [
            (["1.5", "n/a"], "FLOAT", "'n/a'"),
            (["2024-03-10", "20240310"], "DATE", '"20240310"'),
            (["2024-03-10", "2024-13-10"], "TIMESTAMP", '"2024-13-10"'),
            (["1.5", 'it\'s "none"'], "DECIMAL(5,2)", "it's"),
            ([1, 300], "TINYINT", "300"),
            ([1.5, float("nan")], "INTEGER", "nan"),
        ],
    )
    @pytest.mark.parametrize("column", ["x", "an x", "file_row_number"])
    def test_a_value_that_is_of_another_type_is_named_with_its_row(
        self, tmp_path: Path, values: list[Any], kind: str, value: str, column: str
    ) -> None:
        pq.write_table(pa.table({"user": [1, 2], column: values}), tmp_path / "t.parquet")
        (tmp_path / "query.sql").write_text(f'SELECT user, "{column}"::{kind} AS x FROM t WHERE $partition IS NOT NULL')
        source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": str(tmp_path / "t.parquet")})
        with (
            pytest.raises(SourceError, match=rf"{value}.* column {column}; correct it.*row 1 of .*t\.parquet \(table t\)"),
            source.read("2024-03-10", ["user"], tmp_path),
        ):
            pass


def test_a_file_that_vanishes_before_its_pages_are_looked_at_is_named(
    ask: Callable[[], pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "t.parquet")
    plan = session._plan

    def vanishing(*arguments: Any) -> str:
        planned = plan(*arguments)
        (tmp_path / "t.parquet").unlink()
        return planned

    monkeypatch.setattr(session, "_plan", vanishing)
    with pytest.raises(SourceError, match=r"table t was changed while it was read.*t\.parquet does not exist"):
        ask()


def test_dates_of_a_table_are_told(tmp_path: Path) -> None:
    days = [date(2024, 3, 9), date(2024, 3, 10), date(2024, 3, 10), date(2024, 4, 1), None]
    pq.write_table(pa.table({"user": range(5), "x": [1.0] * 5, "Day": days}), tmp_path / "t.parquet")
    (tmp_path / "query.sql").write_text("SELECT user, x FROM t WHERE $partition IS NOT NULL")
    settings = {"path": str(tmp_path / "t.parquet"), "event_date": "day"}
    with DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": settings}).read(
        "2024-03-10", ["user"], tmp_path
    ) as found:
        (table,) = found.provenance.tables
    assert (table.rows, table.rows_of_day, table.newest_until_day, table.newest) == (5, 2, date(2024, 3, 10), date(2024, 4, 1))


@pytest.mark.parametrize(("column", "sentence"), [("gone", "is not in its files"), ("x", "is DOUBLE, which is no date")])
def test_a_column_of_dates_that_is_none_is_refused(tmp_path: Path, column: str, sentence: str) -> None:
    pq.write_table(pa.table({"user": [1], "x": [1.0]}), tmp_path / "t.parquet")
    (tmp_path / "query.sql").write_text("SELECT user, x FROM t WHERE $partition IS NOT NULL")
    settings = {"path": str(tmp_path / "t.parquet"), "event_date": column}
    with (
        pytest.raises(SourceError, match=f"table t: its event_date {column} {sentence}"),
        DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": settings}).read("2024-03-10", ["user"], tmp_path),
    ):
        pass
