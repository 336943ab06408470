"""The PostgreSQL store: what every store does, and what those see who read it by SQL, by a Reader, in threads and forks."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.errors import Closed, ReleaseBroken, StoreUnavailable
from batch_assets.features.keys import Key, identity
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage, open_storage
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_releases import USERS, built, described, live, objects, records_of, sql, store_of
from batch_assets_tests.serving.postgres_swapping import swapped
from batch_assets_tests.serving.store_behaviour import BINARY, StoreBehaviour, records

pytestmark = pytest.mark.process


class TestPostgres(StoreBehaviour):
    """The pack."""

    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server

    @override
    def store(self, folder: Path) -> PostgresStore:
        return store_of(self.server, folder)


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    return postgres_server


@pytest.fixture
def store(server: PostgresServer, tmp_path: Path) -> PostgresStore:
    return store_of(server, tmp_path)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "root"))


class TestSql:
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


class TestPointer:
    def test_it_never_goes_backwards(self, store: PostgresStore, storage: LocalStorage) -> None:
        assert store.pointer(storage, "churn") is None
        releases = {day: built(store, storage, day) for day in (1, 2, 3)}
        for day, number in ((2, 5), (1, 4), (2, 5), (3, 5)):
            store.publish(storage, releases[day], number)
        pointer = store.pointer(storage, "churn")
        assert pointer is not None
        assert (pointer.number, pointer.release) == (5, releases[2])
        store.publish(storage, releases[1], 6)
        assert Reader.of_store(store, "churn").lookup(1).record["probability"] == 1.0

    def test_of_many_at_once_the_highest_number_stays(self, store: PostgresStore, storage: LocalStorage) -> None:
        release = built(store, storage, 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.publish(storage, release, number), range(1, 17)))
        pointer = store.pointer(storage, "churn")
        assert pointer is not None
        assert pointer.number == 16

    def test_another_root_is_refused(self, store: PostgresStore, storage: LocalStorage, tmp_path: Path) -> None:
        roots = [open_storage(str(tmp_path / name)) for name in ("one", "other")]
        for root in roots:
            root.create("churn/something", b"")  # a root has its name once something was written
        live(store, roots[0], 1)
        with pytest.raises(StoreUnavailable, match=r"serves churn from another storage root: give this store another schema"):
            live(store, roots[1], 2)
        assert store.left_behind(roots[0], "churn", []) == []
        assert [one.partition for one in store.left_behind(roots[1], "churn", [])] == ["2024-03-02"]

    def test_a_release_that_is_not_there_does_not_go_live(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        live(store, storage, 1)
        gone, emptied = built(store, storage, 2), built(store, storage, 3)
        store.drop(storage, gone)
        with sql(server, store) as connection:
            connection.execute(f'TRUNCATE "{emptied.built["table"]}"')
        with pytest.raises(ReleaseBroken, match="is not there: publish 2024-03-02 again"):
            store.publish(storage, gone, 4)
        with pytest.raises(ReleaseBroken, match="has 0 bytes instead of 8,192: publish 2024-03-03 again"):
            store.publish(storage, emptied, 4)
        assert Reader.of_store(store, "churn").lookup(1).record["partition"] == "2024-03-01"


class TestReading:
    def test_what_was_dropped_is_no_missing_key(self, store: PostgresStore, storage: LocalStorage) -> None:
        first = live(store, storage, 1)
        table = store.open(storage, first)
        assert table.get(1) is not None
        live(store, storage, 2)
        assert table.get(1) is not None
        store.drop(storage, first)
        with pytest.raises(ReleaseBroken, match="publish the partition again"):
            table.get(1)

    def test_threads_share_few_connections(self, server: PostgresServer, storage: LocalStorage, tmp_path: Path) -> None:
        store = store_of(server, tmp_path, connections=2)
        table = store.open(storage, built(store, storage, 1))
        ready = threading.Barrier(8)

        def ask(user: int) -> bool:
            ready.wait(60)
            return all(table.get(user) is not None for _ in range(50))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, [1, 2, 3, 1, 2, 3, 1, 2]))
        assert _connected(server, store) <= 2

    def test_what_is_not_referred_to_any_more_lets_go(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage, tmp_path: Path
    ) -> None:
        first, second = live(store, storage, 1), live(store, storage, 2)
        before = _connected(server, store)
        table = store_of(server, tmp_path).open(storage, first)
        other = table.reopen(storage, second)
        table.close()
        with pytest.raises(Closed):
            table.get(1)
        assert other.get(1) is not None
        assert _connected(server, store) == before + 1
        del other, table
        assert _connected(server, store, wanted=before) == before

    def test_a_server_that_ended_what_was_idle_is_asked_again(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        table = store.open(storage, built(store, storage, 1))
        assert table.get(1) is not None
        with sql(server, store) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        assert table.get(1) is not None

    def test_a_process_that_was_forked_has_connections_of_its_own(self, store: PostgresStore, storage: LocalStorage) -> None:
        reader = Reader.of_store(store, "churn") if live(store, storage, 1) else None
        assert reader is not None
        child = os.fork()
        if child == 0:
            os._exit(0 if reader.get(1) is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert reader.get(2) is not None

    def test_a_store_that_was_used_can_be_sent_elsewhere(self, store: PostgresStore, storage: LocalStorage) -> None:
        release = live(store, storage, 1)
        assert store.pointer(storage, "churn") is not None
        sent = pickle.loads(pickle.dumps(store))
        assert sent == store
        assert sent.open(storage, release).get(1) is not None

    @pytest.mark.parametrize("key", ["a\0b", "\ud800"])
    def test_a_text_that_no_text_of_postgres_can_be_is_nobodys(
        self, store: PostgresStore, storage: LocalStorage, key: str
    ) -> None:
        texts = pa.array(["a", "b", "c"])
        release = described(store, 1, texts, key=(Key(name="user", dtype="string"),))
        release = release.model_copy(update={"built": store.build(storage, release, [(texts, records_of(1))])})
        table = store.open(storage, release)
        assert (table.get(key), table.get_many([key, "b"])[0]) == (None, None)

    def test_and_is_refused_as_a_key(self, store: PostgresStore, storage: LocalStorage) -> None:
        texts = pa.array(["a", "a\0b", "c"])
        release = described(store, 1, texts, key=(Key(name="user", dtype="string"),))
        with pytest.raises(ReleaseBroken, match="a key has the character NUL, and no text of PostgreSQL can"):
            store.build(storage, release, [(texts, records_of(1))])

    def test_names_are_quoted(self, server: PostgresServer, store: PostgresStore, storage: LocalStorage) -> None:
        release = live(store, storage, 1, key=(Key(name='the "user"\'s $1 %s', dtype="int64"),))
        assert store.open(storage, release).get_many([1, 9])[1] is None
        with sql(server, store) as connection:
            assert connection.execute('SELECT "the ""user""\'s $1 %s" FROM churn_live ORDER BY 1 LIMIT 1').fetchone() == (1,)


def test_releases_are_swapped_under_readers(server: PostgresServer, store: PostgresStore, storage: LocalStorage) -> None:
    """`python benchmarks/stores/postgres.py --swap 200` is the long version."""
    found = swapped(storage, store, releases=12, processes=2, rows=2_000)
    assert found["answers of SQL"] > 0
    assert found["answers of a Reader"] > 0
    assert found["left behind"] == 0
    assert len(objects(server, store)) == 2 + 3  # builds and pointers, and what is kept


def test_nothing_was_ever_built(store: PostgresStore, storage: LocalStorage) -> None:
    assert store.pointer(storage, "churn") is None
    assert store.left_behind(storage, "churn", []) == []
    store.drop(storage, described(store, 1, built={"build": "7", "table": "churn_7"}))


def _connected(server: PostgresServer, store: PostgresStore, wanted: int | None = None) -> int:
    """How many connections of ours asked the store's schema last, when there are as many as wanted, or after half a minute."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'batch-assets' AND query LIKE %s"
    with psycopg.connect(server.url, autocommit=True) as connection:
        for _ in range(600):
            ((found,),) = connection.execute(query, [f"%{store.schema_name}%"]).fetchall()
            if wanted in (None, found):
                break
            connection.execute("SELECT pg_sleep(0.05)")  # the server has not seen yet that some were closed
    return int(found)
