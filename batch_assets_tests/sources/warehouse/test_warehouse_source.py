"""A query over ADBC does what every source does, and what is particular to databases: their types, transactions and secrets."""

import hashlib
import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import adbc_driver_postgresql.dbapi as postgresql
import duckdb
import psycopg
import pyarrow as pa
import pytest
from adbc_driver_manager.dbapi import Cursor
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.sources.source import Source
from batch_assets.sources.warehouse.session import Session
from batch_assets.sources.warehouse.statement import Statement
from batch_assets.sources.warehouse_source import WarehouseSource
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.sources.source_behaviour import SourceBehaviour
from batch_assets_tests.sources.warehouse.server import Ask, execute

pytestmark = pytest.mark.process

DATES = """
SELECT max(day) AS newest,
       max(CASE WHEN day <= $partition THEN day END) AS newest_until_day,
       count(CASE WHEN day = $partition THEN 1 END) AS rows_of_day
FROM {table}
"""


def table_of(folder: Path) -> str:
    return f"t{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def asked(folder: Path, parts: Sequence[pa.Table], **settings: Any) -> WarehouseSource:
    """A source of the rows of the day, in all columns but `day`, of the table that belongs to a folder."""
    query, dates = folder.with_suffix(".sql"), folder.with_suffix(".dates.sql")
    if parts:
        columns = ", ".join(f'"{name}"' for name in parts[0].schema.names if name != "day")
        query.write_text(f'SELECT {columns} FROM {table_of(folder)} WHERE day = $partition -- "the day"')
        dates.write_text(DATES.format(table=table_of(folder)))
    return WarehouseSource(query=str(query), event_date="day", dates=str(dates), **settings)


class TestPostgresql(SourceBehaviour):
    lacks: ClassVar[frozenset[str]] = frozenset({"i8"})

    @pytest.fixture(autouse=True)
    def of_server(self, server: PostgresServer) -> None:
        self.url = server.url

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        with postgresql.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
            for number, part in enumerate(parts):
                cursor.adbc_ingest(table_of(folder), part, mode="append" if number else "create")
        return asked(folder, parts, driver="postgresql", uri=self.url)


class TestSqlite(SourceBehaviour):
    lacks: ClassVar[frozenset[str]] = frozenset({"f32", "items", "vector"})  # it takes NaN for a null

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        path, types = folder.with_suffix(".db"), folder.with_suffix(".types")
        if parts:
            table, names = pa.concat_tables(parts), parts[0].schema.names
            rows = [[str(one) if isinstance(one, date) else one for one in row.values()] for row in table.to_pylist()]
            with sqlite3.connect(path) as connection:
                connection.execute(f"CREATE TABLE {table_of(folder)} ({', '.join(names)})")
                connection.executemany(f"INSERT INTO {table_of(folder)} VALUES ({', '.join('?' * len(names))})", rows)
            connection.close()
            types.write_text("\n".join(f"{field.name} {field.type}" for field in table.schema if field.name != "day"))
        said = dict(line.split(" ", 1) for line in types.read_text().splitlines())
        return asked(folder, parts, driver="sqlite", uri=str(path), types={k: v.split("[d")[0] for k, v in said.items()})


