"""What goes wrong with a database is one sentence, and none of them has a secret in it."""

import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batch_assets.errors import MissingExtra, SourceError
from batch_assets.sources.warehouse_source import WarehouseSource
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.sources.source_behaviour import DAY
from batch_assets_tests.sources.warehouse.server import Ask, execute

pytestmark = pytest.mark.process


@pytest.fixture
def joe(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment variable with the address of an account that may read nothing."""
    execute(server, "DROP ROLE IF EXISTS joe", "CREATE ROLE joe LOGIN PASSWORD 'open sesame!'")
    execute(server, "CREATE TABLE IF NOT EXISTS hidden (id int, day date)")
    monkeypatch.setenv("WAREHOUSE", server.url.replace("postgres@", "joe:open%20sesame%21@"))
    return "WAREHOUSE"


def test_a_password_from_the_environment_is_used_and_not_told(ask: Ask, joe: str) -> None:
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
def test_a_query_that_fails_is_a_sentence(ask: Ask, joe: str, query: str, sentence: str) -> None:
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
    ask: Ask, joe: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, uri: str
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
def test_a_secret_that_is_written_down_is_refused(ask: Ask, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"say \{env: NAME\}, the environment variable that holds it") as told:
        ask("", **settings)
    assert "wr0ng" not in str(told.value)


def test_a_server_that_ends_the_session_while_rows_come_is_a_sentence(ask: Ask) -> None:
    ends = "CASE WHEN n = 400000 THEN pg_terminate_backend(pg_backend_pid())::text ELSE repeat('x', 100) END"
    with pytest.raises(SourceError, match=r"features\.sql cannot be .*terminating connection.*run the day again") as told:
        ask(f"SELECT n AS id, {ends} AS text FROM generate_series(1, 500000) n WHERE $partition IS NOT NULL")
    assert "\n" not in str(told.value)
    assert ask("SELECT 1 AS id, $partition AS day")[0]["id"].to_pylist() == [1]


def test_a_server_that_dies_while_rows_come_is_a_sentence(
    start_server: Callable[[PostgresServer], PostgresServer], tmp_path: Path
) -> None:
    server, query = start_server(PostgresServer()), tmp_path / "long.sql"
    query.write_text("SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) n WHERE $partition IS NOT NULL")
    source = WarehouseSource(driver="postgresql", uri=server.url, query=str(query))
    with source.streamed(DAY.isoformat(), tmp_path, "UTC") as streamed:
        next(streamed.rows)
        server.kill()
        with pytest.raises(SourceError, match=r"long\.sql cannot be .*server closed the connection.*run the day again"):
            streamed.rows.read_all()


def test_a_driver_that_is_not_installed_is_a_sentence(ask: Ask) -> None:
    with pytest.raises(MissingExtra, match=r"adbc_driver_snowflake, .*: pip install adbc-driver-snowflake\.$"):
        ask("SELECT 1 AS id, $partition AS day", driver="snowflake", uri="account")


@pytest.mark.parametrize("driver", ["sqlite", "duckdb"])
def test_a_file_that_is_not_there_is_not_made(ask: Ask, tmp_path: Path, driver: str) -> None:
    with pytest.raises(SourceError, match=r"There is no file .*nothing"):
        ask("SELECT 1 AS id, $partition AS day", driver=driver, uri=str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_a_file_is_not_written_to(ask: Ask, tmp_path: Path) -> None:
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
def test_settings_that_do_not_fit_together_are_refused(ask: Ask, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ask("", **settings)
