"""Releases in a real Cassandra: what every store does; what is live there, what is left behind, and what CQL says of both."""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_assets.errors import NoPrediction, ReleaseBroken, StoreUnavailable
from batch_assets.serving.buckets import bucket_of
from batch_assets.serving.cassandra import session
from batch_assets.serving.cassandra import table as cassandra_table
from batch_assets.serving.cassandra.registry import Registry
from batch_assets.serving.cassandra_store import CassandraStore
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Pointer, Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import SharedServer
from batch_assets_tests.serving.store_behaviour import BINARY, WIDE, ServerStoreBehaviour, StoreBehaviour, records
from batch_assets_tests.serving.store_swapping import swapped

ONE_NODE = {"class": "SimpleStrategy", "replication_factor": 1}
FEW = pa.array([1, 2, 3])

BUILDER = """
import sys
import pyarrow as pa
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.store_behaviour import BINARY, records

def batches():
    print("building", flush=True)
    sys.stdin.read()
    yield pa.array([1]), records(BINARY, 1)

release = Release.model_validate_json(sys.argv[2])
release.store.build(LocalStorage(sys.argv[1]), release, batches())
"""


class InCassandra:
    """Releases in the run's Cassandra, in a keyspace of this process, which knows of none when a test begins."""

    storage = StoreBehaviour.storage
    built = StoreBehaviour.built
    _columns = staticmethod(StoreBehaviour._columns)

    @pytest.fixture(autouse=True)
    def server(self, cassandra_server: SharedServer) -> None:
        self.port, self.keyspace = cassandra_server.port, f"tests_{os.getpid()}"
        session = self.store(Path()).session()
        Registry(session, self.keyspace).create()
        session.rows(f"DELETE FROM {self.keyspace}.releases WHERE pipeline = 'small'", [], "LOCAL_QUORUM")

    def store(self, folder: Path) -> CassandraStore:
        return CassandraStore(port=self.port, keyspace=self.keyspace, replication=ONE_NODE, connect_timeout_s=30)

    def few(self, storage: LocalStorage, seed: int = 3) -> Release:
        """A release of three keys."""
        return self.built(storage, Path(), FEW, records(BINARY, 3, seed))

    def cql(self, statement: str) -> list[Any]:
        """What a user of CQL gets."""
        from cassandra.cluster import Cluster

        patient = {"connect_timeout": 60, "control_connection_timeout": 60}
        with Cluster(["127.0.0.1"], port=self.port, **patient) as cluster, cluster.connect(self.keyspace) as session:
            return list(session.execute(statement))


class TestWhatEveryStoreDoes(InCassandra, ServerStoreBehaviour):
    pass