class TestDays:
    def test_the_zone_of_the_partition_says_when_a_day_begins(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGTZ", "Asia/Tokyo")
        at = "'2024-03-09 23:30+00'::timestamptz + n * interval '1 hour'"
        query = f"SELECT n AS id, {at} AS at FROM generate_series(0, 24) n WHERE ({at})::date = $partition"
        found = {zone: ask(query, zone)[0] for zone in ("UTC", "Europe/Berlin")}
        assert [(rows["id"][0].as_py(), rows["id"][-1].as_py()) for rows in found.values()] == [(1, 24), (0, 23)]
        assert found["UTC"]["at"][0].as_py() == datetime(2024, 3, 10, 0, 30, tzinfo=UTC)

    def test_what_a_day_looks_like_as_text_is_said_by_nobody_else(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGDATESTYLE", "German")
        assert ask("SELECT 1 AS id, $partition::text AS day")[0]["day"].to_pylist() == ["2024-03-10"]

    def test_a_table_without_dates_says_how_many_rows_came(self, ask: Ask) -> None:
        _, provenance = ask("SELECT n AS id FROM generate_series(1, 1000) n WHERE $partition > '2000-01-01'")
        (one,) = provenance.tables
        assert (one.name, one.rows, one.event_date, one.newest, one.rows_of_day) == ("features", 1000, None, None, None)

    @pytest.mark.parametrize(
        ("dates", "sentence"),
        [
            ("SELECT $partition AS newest", r"gives newest: it must give newest, newest_until_day, rows_of_day\.$"),
            ("SELECT $partition AS newest WHERE false", r"gives 0 rows for 2024-03-10: it must give one\.$"),
            ("SELECT now() newest, $partition newest_until_day, 1 rows_of_day", r"for newest: it must be a DATE; CAST it\.$"),
            ("SELECT $partition newest, $partition newest_until_day, 1.5::float rows_of_day", r"it must be a whole number"),
            ("SELECT nothing, $partition", r'dates\.sql cannot be computed for 2024-03-10 .*"nothing" does not exist'),
        ],
    )
    def test_dates_that_say_something_else_are_refused(self, ask: Ask, dates: str, sentence: str) -> None:
        with pytest.raises(SourceError, match=sentence):
            ask("SELECT 1 AS id, $partition AS day", dates=dates)


class TestDuckdb:
    def test_a_file_is_read_and_not_written_to(self, ask: Ask, tmp_path: Path) -> None:
        with duckdb.connect(tmp_path / "a.duckdb") as connection:
            connection.execute("CREATE TABLE t AS SELECT range::INT AS id, 1.25::DECIMAL(9, 2) AS price FROM range(3)")
            connection.execute("ALTER TABLE t ADD moment TIMESTAMPTZ DEFAULT '2024-03-09 23:30+00'")
        said = {"driver": "duckdb", "uri": str(tmp_path / "a.duckdb")}
        for zone, count in (("UTC", 0), ("Europe/Berlin", 3)):
            dates = "SELECT $partition AS newest, $partition AS newest_until_day, count(*) AS rows_of_day FROM t"
            found, provenance = ask("SELECT * FROM t WHERE moment::DATE = $partition", zone, dates, **said)
            assert (len(found), provenance.tables[0].rows, provenance.tables[0].rows_of_day) == (count, count, 3)
            assert found.schema.field("price").type == pa.decimal128(9, 2)
            assert found.schema.field("moment").type == pa.timestamp("us", "UTC")
        with pytest.raises(SourceError, match=r"read-only"):
            ask("WITH x AS (SELECT $partition) INSERT INTO t (id) SELECT 5 FROM x", **said)


class TestTransaction:
    @pytest.mark.parametrize(
        "query",
        [
            "WITH x AS (INSERT INTO kept VALUES (1) RETURNING id) SELECT id, $partition AS day FROM x",
            "SELECT id, $partition AS day INTO other FROM kept",
            "SELECT nextval('numbers') AS id, $partition AS day",
            "SELECT 1 AS id, $partition AS day, set_config('transaction_read_only', 'off', false)",
        ],
    )
    def test_a_query_that_would_write_is_refused(self, ask: Ask, server: PostgresServer, query: str) -> None:
        execute(server, "CREATE TABLE IF NOT EXISTS kept (id int)", "CREATE SEQUENCE IF NOT EXISTS numbers")
        with pytest.raises(SourceError, match=r"features\.sql cannot be computed for 2024-03-10 \(postgresql://127.*") as told:
            ask(query)
        assert "\n" not in str(told.value)
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT count(*), (SELECT is_called FROM numbers) FROM kept").fetchone() == (0, False)

    def test_rows_and_dates_are_of_one_moment(self, ask: Ask, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
        execute(server, "CREATE TABLE grows (id int, day date)", "INSERT INTO grows VALUES (1, '2024-03-10')")
        one = Session.one

        def grows(session: Session, statement: Statement) -> dict[str, Any]:
            found = one(session, statement)
            execute(server, "INSERT INTO grows VALUES (2, '2024-03-10')")
            return found

        monkeypatch.setattr(Session, "one", grows)
        found, provenance = ask("SELECT id FROM grows WHERE day = $partition", dates=DATES.format(table="grows"))
        (table,) = provenance.tables
        assert (found["id"].to_pylist(), table.rows_of_day, table.rows) == ([1], 1, 1)
        assert table.pinned.startswith("snapshot ")

    def test_a_transaction_that_may_write_is_not_used(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        execute_as_said = Cursor.execute

        def pooled(cursor: Cursor, text: str, values: Any = None) -> Any:  # a session is another one in each transaction
            return execute_as_said(cursor, "SELECT 1" if text.startswith("SET SESSION") else text, values)

        monkeypatch.setattr(Cursor, "execute", pooled)
        with pytest.raises(SourceError, match=r"postgresql gives every transaction another session"):
            ask("SELECT 1 AS id, $partition AS day")

    def test_a_query_that_was_changed_is_another(self, ask: Ask) -> None:
        digests = {ask(f"SELECT {number} AS id, $partition AS day")[1].settings_sha256 for number in (1, 1, 2)}
        assert len(digests) == 2
