"""The PostgreSQL store whose server is full or frozen, does not let it in, or is read by transactions that stay open."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from batch_assets.errors import BatchAssetsError, ConfigError, StoreUnavailable
from batch_assets.secret import Secret
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.postgres_releases import (
    USERS,
    Served,
    built,
    described,
    live,
    records_of,
    sql,
    store_of,
)

pytestmark = pytest.mark.process


class TestUnable(Served):
    """A server that cannot, or may not; the old release answers."""

    def test_a_full_disk_is_said(self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path) -> None:
        folder = own_server.folder / "small"
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("this machine lets nobody mount a file system")
        try:
            os.chown(folder, *(getattr(own_server.data.stat(), name) for name in ("st_uid", "st_gid")))
            store = store_of(own_server, tmp_path)
            release = live(store, storage, 1)
            with sql(own_server, store) as connection:
                connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
                connection.execute("ALTER DATABASE postgres SET default_tablespace = small")
            keys = pa.array(range(200_000))
            with pytest.raises(
                StoreUnavailable, match=r"has no room for release 2024-03-02-\w+ of churn .*No space left on device"
            ):
                store.build(storage, described(store, 2, keys), [(keys, records_of(2, len(keys)))])
            assert Reader.of_store(store, "churn").lookup(1).record["partition"] == "2024-03-01"
            for one in store.left_behind(storage, "churn", [release]):
                store.drop(storage, one)
            live(store, storage, 3)  # there is room again
            own_server.kill()
        finally:
            subprocess.run(["umount", folder], check=True)

    def test_one_that_stands_still_is_not_waited_for(
        self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path
    ) -> None:
        store = store_of(own_server, tmp_path, timeout_s=1)
        table = store.open(storage, live(store, storage, 1))
        assert table.get(1) is not None
        with own_server.standing_still():
            with pytest.raises(StoreUnavailable, match="does not answer"):
                table.get(1)
            with pytest.raises(StoreUnavailable, match="does not answer"):
                table.get(1)  # nobody is let in
        assert table.get(1) is not None

    def test_who_is_not_there_or_not_let_in_is_told_so(
        self, own_server: PostgresServer, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = store_of(own_server, tmp_path)
        release = live(store, storage, 1)
        with sql(own_server, store) as connection:
            connection.execute("CREATE ROLE writer LOGIN PASSWORD 'a right word'")
        (own_server.data / "pg_hba.conf").write_text(
            "host all writer 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        )
        own_server.stop()
        own_server.start()
        monkeypatch.setenv("A_WORD", "a wrong word")
        writer = store_of(own_server, tmp_path, user="writer", password=Secret(env="A_WORD"))
        for do in (
            lambda: writer.build(storage, described(writer, 2), []),
            lambda: writer.open(storage, release),
            lambda: writer.pointer(storage, "churn"),
            lambda: list(writer.scan(storage, release)),
        ):
            assert "password authentication failed" in _refused(do, own_server)
        monkeypatch.setenv("A_WORD", "a right word")
        assert "permission denied" in _refused(lambda: writer.pointer(storage, "churn"), own_server)
        assert "permission denied" in _refused(lambda: writer.build(storage, described(writer, 2), []), own_server)
        other = store_of(own_server, tmp_path, dbname="nowhere")
        assert 'database "nowhere" does not exist' in _refused(lambda: other.pointer(storage, "churn"), own_server)
        own_server.kill()
        for do in (lambda: store.publish(storage, release, 2), lambda: store.drop(storage, release)):
            assert "Connection refused" in _refused(do, own_server)
        monkeypatch.delenv("A_WORD")
        with pytest.raises(ConfigError, match="A_WORD is not set"):
            writer.pointer(storage, "churn")

    def test_another_encoding_is_refused(self, server: PostgresServer, storage: LocalStorage, tmp_path: Path) -> None:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE latin ENCODING latin1 LOCALE 'C' TEMPLATE template0")
        store = store_of(server, tmp_path, dbname="latin")
        with pytest.raises(
            StoreUnavailable, match="15 cannot keep releases in a database in LATIN1: take 14 or newer, and UTF8"
        ):
            built(store, storage, 1)

    def test_what_a_role_is_limited_to_is_no_limit_for_a_night(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage, tmp_path: Path
    ) -> None:
        role = f"limited_{store.schema_name[-8:]}"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN")
            connection.execute(f'CREATE SCHEMA "{store.schema_name}"')
            connection.execute(f'GRANT USAGE, CREATE ON SCHEMA "{store.schema_name}" TO {role}')
            for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(f"ALTER ROLE {role} SET {limit} = '50ms'")
            connection.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'")
        limited = store_of(server, tmp_path, user=role)
        keys = pa.array(range(300_000))
        release = described(limited, 1, keys)
        release = release.model_copy(update={"built": limited.build(storage, release, [(keys, records_of(1, len(keys)))])})
        limited.publish(storage, release, 1)
        assert sum(len(some) for some, _ in limited.scan(storage, release)) == len(keys)


class TestWaiting(Served):
    """Transactions that stay open, and work at the same time."""

    def test_what_an_open_transaction_reads_is_left(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = live(store, storage, 1), live(store, storage, 2)
        with sql(server, store) as connection, sql(server, store) as other, connection.transaction():
            connection.execute("SELECT * FROM churn_live")
            store.drop(storage, first)
            assert "is left in PostgreSQL" in caplog.text
            assert other.execute('SELECT probability FROM churn_live WHERE "user" = 1').fetchone() == (2.0,)
            live(store, storage, 3)  # it keeps nobody else
            assert connection.execute("SELECT DISTINCT probability FROM churn_live").fetchall() == [(3.0,)]
        assert [one.partition for one in store.left_behind(storage, "churn", [second])] == ["2024-03-01"]
        store.drop(storage, first)
        assert store.left_behind(storage, "churn", [second]) == []

    def test_other_records_go_live_when_nobody_reads_the_view(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        live(store, storage, 1)
        other = narrowed(store, storage, 2)
        with sql(server, store) as connection, connection.transaction():
            connection.execute("SELECT * FROM churn_live")
            with pytest.raises(
                StoreUnavailable, match="cannot change the view of churn while a long transaction reads it: end that"
            ):
                store.publish(storage, other, 2)
            assert Reader.of_store(store, "churn").lookup(1).record["label"] == "no"
        store.publish(storage, other, 2)
        with sql(server, store) as connection:
            assert connection.execute("SELECT * FROM churn_live LIMIT 1").fetchone() == (1, 2.0)

    def test_many_begin_at_once(self, server: PostgresServer, store: PostgresStore, storage: LocalStorage) -> None:
        with ThreadPoolExecutor(6) as pool:
            releases = list(pool.map(lambda _: built(store, storage, 1), range(6)))
        assert len({one.built["build"] for one in releases}) == 6
        assert {len(list(store.scan(storage, one))) for one in releases} == {1}

    def test_a_view_that_others_build_on_is_not_taken_away(
        self, server: PostgresServer, store: PostgresStore, storage: LocalStorage
    ) -> None:
        live(store, storage, 1)
        with sql(server, store) as connection:
            connection.execute("CREATE VIEW theirs AS SELECT probability FROM churn_live")
        live(store, storage, 2)
        other = narrowed(store, storage, 3)
        with pytest.raises(
            StoreUnavailable, match=r"cannot drop view .*churn_live because other objects depend on it\): remove them"
        ):
            store.publish(storage, other, 3)
        with sql(server, store) as connection:
            assert connection.execute("SELECT DISTINCT probability FROM theirs").fetchall() == [(2.0,)]


def narrowed(store: PostgresStore, storage: LocalStorage, day: int) -> Release:
    """A release, built, whose records have one field only."""
    record = described(store, day).record
    release = described(store, day, record=record.model_copy(update={"fields": record.fields[:1]}))
    return release.model_copy(update={"built": store.build(storage, release, [(USERS, records_of(day))])})


def _refused(do: Callable[[], object], server: PostgresServer) -> str:
    """The sentence with which something is refused; it names the server and no secret."""
    with pytest.raises(BatchAssetsError) as caught:
        do()
    said = str(caught.value)
    assert type(caught.value) is StoreUnavailable, said
    assert said.startswith(f"PostgreSQL at 127.0.0.1:{server.port} "), said
    assert "word" not in said.replace("password authentication", ""), said
    assert "\n" not in said
    return said