class TestInCql(InCassandra):
    def test_a_key_is_read_by_the_names_of_its_fields(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        release.store.publish(storage, release, 1)
        (row,) = self.cql("SELECT live, live_buckets, number FROM releases WHERE pipeline = 'small' LIMIT 1")
        fields = "records[2].probability AS p, records[2].decile AS d, records[2].label AS l"
        (found,) = self.cql(f"SELECT {fields} FROM {row.live} WHERE bucket = {bucket_of(2, row.live_buckets)}")
        stored = records(BINARY, 3).packed()[1]
        assert (found.p, found.d, found.l) == (
            pytest.approx(stored["probability"], nan_ok=True),
            stored["decile"],
            ("no", "yes")[stored["label"]],
        )
        assert row.number == 1

    def test_a_vector_is_a_list(self, storage: LocalStorage) -> None:
        release = self.built(storage, Path(), FEW, records(WIDE, 3))
        (row,) = self.cql(f"SELECT records[1].scores AS s, records[1].place AS p FROM {release.built['build']}")
        stored = records(WIDE, 3).packed()[0]
        assert (row.s, row.p) == (pytest.approx(stored["scores"].tolist(), nan_ok=True), stored["place"])

    def test_rows_are_as_many_as_fill_what_is_read_at_once(self, storage: LocalStorage) -> None:
        keys = pa.array(range(10_000))
        release = self.built(storage, Path(), keys, records(BINARY, 10_000), batch=3_000)
        assert len(self.cql(f"SELECT bucket FROM {release.built['build']}")) == int(release.built["buckets"]) == 30
        found = release.store.open(storage, release).get_many(list(range(0, 10_000, 7)))
        assert [one.tobytes() for one in found] == [one.tobytes() for one in records(BINARY, 10_000).packed()[::7]]


class TestWhatIsMissing(InCassandra):
    def test_a_bucket_that_is_not_there_is_no_answer(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        table = release.store.open(storage, release)
        self.cql(f"DELETE FROM {release.built['build']} WHERE bucket = 0")
        missing = pytest.raises(ReleaseBroken, match=r"Bucket 0 of release .* is missing in Cassandra at .*: publish")
        for ask in (
            lambda: table.get(2),
            lambda: table.get(77),
            lambda: table.get_many([1, 2, 3]),
            lambda: list(release.store.scan(storage, release)),
            lambda: release.store.require_there(storage, release),
            lambda: release.store.publish(storage, release, 1),
        ):
            with missing:
                ask()
        assert release.store.pointer(storage, "small") is None

    def test_what_somebody_wrote_into_a_bucket_is_noticed(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        self.cql(f"UPDATE {release.built['build']} SET records = {{2: {{label: 'perhaps'}}}} WHERE bucket = 0")
        with pytest.raises(ReleaseBroken, match="does not hold what a release does"):
            release.store.open(storage, release).get(2)
        with pytest.raises(ReleaseBroken, match="does not hold what a release does"):
            list(release.store.scan(storage, release))

    def test_a_table_that_is_dropped_under_a_reader_is_broken(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        table = release.store.open(storage, release)
        release.store.drop(storage, release)
        for ask in (lambda: table.get(2), lambda: table.get_many([1, 2, 3])):
            with pytest.raises(ReleaseBroken, match="does not exist"):
                ask()

    def test_what_is_not_all_there_at_one_replica_is_asked_of_a_quorum(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is one node here: what a replica lacks that has not got a bucket yet is imitated."""
        release, asked = self.few(storage), list[str]()
        session = release.store.session()
        many, rows = session.many, session.rows

        def lacking(cql: str, every: Any, consistency: str, at_once: int) -> Iterator[Any]:
            asked.append(consistency)
            return ((values, []) for values, _ in many(cql, every, consistency, at_once))

        def certain(cql: str, values: Any, consistency: str) -> list[Any]:
            asked.append(consistency)
            return rows(cql, values, consistency)

        def lacks_at_first(cql: str, every: Any, consistency: str, at_once: int) -> Iterator[Any]:
            return (lacking if consistency == "LOCAL_ONE" else many)(cql, every, consistency, at_once)

        table = release.store.open(storage, release)
        monkeypatch.setattr(session, "many", lacks_at_first)
        monkeypatch.setattr(session, "rows", certain)
        found = table.get(2)
        assert found is not None
        assert found.tobytes() == records(BINARY, 3).packed()[1].tobytes()
        assert asked == ["LOCAL_ONE", "LOCAL_QUORUM"]
        assert [one.tobytes() for one in table.get_many([1, 2, 3])] == [one.tobytes() for one in records(BINARY, 3).packed()]


class TestPointer(InCassandra):
    @pytest.mark.parametrize("moved", [True, False])
    def test_a_move_that_nobody_knows_of_is_looked_at(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, moved: bool
    ) -> None:
        """A conditional statement may be too late and be done all the same, which is imitated here."""
        release, move, failed = self.few(storage), Registry.move, list[str]()

        def too_late(registry: Registry, *said: Any) -> bool:
            if failed:
                return move(registry, *said)
            if moved:
                assert move(registry, *said)
            failed.append("once")
            raise StoreUnavailable("too late")

        monkeypatch.setattr(Registry, "move", too_late)
        release.store.publish(storage, release, 1)
        assert release.store.pointer(storage, "small") == Pointer(1, release)

    def test_what_is_being_dropped_does_not_go_live(self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        one, dropped = self.few(storage), self.few(storage)
        one.store.publish(storage, one, 1)
        session = dropped.store.session()

        def killed(cql: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "change", killed)
        with pytest.raises(KeyboardInterrupt):
            dropped.store.drop(storage, dropped)
        with pytest.raises(ReleaseBroken, match="was dropped from Cassandra"):
            one.store.publish(storage, dropped, 2)
        assert one.store.left_behind(storage, "small", [one]) == [dropped]
        one.store.drop(storage, dropped)
        assert one.store.left_behind(storage, "small", [one]) == []


class TestLeftBehind(InCassandra):
    def test_a_build_that_was_killed_is_found_and_dropped(self, storage: LocalStorage) -> None:
        live, named = self.few(storage), self.few(storage)
        live.store.publish(storage, live, 1)
        command = [sys.executable, "-c", BUILDER, storage.location, live.model_copy(update={"built": {}}).model_dump_json()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as builder:
            assert builder.stdout is not None
            assert builder.stdout.readline() == b"building\n"
            builder.kill()
        (left,) = live.store.left_behind(storage, "small", [named])
        assert left.built["build"] not in (live.built["build"], named.built["build"])
        live.store.drop(storage, left)
        assert live.store.left_behind(storage, "small", [named]) == []
        tables = {one.table_name for one in self.cql("SELECT keyspace_name, table_name FROM system_schema.tables")}
        assert tables >= {live.built["build"], named.built["build"]}
        assert left.built["build"] not in tables

    def test_a_table_that_cassandra_lists_and_does_not_know_is_found_until_it_does(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A node that was killed while it made a table does so until its next start: DROP TABLE IF EXISTS does nothing."""
        live, ghost = self.few(storage), self.few(storage)
        live.store.publish(storage, live, 1)
        with monkeypatch.context() as patched:
            patched.setattr(ghost.store.session(), "change", lambda cql: None)
            ghost.store.drop(storage, ghost)
        assert live.store.left_behind(storage, "small", [live]) == [ghost]
        live.store.drop(storage, ghost)
        assert live.store.left_behind(storage, "small", [live]) == []

    def test_where_nothing_was_built_nothing_is(self, storage: LocalStorage) -> None:
        store = CassandraStore(port=self.port, keyspace="empty", replication=ONE_NODE)
        assert store.left_behind(storage, "churn", []) == []
        assert store.pointer(storage, "churn") is None


class TestReaders(InCassandra):
    def test_they_see_one_release_while_others_go_live_and_are_dropped(self, tmp_path: Path) -> None:
        """A short run of `benchmarks/stores/cassandra.py --swap`."""
        done = swapped(self.store(tmp_path), tmp_path, "small", releases=5, processes=2, rows=2_000)
        assert (done["releases"], done["processes"]) == (5, 2)
        assert done["answers"] >= 5 * 2 * 200

    def test_a_reader_shares_the_connection_of_the_store(self, storage: LocalStorage) -> None:
        store, one, other = self.store(Path()), self.few(storage), self.few(storage)
        store.publish(storage, one, 1)
        reader = Reader.of_store(store, "small", fresh_s=0)
        store.publish(storage, other, 2)
        answer = reader.get(2)
        assert answer is not None
        assert reader.release == other
        assert isinstance(reader.release.store, CassandraStore)
        assert reader.release.store.session() is store.session()
        with pytest.raises(NoPrediction):
            Reader.of_store(store, "nobody")

    def test_a_process_that_was_forked_connects_by_itself(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        table = release.store.open(storage, release)
        assert table.get(2) is not None
        child = os.fork()
        if child == 0:
            os._exit(0 if table.get(2) is not None and table.get_many([1, 2, 3]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [one is not None for one in table.get_many([1, 77, 3])] == [True, False, True]

    def test_a_connection_that_nobody_has_any_more_is_closed(self, storage: LocalStorage) -> None:
        release = self.few(storage)
        table = release.store.open(storage, release)
        cluster = release.store.session()._session.cluster
        del release
        gc.collect()
        assert table.get(2) is not None
        del table
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "close-cassandra":
                thread.join()
        assert cluster.is_shutdown


def test_what_was_too_late_is_sent_again_some_times() -> None:
    """As the driver asks its policy; no server here is slow enough to be sure."""
    driver = session._driver()
    policy, level = session._retries(driver), driver.ConsistencyLevel.LOCAL_QUORUM
    said = {"consistency": level, "required_responses": 1, "received_responses": 0}
    for late in (
        lambda number: policy.on_write_timeout(None, retry_num=number, write_type="SIMPLE", **said),
        lambda number: policy.on_read_timeout(None, retry_num=number, data_retrieved=False, **said),
    ):
        assert [late(number) for number in (0, 2)] == [(policy.RETRY, level)] * 2
        assert late(3) == (policy.RETHROW, None)


def test_tables_are_read_in_ranges_that_lose_no_token() -> None:
    bounds = [bound for one in cassandra_table._ranges(1_000) for bound in one]
    numbers = [int.from_bytes(one, "big", signed=True) for one in bounds]
    assert (numbers[0], numbers[-1]) == (-(2**63), 2**63 - 1)
    assert numbers[1:-1:2] == numbers[2::2]
