from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.errors import TableError
from batch_assets.tables.table import Table
from batch_assets.tables.warehouse_table import WarehouseTable
from batch_assets_tests.conftest import require
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.tables.table_behaviour import DAY, TableBehaviour, rows

SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    require(PostgresServer)
    with PostgresServer() as server:
        yield server


@pytest.mark.process
class TestPostgresql(TableBehaviour):
    @pytest.fixture
    @override
    def table(self, server: PostgresServer) -> Iterator[Table]:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS scores CASCADE")
            connection.execute("CREATE SCHEMA scores")
        return WarehouseTable(driver="postgresql", uri=server.url, table="scores.churn")

    @override
    def read(self, table: Table) -> pa.Table:
        assert isinstance(table, WarehouseTable)
        with psycopg.connect(str(table.uri)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM scores.churn")
            names = [one.name for one in cursor.description or ()]
            return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])

    def test_a_reader_in_a_transaction_keeps_the_day_that_it_saw(self, table: Table, server: PostgresServer) -> None:
        table.replace(rows())
        with psycopg.connect(server.url) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            count = "SELECT count(*), min(release) FROM scores.churn"
            assert connection.execute(count).fetchone() == (1_000, "first")
            table.replace(rows(count=500, release="second"))
            assert connection.execute(count).fetchone() == (1_000, "first")
        with psycopg.connect(server.url) as connection:
            assert connection.execute(count).fetchone() == (500, "second")

    def test_nothing_is_left_beside_it(self, table: Table, server: PostgresServer) -> None:
        table.replace(rows())
        with psycopg.connect(server.url) as connection:
            found = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE '%churn%'").fetchall()
        assert found == [("churn",)]

    def test_grants_and_comments_of_a_table_stay(self, table: Table, server: PostgresServer) -> None:
        table.replace(rows())
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("COMMENT ON TABLE scores.churn IS 'who leaves'")
            connection.execute('CREATE INDEX ON scores.churn ("user")')
            table.replace(rows(count=10, release="second"))
            said = connection.execute("SELECT obj_description('scores.churn'::regclass)").fetchone()
        assert said == ("who leaves",)

    def test_a_server_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WAREHOUSE", f"postgresql://somebody:{SECRET}@127.0.0.1:1/none")
        table = WarehouseTable.model_validate({"driver": "postgresql", "uri": {"env": "WAREHOUSE"}, "table": "churn"})
        with pytest.raises(TableError, match=r"The table churn cannot be read \(postgresql://127.0.0.1:1/none\)") as raised:
            table.release(DAY)
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"driver": "duckdb", "uri": "x"}, "no table is written by the driver duckdb"),
        ({"driver": "postgresql", "uri": f"postgresql://a:{SECRET}@b/c"}, "there is a password in uri"),
        ({"driver": "postgresql", "uri": "postgresql://b/c", "table": 'a"; DROP TABLE b'}, "should match pattern"),
        ({"driver": "postgresql"}, "needs a uri"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        WarehouseTable.model_validate({"table": "churn", **settings})
    assert SECRET not in str(raised.value)
