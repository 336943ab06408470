"""Cassandra killed, out of reach, refusing, and behind passwords and certificates: what stays live, and what is said."""

import gc
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets.errors import StoreUnavailable
from batch_assets.secret import Secret
from batch_assets.serving.cassandra.registry import Registry
from batch_assets.serving.cassandra_store import CassandraStore, Tls
from batch_assets.serving.store import Batch, Pointer, Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import CassandraServer, SharedServer
from batch_assets_tests.serving.store_behaviour import BINARY, StoreBehaviour, records

ONE_NODE = {"class": "SimpleStrategy", "replication_factor": 1}
KEYS = pa.array(range(2_000))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """When a test is over, nobody goes on to look for its server."""
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "close-cassandra":
            thread.join()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "root"))


class Made(StoreBehaviour):
    """Releases in a store."""

    def __init__(self, store: CassandraStore, storage: LocalStorage) -> None:
        self.in_store, self.storage = store, storage

    def store(self, folder: Path) -> CassandraStore:
        return self.in_store

    def release(self, seed: int = 3) -> Release:
        return self.built(self.storage, Path(), KEYS, records(BINARY, len(KEYS), seed), batch=1_000)


def answers(release: Release, storage: LocalStorage) -> bool:
    """Whether each key of the first seed is answered with its record."""
    table = release.store.open(storage, release)
    found = table.get_many(KEYS.to_pylist())
    table.close()
    return [one.tobytes() for one in found if one is not None] == [one.tobytes() for one in records(BINARY, len(KEYS)).packed()]


def again(store: CassandraStore) -> CassandraStore:
    """The same store in a process that begins."""
    return CassandraStore.model_validate(store.model_dump())


