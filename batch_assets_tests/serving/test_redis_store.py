"""Redis as a store: what every store does, and what can happen to a server."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.secret import Secret
from batch_assets.serving import redis_store
from batch_assets.serving.build import require_equal
from batch_assets.serving.redis_store import RedisStore, Sentinels
from batch_assets.serving.store import Release, Store
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.serving.store_behaviour import BINARY, WIDE, ServerStoreBehaviour, records
from batch_assets_tests.serving.store_swapping import swapped

Start = Callable[[RedisServer], RedisServer]


class TestRedis(ServerStoreBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.port = redis_server.port

    def store(self, folder: Path) -> Store:
        return RedisStore(host="127.0.0.1", port=self.port, prefix=folder.name)

    def test_a_lost_bucket_is_never_no_prediction(self, storage: LocalStorage, tmp_path: Path) -> None:
        for kind in (BINARY, WIDE):
            keys = pa.array(np.arange(1_000))
            release = self.built(storage, tmp_path, keys, records(kind, len(keys)))
            assert isinstance(release.store, RedisStore)
            table = release.store.open(storage, release)
            with release.store.client() as client:
                client.delete(release.store.key_of(release, 3))
            answers = [self._asked(table, key) for key in range(1_100)]
            assert answers.count("lost") > 30
            assert answers.count("none") < 100
            for broken in (
                lambda one=release: require_equal(storage, one),
                lambda one=release: one.store.publish(storage, one, 9),
            ):
                with pytest.raises(ReleaseBroken, match="lost"):
                    broken()

    @staticmethod
    def _asked(table: object, key: int) -> str:
        try:
            return "none" if table.get(key) is None else "found"  # type: ignore[attr-defined]
        except ReleaseBroken:
            return "lost"

    @pytest.mark.parametrize("kind", [BINARY, WIDE], ids=["6 bytes", "96 bytes"])
    def test_what_is_live_has_no_end_and_what_was_live_has_one(
        self, storage: LocalStorage, tmp_path: Path, kind: object
    ) -> None:
        first, second = (self.published(storage, tmp_path, number) for number in (1, 2))
        assert (self._ends(first), self._ends(second)) == (True, False)
        first.store.publish(storage, first, 3)
        assert (self._ends(first), self._ends(second)) == (False, True)

    def _ends(self, release: Release) -> bool:
        assert isinstance(release.store, RedisStore)
        with release.store.client() as client:
            return client.ttl(release.store.key_of(release, 0)) > 0

    def test_a_hash_stays_small(self, storage: LocalStorage, tmp_path: Path) -> None:
        keys = pa.array(np.arange(50_000) * 7)
        release = self.built(storage, tmp_path, keys, records(BINARY, len(keys)), batch=10_000)
        assert isinstance(release.store, RedisStore)
        with release.store.client() as client:
            names = [release.store.key_of(release, bucket) for bucket in range(0, int(release.built["buckets"]), 11)]
            assert {client.object("encoding", name) for name in names} == {b"listpack"}


def small_release(storage: LocalStorage, store: RedisStore, rows: int = 3, seed: int = 0) -> Release:
    """A release that is built and not published."""
    return TestRedis().built(storage, Path(), pa.array(np.arange(rows)), records(BINARY, rows, seed), batch=5_000, store=store)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "root"))


class TestAServerThatSaysNo:
    def test_out_of_memory(self, start_server: Start, storage: LocalStorage) -> None:
        server = start_server(RedisServer({"maxmemory": "4mb", "maxmemory-policy": "noeviction"}))
        store = RedisStore(host="127.0.0.1", port=server.port)
        live = small_release(storage, store)
        store.publish(storage, live, 1)
        with pytest.raises(StoreUnavailable, match="no memory for another release: raise its maxmemory, or keep fewer"):
            small_release(storage, store, rows=400_000)
        pointer = store.pointer(storage, "small")
        assert pointer is not None
        assert pointer.release == live
        assert store.open(storage, live).get(1) is not None
        for left in store.left_behind(storage, "small", [live]):
            store.drop(storage, left)
        again = small_release(storage, store, seed=1)
        store.publish(storage, again, 2)

    def test_one_that_evicts(self, start_server: Start, storage: LocalStorage) -> None:
        server = start_server(RedisServer({"maxmemory": "10mb", "maxmemory-policy": "allkeys-lru"}))
        with pytest.raises(StoreUnavailable, match="maxmemory-policy allkeys-lru, which throws away what readers need"):
            small_release(storage, RedisStore(host="127.0.0.1", port=server.port))

    def test_a_wrong_password_and_a_user_who_may_not(
        self, start_server: Start, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = "reader on >word2 ~* +@read +@connection"
        server = start_server(RedisServer({"user": user}, password="word1"))
        monkeypatch.setenv("RIGHT", "word1")
        monkeypatch.setenv("WRONG", "another")
        monkeypatch.setenv("READER", "word2")
        right = RedisStore(host="127.0.0.1", port=server.port, password=Secret(env="RIGHT"))
        live = small_release(storage, right)
        right.publish(storage, live, 1)
        for name in ("WRONG", None):
            wrong = RedisStore(host="127.0.0.1", port=server.port, password=Secret(env=name) if name else None)
            with pytest.raises(StoreUnavailable) as raised:
                wrong.pointer(storage, "small")
            assert "look at `user` and `password`" in str(raised.value)
            assert "another" not in str(raised.value)
        reader = RedisStore(host="127.0.0.1", port=server.port, user="reader", password=Secret(env="READER"))
        pointer = reader.pointer(storage, "small")
        assert pointer is not None
        assert reader.open(storage, pointer.release).get(1) is not None
        with pytest.raises(StoreUnavailable, match="does not permit"):
            small_release(storage, reader)

    def test_nobody_answers(self, storage: LocalStorage) -> None:
        store = RedisStore(host="127.0.0.1", port=1, timeout_s=1)
        with pytest.raises(StoreUnavailable, match=r"^Redis at 127\.0\.0\.1:1 does not answer .*: is it up\?$"):
            small_release(storage, store)
        behind = RedisStore(sentinels=Sentinels(master="main", hosts=("127.0.0.1:1",)), timeout_s=1)
        with pytest.raises(StoreUnavailable, match=r"^Redis at 127\.0\.0\.1:1 does not answer"):
            behind.pointer(storage, "small")


class TestAServerThatIsKilled:
    """Every write is on its disk before it is answered: what was live is live when it is up again."""

    @pytest.mark.parametrize("at", ["build", "publish", "drop"])
    def test_old_or_new_and_again(self, start_server: Start, storage: LocalStorage, tmp_path: Path, at: str) -> None:
        server = start_server(RedisServer())
        store = RedisStore(host="127.0.0.1", port=server.port, timeout_s=5)
        old, new = (small_release(storage, store, 20_000, seed) for seed in range(2))
        store.publish(storage, old, 1)
        program = (
            "import sys; from batch_assets.storage import LocalStorage; from batch_assets.serving.store import Release;"
            "from batch_assets_tests.serving.test_redis_store import small_release\n"
            "storage, at = LocalStorage(sys.argv[1]), sys.argv[2]\n"
            "old, new = map(Release.model_validate_json, sys.argv[3:5])\n"
            "print('begun', flush=True)\n"
            "for number in range(2, 10_000):\n"
            "    if at == 'build': small_release(storage, new.store, 20_000, 5)\n"
            "    if at == 'publish': new.store.publish(storage, (old, new)[number % 2], number)\n"
            "    if at == 'drop': new.store.drop(storage, small_release(storage, new.store, 20_000, 5))\n"
        )
        arguments = [str(storage.root), at, old.model_dump_json(), new.model_dump_json()]
        with subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "begun\n"
            with redis.Redis(port=server.port) as client:
                before = client.info("stats")["total_commands_processed"]
                while client.info("stats")["total_commands_processed"] < before + 500:
                    pass
            server.kill()
            said = worker.communicate(timeout=60)[1]
            assert "does not answer" in said
        server.start()
        pointer = store.pointer(storage, "small")
        assert pointer is not None
        assert pointer.release in (old, new)
        require_equal(storage, pointer.release)
        again = small_release(storage, store, 20_000, 7)
        store.publish(storage, again, 20_000)
        require_equal(storage, again)
        for left in store.left_behind(storage, "small", []):
            store.drop(storage, left)
        with redis.Redis(port=server.port) as client:
            assert client.dbsize() == 2 + int(again.built["buckets"]), "nothing is orphaned"

    def test_a_builder_that_is_killed_leaves_what_is_found(self, start_server: Start, storage: LocalStorage) -> None:
        server = start_server(RedisServer({"appendfsync": "no"}))
        store = RedisStore(host="127.0.0.1", port=server.port)
        live = small_release(storage, store)
        store.publish(storage, live, 1)
        program = (
            "import sys; from batch_assets.storage import LocalStorage;"
            "from batch_assets_tests.serving.test_redis_store import RedisStore, small_release;"
            "small_release(LocalStorage(sys.argv[1]), RedisStore(host='127.0.0.1', port=int(sys.argv[2])), 3_000_000)"
        )
        with (
            subprocess.Popen([sys.executable, "-c", program, str(storage.root), str(server.port)]) as worker,
            redis.Redis(port=server.port) as client,
        ):
            while client.dbsize() < 1_000:
                assert worker.poll() is None
            os.kill(worker.pid, signal.SIGKILL)
        (left,) = store.left_behind(storage, "small", [live])
        store.drop(storage, left)
        with redis.Redis(port=server.port) as client:
            assert client.dbsize() == 2 + int(live.built["buckets"])


def test_a_cluster(start_server: Start, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes share the slots; buckets lie on both of them."""
    nodes = [start_server(RedisServer({"cluster-enabled": "yes"})) for _ in range(2)]
    clients = [redis.Redis(port=node.port) for node in nodes]
    for client, (first, last) in zip(clients, [(0, 8_191), (8_192, 16_383)], strict=True):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, nodes[1].port + 1)
    while not all(b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO") for client in clients):
        pass
    store = RedisStore(host="127.0.0.1", port=nodes[0].port, cluster=True)
    releases = [small_release(storage, store, 20_000, seed) for seed in range(2)]
    assert all(client.dbsize() > 100 for client in clients)
    for number, release in enumerate(releases, start=1):
        store.publish(storage, release, number)
        require_equal(storage, release)
    pointer = store.pointer(storage, "small")
    assert pointer is not None
    assert pointer.release == releases[1]
    found = store.open(storage, releases[1]).get_many([1, 2, 30_000])
    expected = records(BINARY, 20_000, 1).packed()
    assert [one and one.tobytes() for one in found] == [expected[1].tobytes(), expected[2].tobytes(), None]
    store.drop(storage, releases[0])
    assert store.left_behind(storage, "small", []) == []
    for client in clients:
        client.close()


def test_more_than_fits_into_memory_at_once(
    redis_server: RedisServer, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_assets.serving.buckets.ROWS_AT_ONCE", 3_000)
    store = RedisStore(host="127.0.0.1", port=redis_server.port, prefix="spilled")
    require_equal(storage, small_release(storage, store, 20_000))
    assert redis_store.BUCKET_KEYS <= 128


def test_releases_are_swapped_while_processes_read(redis_server: RedisServer, tmp_path: Path) -> None:
    """No key is missing, and no answers are of two releases; `benchmarks/stores/redis.py --swap 200` does it for long."""
    store = RedisStore(host="127.0.0.1", port=redis_server.port, prefix="swapped")
    found = swapped(store, tmp_path, "swapped", releases=15, processes=2, rows=2_000)
    assert found["releases_seen"] > 2
    assert found["answers"] > 15 * 200
