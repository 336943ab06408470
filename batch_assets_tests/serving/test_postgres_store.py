"""The PostgreSQL store: what every store does, and what those see who read it by SQL, by a Reader, in threads and forks."""

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.errors import Closed, ReleaseBroken
from batch_assets.features.keys import Key
from batch_assets.nightly.publish import published_matches
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage
from batch_assets_tests.nights import DAYS, SETTINGS, night
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_releases import (
    Served,
    built,
    described,
    live,
    objects,
    records_of,
    sql,
    store_of,
)
from batch_assets_tests.serving.postgres_swapping import swapped
from batch_assets_tests.serving.store_behaviour import ServerStoreBehaviour
from batch_assets_tests.small import Small

pytestmark = pytest.mark.process


class TestPostgres(ServerStoreBehaviour):
    """The pack."""

    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server

    @override
    def store(self, folder: Path) -> PostgresStore:
        return store_of(self.server, folder)


class TestReading(Served):
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


class TestTogether(Served):
    def test_nothing_was_ever_built(self, store: PostgresStore, storage: LocalStorage) -> None:
        assert store.pointer(storage, "churn") is None
        assert store.left_behind(storage, "churn", []) == []
        store.drop(storage, described(store, 1, built={"build": "7", "table": "churn_7"}))

    def test_releases_are_swapped_under_readers(self, server: PostgresServer, store: PostgresStore, tmp_path: Path) -> None:
        """`python benchmarks/stores/postgres.py --swap 200` is the long version."""
        found = swapped(tmp_path, store, releases=12, processes=2, rows=2_000)
        assert found["answers by SQL"] > 0
        assert found["answers"] > 0
        assert len(objects(server, store)) == 2 + 3  # builds and pointers, and what is kept

    @pytest.mark.night
    def test_nights_are_published_beside_those_of_another_store(
        self, make_small: Callable[..., Small], server: PostgresServer, store: PostgresStore
    ) -> None:
        small = make_small(stores=[{"kind": "arrow"}, store.model_dump()], **SETTINGS)
        for day in DAYS[:2]:
            assert night(small, day).is_live
            assert published_matches(small.opened(day)).passed
        for user in (1, 42, 2_000):
            assert (
                Reader.of_store(store, "small").lookup(user).record == Reader.open("small", small.storage).lookup(user).record
            )
        with sql(server, store) as connection:
            query = "SELECT release->>'partition' FROM pointers WHERE pipeline = 'small' ORDER BY number DESC"
            assert [day for (day,) in connection.execute(query)] == DAYS[:2][::-1]


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
