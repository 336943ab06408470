"""A query over ADBC does what every source does, and what is particular to databases: their types, transactions and secrets."""

import hashlib
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import adbc_driver_postgresql.dbapi as postgresql
import duckdb
import psycopg
import pyarrow as pa
import pytest
from adbc_driver_manager.dbapi import Cursor
from pydantic import ValidationError
from typing_extensions import override

from batch_assets.errors import MissingExtra, SourceError
from batch_assets.features.provenance import Provenance
from batch_assets.sources.source import Source
from batch_assets.sources.warehouse.session import Session
from batch_assets.sources.warehouse.statement import Statement
from batch_assets.sources.warehouse_source import WarehouseSource
from batch_assets_tests.conftest import require
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.sources.source_behaviour import DAY, SourceBehaviour

pytestmark = pytest.mark.process

DATES = """
SELECT max(day) AS newest,
       max(CASE WHEN day <= $partition THEN day END) AS newest_until_day,
       count(CASE WHEN day = $partition THEN 1 END) AS rows_of_day
FROM {table}
"""

Read = tuple[pa.Table, Provenance]
Ask = Callable[..., Read]


class Guarded(PostgresServer):
    """A PostgreSQL that asks everybody but its superuser for a password."""

    @override
    def prepare(self) -> None:
        super().prepare()
        lines = ("host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256")
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One on which nothing happens but what a test does, so that two reads see the same snapshot."""
    require(Guarded)
    with Guarded({"autovacuum": "off"}) as server:
        yield server


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


@pytest.fixture
def ask(server: PostgresServer, tmp_path: Path) -> Ask:
    """Asks the server a query, which may have a look at dates beside it."""

    def ask(query: str, zone: str = "UTC", dates: str | None = None, **settings: Any) -> Read:
        (tmp_path / "features.sql").write_text(query)
        (tmp_path / "dates.sql").write_text(dates or "")
        said = {"event_date": "day", "dates": str(tmp_path / "dates.sql")} if dates else {}
        said |= {"driver": "postgresql", "uri": server.url, "query": str(tmp_path / "features.sql"), **settings}
        return SourceBehaviour.read(WarehouseSource(**said), tmp_path, keys=["id"], zone=zone)

    return ask


def execute(server: PostgresServer, *statements: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


class TestTypes:
    @pytest.mark.parametrize("places", range(6))
    def test_decimals_are_exact_whatever_their_places(self, ask: Ask, places: int) -> None:
        values = ["-98765.43210", "0", "0.00001", "12345.67891", "100000", "-0.9"]
        rows = ", ".join(f"({number}, {value}::numeric(12, {places}))" for number, value in enumerate(values))
        found, _ = ask(
            f"SELECT id, price::numeric(12, {places}) AS price FROM (VALUES {rows}, (9, NULL)) AS v (id, price) "
            "WHERE $partition IS NOT NULL"
        )
        assert found.schema.field("price").type == pa.decimal128(12, places)
        one = Decimal(1).scaleb(-places)
        assert found["price"].to_pylist() == [*(Decimal(value).quantize(one, "ROUND_HALF_UP") for value in values), None]

    @pytest.mark.parametrize(
        "expression", ["1.5::numeric", "sum(1.5::numeric(10, 2))", "1::numeric(50, 2)", "1::numeric(5, -2)"]
    )
    def test_a_numeric_that_does_not_say_how_exact_it_is_is_refused(self, ask: Ask, expression: str) -> None:
        sentence = r"features\.sql: the column price is a NUMERIC .*CAST\(price AS NUMERIC\(18, 2\)\)"
        with pytest.raises(SourceError, match=sentence):
            ask(f"SELECT 1 AS id, {expression} AS price, max($partition) AS day")

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "12345678901"])
    def test_a_number_that_no_decimal_holds_is_refused(self, ask: Ask, value: str) -> None:
        sentence = r"the column price has a value that cannot be read as decimal128\(12, 2\)"
        with pytest.raises(SourceError, match=sentence) as told:
            ask(f"SELECT 1 AS id, '{value}'::numeric AS price, $partition AS day", types={"price": "decimal128(12, 2)"})
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        "expression", ["1::money", "'1.2.3.4'::inet", "ARRAY[1.5::numeric(4, 1)]", "gen_random_uuid()", "1::oid"]
    )
    def test_a_type_that_does_not_come_as_it_is_is_refused(self, ask: Ask, expression: str) -> None:
        with pytest.raises(SourceError, match=r"features\.sql: the column x is .*, which does not come as it is; CAST it"):
            ask(f"SELECT 1 AS id, {expression} AS x, $partition AS day")

    @pytest.mark.parametrize(
        "value", ["'infinity'::date", "'-infinity'::timestamp", "'infinity'::timestamptz", "'0044-03-15 BC'::date"]
    )
    def test_a_day_outside_of_the_calendar_is_refused(self, ask: Ask, value: str) -> None:
        with pytest.raises(SourceError, match=r"the column at has a day outside of the years 1 to 9999"):
            ask(f"SELECT 1 AS id, {value} AS at, $partition AS day")

    def test_types_that_are_wanted_are_given(self, ask: Ask) -> None:
        found, _ = ask(
            "SELECT 1 AS id, 2 AS x, '2024-03-10'::text AS d, $partition AS day", types={"x": "float32", "d": "date"}
        )
        assert [field.type for field in found.schema] == [pa.int32(), pa.float32(), pa.date32(), pa.date32()]
        assert found.to_pylist() == [{"id": 1, "x": 2.0, "d": DAY, "day": DAY}]

    def test_a_type_of_a_column_that_is_none_is_told_of(self, ask: Ask) -> None:
        with pytest.raises(SourceError, match=r"features\.sql does not give y, which types names, only id, day\.$"):
            ask("SELECT 1 AS id, $partition AS day", types={"y": "float32"})
        with pytest.raises(ValidationError, match="x: number is no Arrow type"):
            ask("", types={"x": "number"})

    def test_sqlite_must_be_told_of_what_types_columns_are(self, ask: Ask, tmp_path: Path) -> None:
        sqlite3.connect(tmp_path / "a.db").close()
        (tmp_path / "a.db").touch()
        said = {"driver": "sqlite", "uri": str(tmp_path / "a.db"), "types": {"id": "int64"}}
        with pytest.raises(SourceError, match=r"features\.sql: the database does not say of what types .*: x, day\.$"):
            ask("SELECT 1 AS id, 2 AS x, $partition AS day", **said)
        with pytest.raises(SourceError, match=r"the column x comes as double, not exactly; CAST it to TEXT"):
            ask("SELECT 1 AS id, 2.5 AS x WHERE $partition > ''", **said | {"types": {"id": "int64", "x": "decimal128(4, 1)"}})


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


class TestFailures:
    @pytest.fixture
    def joe(self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
        """The environment variable with the address of an account that may read nothing."""
        execute(server, "DROP ROLE IF EXISTS joe", "CREATE ROLE joe LOGIN PASSWORD 'open sesame!'")
        execute(server, "CREATE TABLE IF NOT EXISTS hidden (id int, day date)")
        monkeypatch.setenv("WAREHOUSE", server.url.replace("postgres@", "joe:open%20sesame%21@"))
        return "WAREHOUSE"

    def test_a_password_from_the_environment_is_used_and_not_told(self, ask: Ask, joe: str) -> None:
        found, provenance = ask("SELECT 1 AS id, $partition AS day", uri={"env": joe})
        assert found["id"].to_pylist() == [1]
        assert provenance.tables[0].path.startswith("postgresql://127.0.0.1:")
        assert "sesame" not in provenance.model_dump_json()
        assert "joe" not in provenance.model_dump_json()

    @pytest.mark.parametrize(
        ("query", "sentence"),
        [
            ("SELECT id, $partition AS day FROM nowhere", r'relation "nowhere" does not exist; correct it, or'),
            ("SELECT id FROM hidden WHERE day = $partition", r"permission denied for table hidden; correct it, or"),
            ("SELECT 1/0 AS id, $partition AS day", r"division by zero; correct it, or"),
            ("SELECT FROM WHERE $partition", r"syntax error at or near"),
        ],
    )
    def test_a_query_that_fails_is_a_sentence(self, ask: Ask, joe: str, query: str, sentence: str) -> None:
        with pytest.raises(SourceError, match=rf"features\.sql cannot be computed for 2024-03-10 .*: {sentence}") as told:
            ask(query, uri={"env": joe})
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        "uri",
        [
            "postgresql://joe:wr0ng-s3same@127.0.0.1:{port}/postgres",
            "postgresql://joe:wr0ng-s3same@127.0.0.1:1/postgres",
            "postgresql://joe:wr0ng@s3same@127.0.0.1:{port}/postgres",
            "postgresql://joe:wr0ng/s3same@127.0.0.1:{port}/postgres",
            "joe:wr0ng-s3same@127.0.0.1",
            "host=127.0.0.1 port={port} user=joe password=wr0ng-s3same dbname=postgres",
            "host=127.0.0.1 port=wr0ng password = 's3same",
            "postgresql://127.0.0.1:{port}/postgres?user=joe&password=wr0ng-s3same",
            "postgresql://127.0.0.1:{port}/postgres?user=joe&passwort=wr0ng-s3same",
        ],
    )
    def test_nothing_of_a_secret_is_in_an_error(
        self, ask: Ask, joe: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, uri: str
    ) -> None:
        monkeypatch.setenv("OTHER", uri.format(port=server.port))
        with pytest.raises(SourceError, match="The warehouse does not let us in") as told:
            ask("SELECT 1 AS id, $partition AS day", uri={"env": "OTHER"})
        shown = "".join(traceback.format_exception(told.value))
        assert "wr0ng" not in shown
        assert "s3same" not in shown
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        "settings",
        [
            {"uri": "postgresql://joe:wr0ng@127.0.0.1/postgres"},
            {"uri": "postgresql://127.0.0.1/postgres?password=wr0ng"},
            {"uri": "host=127.0.0.1 password=wr0ng"},
            {"driver": "snowflake", "uri": "joe:wr0ng@account/database"},
            {"driver": "snowflake", "options": {"adbc.snowflake.sql.client_option.auth_token": "wr0ng"}},
        ],
    )
    def test_a_secret_that_is_written_down_is_refused(self, ask: Ask, settings: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match=r"say \{env: NAME\}, the environment variable that holds it") as told:
            ask("", **settings)
        assert "wr0ng" not in str(told.value)

    def test_a_server_that_ends_the_session_while_rows_come_is_a_sentence(self, ask: Ask) -> None:
        ends = "CASE WHEN n = 400000 THEN pg_terminate_backend(pg_backend_pid())::text ELSE repeat('x', 100) END"
        with pytest.raises(SourceError, match=r"features\.sql cannot be .*terminating connection.*run the day again") as told:
            ask(f"SELECT n AS id, {ends} AS text FROM generate_series(1, 500000) n WHERE $partition IS NOT NULL")
        assert "\n" not in str(told.value)
        assert ask("SELECT 1 AS id, $partition AS day")[0]["id"].to_pylist() == [1]

    def test_a_server_that_dies_while_rows_come_is_a_sentence(
        self, start_server: Callable[[PostgresServer], PostgresServer], tmp_path: Path
    ) -> None:
        server, query = start_server(PostgresServer()), tmp_path / "long.sql"
        query.write_text("SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) n WHERE $partition IS NOT NULL")
        source = WarehouseSource(driver="postgresql", uri=server.url, query=str(query))
        with source.streamed(DAY.isoformat(), tmp_path, "UTC") as streamed:
            next(streamed.rows)
            server.kill()
            with pytest.raises(SourceError, match=r"long\.sql cannot be .*server closed the connection.*run the day again"):
                streamed.rows.read_all()

    def test_a_driver_that_is_not_installed_is_a_sentence(self, ask: Ask) -> None:
        with pytest.raises(MissingExtra, match=r"adbc_driver_snowflake, .*: pip install adbc-driver-snowflake\.$"):
            ask("SELECT 1 AS id, $partition AS day", driver="snowflake", uri="account")

    @pytest.mark.parametrize("driver", ["sqlite", "duckdb"])
    def test_a_file_that_is_not_there_is_not_made(self, ask: Ask, tmp_path: Path, driver: str) -> None:
        with pytest.raises(SourceError, match=r"There is no file .*nothing"):
            ask("SELECT 1 AS id, $partition AS day", driver=driver, uri=str(tmp_path / "nothing"))
        assert not (tmp_path / "nothing").exists()

    def test_a_file_is_not_written_to(self, ask: Ask, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute("CREATE TABLE t (id)")
        connection.close()
        said = {"driver": "sqlite", "uri": str(tmp_path / "a.db"), "types": {"id": "int64"}}
        with pytest.raises(SourceError, match="readonly database"):
            ask("WITH x AS (SELECT $partition AS day) INSERT INTO t SELECT day FROM x", **said)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"uri": ""}, "the driver postgresql needs a uri"),
            ({"event_date": "day"}, "event_date and dates go together"),
            ({"driver": "mysql"}, "Input should be 'postgresql', 'sqlite'"),
        ],
    )
    def test_settings_that_do_not_fit_together_are_refused(self, ask: Ask, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValidationError, match=sentence):
            ask("", **settings)
