"""The PostgreSQL store while a process or the server is killed: old or new is live, never neither, and nothing is left."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.serving.postgres.connection import _Deadline
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Batch
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_releases import (
    USERS,
    Served,
    built,
    described,
    live,
    objects,
    records_of,
    sql,
    store_of,
)

pytestmark = pytest.mark.process

BUILDER = """
import sys
from pathlib import Path
from batch_assets_tests.serving.postgres_releases import *
from batch_assets.storage import LocalStorage

def batches():
    yield USERS, records_of(2)
    yield pa.array(range(4, 400_000)), records_of(2, 399_996)
    print("in the middle", flush=True)
    sys.stdin.read()

store = PostgresStore.model_validate_json(sys.argv[1])
store.build(LocalStorage(sys.argv[2]), described(store, 2), batches())
"""


class TestTries(Served):
    def test_what_a_killed_process_began_is_found_and_removed(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        release = live(store, storage, 1)
        command = [sys.executable, "-c", BUILDER, store.model_dump_json(), storage.root]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as builder:
            assert builder.stdout is not None
            assert builder.stdout.readline() == b"in the middle\n"
            assert store.left_behind(storage, "churn", [release]) == []  # it is at work
            builder.kill()
        for _ in range(600):  # until the server has seen that it is gone
            if tries := store.left_behind(storage, "churn", [release]):
                break
            with sql(server, store) as connection:
                connection.execute("SELECT pg_sleep(0.05)")
        assert [one.partition for one in tries] == ["2024-03-02"]
        store.drop(storage, tries[0])
        assert store.left_behind(storage, "churn", [release]) == []
        assert objects(server, store) == {"builds", "pointers", release.built["table"]}

    def test_nothing_is_left_of_what_was_never_named(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        """Neither of what was live once, nor of a try that ended early."""
        releases = [live(store, storage, day) for day in (1, 2, 3)]
        with pytest.raises(ReleaseBroken, match="doubled or out of order"):
            store.build(storage, described(store, 4), [(pa.array([2, 1, 3]), records_of(4))])
        found = store.left_behind(storage, "churn", releases[1:2])
        assert [one.partition for one in found] == ["2024-03-01", "2024-03-04"]
        for one in (*found, releases[2]):
            store.drop(storage, one)
        assert objects(server, store) == {"builds", "pointers", *(one.built["table"] for one in releases[1:])}
        assert Reader.of_store(store, "churn").lookup(1).record["partition"] == "2024-03-03"


class TestKilled(Served):
    """A server that is killed, and starts again, at every moment at which somebody waits for it."""

    def test_in_the_middle_of_a_build(self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path) -> None:
        store = store_of(own_server, tmp_path)
        release, reader = live(store, storage, 1), Reader.of_store(store, "churn")

        def batches() -> Iterator[Batch]:
            yield USERS, records_of(2)
            own_server.kill()
            own_server.start()
            yield pa.array(range(4, 400_000)), records_of(2, 399_996)

        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.build(storage, described(store, 2), batches())
        assert reader.lookup(1).record["partition"] == "2024-03-01"
        for one in store.left_behind(storage, "churn", [release]):
            store.drop(storage, one)
        assert objects(own_server, store) == {"builds", "pointers", release.built["table"]}
        live(store, storage, 2)
        assert Reader.of_store(store, "churn").lookup(1).record["partition"] == "2024-03-02"

    def test_while_a_release_goes_live(
        self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = store_of(own_server, tmp_path)
        releases = [live(store, storage, 1), built(store, storage, 2)]
        for number in count(2):
            release, before = releases[(number + 1) % 2], releases[number % 2]
            if not _killed_in(own_server, monkeypatch, number - 2, lambda: store.publish(storage, release, number)):  # noqa: B023
                break
            found = Reader.of_store(store, "churn").lookup(1).record["partition"]
            assert found in (release.partition, before.partition)
            store.publish(storage, release, number)
            with sql(own_server, store) as connection:
                assert connection.execute("SELECT DISTINCT probability FROM churn_live").fetchall() == [
                    (float(release.partition[-1]),)
                ]
        assert number > 10
        assert store.left_behind(storage, "churn", releases) == []

    def test_while_one_is_removed(
        self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = store_of(own_server, tmp_path)
        kept = live(store, storage, 1)
        for place in count():
            gone = built(store, storage, 2)
            killed = _killed_in(own_server, monkeypatch, place, lambda: store.drop(storage, gone))  # noqa: B023
            for one in store.left_behind(storage, "churn", [kept]):
                store.drop(storage, one)
            assert objects(own_server, store) == {"builds", "pointers", kept.built["table"]}
            if not killed:
                break
        assert place > 10
        assert Reader.of_store(store, "churn").lookup(1).record["partition"] == "2024-03-01"


def _killed_in(server: PostgresServer, monkeypatch: pytest.MonkeyPatch, place: int, do: Callable[[], None]) -> bool:
    """Do something while the server is killed just when it is waited for the n-th time; whether it was waited for so often."""
    waited = 0

    def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal waited
        if waited == place:
            server.kill()
        waited += 1
        return unpatched(self, *args, **kwargs)

    unpatched = _Deadline.wait
    with monkeypatch.context() as patched:
        patched.setattr(_Deadline, "wait", wait)
        try:
            do()
        except StoreUnavailable:
            assert waited > place
    if waited > place:
        server.start()
    return waited > place