def eventually(ask: Callable[[], Any]) -> Any:
    """What is answered when a server is ready: its first user is made, and its clients are back, after it answers at all."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.long
def test_a_server_that_is_killed_has_the_old_release_or_the_new_one(
    start_server: Callable[[CassandraServer], CassandraServer], storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a build; then in the middle of a publication, while a drop is half done."""
    server = start_server(CassandraServer())
    store = CassandraStore(port=server.port, replication=ONE_NODE, timeout_s=5, schema_timeout_s=20)
    made = Made(store, storage)
    live, other = made.release(), made.release(4)
    store.publish(storage, live, 1)
    table = store.open(storage, live)
    assert table.get(7) is not None

    def batches() -> Iterator[Batch]:
        yield KEYS, records(BINARY, len(KEYS))
        server.kill()

    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.build(storage, live.model_copy(update={"built": {}}), batches())
    for ask in (lambda: table.get(7), lambda: store.pointer(storage, "small"), lambda: store.publish(storage, other, 2)):
        with pytest.raises(StoreUnavailable, match=f"Cassandra at 127.0.0.1:{server.port} does not answer .*: start it, or"):
            ask()
    server.start()
    store = again(store)
    assert store.pointer(storage, "small") == Pointer(1, live)
    assert eventually(lambda: answers(live, storage))
    assert table.get(7) is not None, "a table that was open goes on"
    (tried,) = store.left_behind(storage, "small", [other])

    move = Registry.move

    def dropping(cql: str) -> None:
        raise KeyboardInterrupt

    def moving(*said: Any) -> bool:
        server.kill()
        return move(*said)

    with monkeypatch.context() as patched:
        patched.setattr(store.session(), "change", dropping)
        patched.setattr(Registry, "move", moving)
        with pytest.raises(KeyboardInterrupt):
            store.drop(storage, tried)
        with pytest.raises(StoreUnavailable):
            store.publish(storage, other, 2)
    server.start()
    store = again(store)
    assert store.pointer(storage, "small") in (Pointer(1, live), Pointer(2, other))
    store.publish(storage, other, 2)
    assert store.pointer(storage, "small") == Pointer(2, other)
    assert store.left_behind(storage, "small", [live]) == [tried]
    store.drop(storage, tried)
    store.drop(storage, live)
    assert store.left_behind(storage, "small", []) == []


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a node's key, for Cassandra, and its certificate, for those who trust it."""
    folder = tmp_path_factory.mktemp("keys")
    made = "-genkeypair -alias node -keyalg RSA -dname CN=node -ext san=ip:127.0.0.1 -validity 2 -storetype PKCS12"
    for said in (made, "-exportcert -rfc -alias node -file node.pem"):
        command = ["keytool", *said.split(), "-keystore", "node.p12", "-storepass", "changeit"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.mark.long
def test_passwords_permissions_and_certificates(
    start_server: Callable[[CassandraServer], CassandraServer],
    storage: LocalStorage,
    keystore: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encrypted = {"enabled": True, "optional": True, "keystore": str(keystore / "node.p12"), "keystore_password": "changeit"}
    settings: Any = {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "role_manager": "CassandraRoleManager",
        "client_encryption_options": encrypted,
    }
    server = start_server(CassandraServer(settings))
    monkeypatch.setenv("ADMIN", "cassandra")
    monkeypatch.setenv("SCORES", "of-all-users")
    monkeypatch.setenv("WRONG", "not-that-word")
    tls = Tls(ca=str(keystore / "node.pem"))
    admin = CassandraStore(
        port=server.port, replication=ONE_NODE, user="cassandra", password=Secret(env="ADMIN"), tls=tls, connect_timeout_s=20
    )
    ours = admin.model_copy(update={"user": "scores", "password": Secret(env="SCORES"), "replication": None})
    eventually(admin.session).change("CREATE ROLE scores WITH PASSWORD = 'of-all-users' AND LOGIN = true")

    def said_of(**wrong: Any) -> str:
        store = CassandraStore.model_validate({**ours.model_dump(), **wrong})
        with pytest.raises(StoreUnavailable) as refused:
            Made(store, storage).release()
        assert not any(word in str(refused.value) for word in ("of-all-users", "not-that-word"))
        return str(refused.value)

    where = f"Cassandra at 127.0.0.1:{server.port}"
    assert said_of(password={"env": "WRONG"}) == f"{where} refuses the user scores: correct user and password."
    assert said_of(user="", password=None) == f"{where} refuses the user without a name: correct user and password."
    assert "CERTIFICATE_VERIFY_FAILED" in said_of(tls={})
    assert "does not allow it (User scores has no CREATE permission" in said_of()
    assert said_of().endswith("grant it to scores.")
    admin.session().change("GRANT ALL PERMISSIONS ON KEYSPACE batch_assets TO scores")
    release = eventually(Made(again(ours), storage).release)  # what a role may do is remembered for a moment
    release.store.publish(storage, release, 1)
    assert answers(release, storage)
    assert "of-all-users" not in release.model_dump_json()


class TestSettings:
    def test_a_server_that_is_not_there(self, storage: LocalStorage) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # it does not listen
            port = taken.getsockname()[1]
            with pytest.raises(StoreUnavailable) as refused:
                CassandraStore(port=port, connect_timeout_s=2).pointer(storage, "churn")
        assert str(refused.value).startswith(f"Cassandra at 127.0.0.1:{port} does not answer (NoHostAvailable: ")
        assert str(refused.value).endswith(": start it, or correct contact_points and port of the store cassandra.")

    def test_a_host_that_has_no_address(self, storage: LocalStorage) -> None:
        with pytest.raises(StoreUnavailable, match=r"at nowhere\.invalid:9042 does not answer"):
            CassandraStore(contact_points=("nowhere.invalid",)).pointer(storage, "churn")

    def test_a_keyspace_that_is_not_there(self, cassandra_server: SharedServer, storage: LocalStorage) -> None:
        store = CassandraStore(port=cassandra_server.port, keyspace="nobodys", name="online")
        with pytest.raises(
            StoreUnavailable, match="has no keyspace nobodys: create it, or give the store online its replication"
        ):
            store.pointer(storage, "churn")

    @pytest.mark.parametrize(
        "wrong",
        [{"user": "scores"}, {"password": {"env": "WORD"}}, {"keyspace": "a; DROP"}, {"replication": {"class": "a'b"}}],
        ids=str,
    )
    def test_what_is_refused_before_anybody_connects(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            CassandraStore.model_validate(wrong)

    def test_what_does_not_say_where_releases_lie_may_change(self) -> None:
        store = CassandraStore()
        assert store.same_place(
            CassandraStore(timeout_s=3, read_consistency="LOCAL_QUORUM", user="a", password=Secret(env="A"))
        )
        assert not store.same_place(CassandraStore(keyspace="other"))
