"""The PostgreSQL store for those who read it by SQL: columns, plans, transactions, grants."""

from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from batch_assets.features.keys import Key, identity
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_releases import USERS, Served, described, live, objects, records_of, sql, store_of
from batch_assets_tests.serving.store_behaviour import BINARY, records

pytestmark = pytest.mark.process


class TestSql(Served):
    """What people see who know nothing of us."""

    def test_columns_are_typed_and_named(self, server: PostgresServer, store: PostgresStore, storage: LocalStorage) -> None:
        release = live(store, storage, 7)
        with sql(server, store) as connection:
            cursor = connection.execute("SELECT * FROM churn_live ORDER BY 1")
            assert cursor.description is not None
            assert [(one.name, one.type_display) for one in cursor.description] == [
                ("user", "int8"),
                ("probability", "float4"),
                ("label", "text"),
                ("scores", "float4[]"),
            ]
            assert cursor.fetchall() == [(n, 7.0, name, [7.0, 7.0]) for n, name in enumerate(["no", "yes", "it's"], 1)]
            table = f'"{release.built["table"]}"'
            told = connection.execute("SELECT obj_description(to_regclass(%s))", [table]).fetchone()
            assert told == ("churn of 2024-03-07 by churn v3, run 0123456789abcdef",)
            labels = connection.execute("SELECT col_description(to_regclass(%s), 4)", [table]).fetchone()
            assert labels == ("0: no, 1: yes, 2: it's",)

    def test_a_key_of_several_columns_has_them(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        columns = pa.table(
            {
                "country": ["de", "de", "fr"],
                "day": pa.array([-700_000, 3, 0], pa.int32()).cast(pa.date32()),
                "user": pa.array([1, 2, -1], pa.int32()),
            }
        )
        names = columns.column_names
        key = tuple(Key(name=name, dtype=kind) for name, kind in zip(names, ("string", "date", "int32"), strict=True))
        keys = identity(columns, names)
        release = described(store, 7, keys, key=key)
        release = release.model_copy(update={"built": store.build(storage, release, [(keys, records_of(7))])})
        store.publish(storage, release, 1)
        with sql(server, store) as connection:
            found = connection.execute('SELECT country, day::text, "user" FROM churn_live ORDER BY 1, 2, 3').fetchall()
            assert found == [("de", "0053-06-19", 1), ("de", "1970-01-04", 2), ("fr", "1970-01-01", -1)]
        assert [key for some, _ in store.scan(storage, release) for key in some.to_pylist()] == keys.to_pylist()
        answer = Reader.of_store(store, "churn").get(("fr", "1970-01-01", -1))
        assert answer is not None
        assert answer.record["label"] == "it's"

    def test_a_look_up_touches_the_live_partition_by_its_index(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        releases = [live(store, storage, day) for day in (1, 2, 3)]
        with sql(server, store) as connection:
            connection.execute("SET enable_seqscan = off")  # three rows are not worth an index
            plan = [line for (line,) in connection.execute('EXPLAIN (ANALYZE) SELECT * FROM churn_live WHERE "user" = 2')]
        scans = {name: line for line in plan for name in (one.built["table"] for one in releases) if f" {name} " in line}
        assert ["never executed" in scans[one.built["table"]] for one in releases] == [True, True, False]
        assert "Index Scan" in scans[releases[2].built["table"]]

    @pytest.mark.parametrize("prepared", [True, False])
    def test_each_statement_of_an_open_transaction_sees_what_is_live(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage, prepared: bool
    ) -> None:
        """Also one whose plan was made before the release."""
        live(store, storage, 1)
        with sql(server, store) as connection, connection.transaction():
            for day in (1, 2, 3):
                live(store, storage, day, number=day + 1)
                query = 'SELECT probability FROM churn_live WHERE "user" = %s'
                seen = [connection.execute(query, [user], prepare=prepared).fetchone() for user in (1, 2, 3)]
                assert len(set(seen)) == 1
                assert seen[0] in [(float(one),) for one in range(1, day + 1)]
        with sql(server, store) as connection:
            assert connection.execute("SELECT DISTINCT probability FROM churn_live").fetchall() == [(3.0,)]

    def test_a_repeatable_transaction_keeps_its_release(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        live(store, storage, 1)
        with sql(server, store) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                for day in (2, 3):
                    assert connection.execute("SELECT DISTINCT probability FROM churn_live").fetchall() == [(1.0,)]
                    live(store, storage, day)
                assert connection.execute("SELECT DISTINCT probability FROM churn_live").fetchall() == [(1.0,)]

    def test_other_records_are_another_view_for_the_same_readers(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage, tmp_path: Path
    ) -> None:
        first = live(store, storage, 1)
        role = f"reader_{store.schema_name[-8:]}"
        with sql(server, store) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN")
            connection.execute(f'GRANT USAGE ON SCHEMA "{store.schema_name}" TO {role}')
            (parent,) = objects(server, store, "p")
            connection.execute(f'GRANT SELECT ON churn_live, pointers, "{parent}" TO {role}')
        other = described(store, 2, record=BINARY)
        other = other.model_copy(update={"built": store.build(storage, other, [(USERS, records(BINARY, 3))])})
        store.publish(storage, other, 2)
        with sql(server, store, role) as connection:
            assert connection.execute("SELECT label IN ('no', 'yes') FROM churn_live WHERE \"user\" = 2").fetchone() == (True,)
        reading = store_of(server, tmp_path, user=role)
        assert Reader.of_store(reading, "churn").lookup(2).record["partition"] == "2024-03-02"
        store.publish(storage, first, 3)
        with sql(server, store, role) as connection:
            assert connection.execute('SELECT scores FROM churn_live WHERE "user" = 2').fetchone() == ([1.0, 1.0],)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM pointers")
