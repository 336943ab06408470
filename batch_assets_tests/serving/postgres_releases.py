"""Small releases for the tests of the PostgreSQL store, and the server as its users see it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from batch_assets.digest import hash_keys
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage, Storage
from batch_assets_tests.servers import PostgresServer

CHURN = RecordType(
    fields=(
        RecordField(name="probability", dtype="f4"),
        RecordField(name="label", dtype="i1", names=("no", "yes", "it's")),
        RecordField(name="scores", dtype="f4", length=2),
    ),
    score="probability",
)
KEY = (Key(name="user", dtype="int64"),)
USERS = pa.array([1, 2, 3])


def store_of(server: PostgresServer, folder: Path, **said: Any) -> PostgresStore:
    """A store in a schema of the test's own."""
    name = f"schema {hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    settings = {"host": "127.0.0.1", "port": server.port, "dbname": "postgres", "user": "postgres", "schema_name": name}
    return PostgresStore(**{**settings, **said})


def records_of(value: float, rows: int = len(USERS)) -> Records:
    """Records that all say the same."""
    columns = {
        "probability": np.full(rows, value, dtype=np.float32),
        "label": np.arange(rows, dtype=np.int8) % 3,
        "scores": np.full((rows, 2), value, dtype=np.float32),
    }
    return Records(CHURN, columns)


def described(store: PostgresStore, day: int, keys: pa.Array = USERS, **said: Any) -> Release:
    """A release of a day in March that is not built yet; what it says is that day as a number."""
    return Release(
        **{
            "name": f"2024-03-{day:02}-0123456789abcdef",
            "pipeline": "churn",
            "partition": f"2024-03-{day:02}",
            "run_id": "0123456789abcdef",
            "snapshot": "0" * 16,
            "model": ModelPin(name="churn", version="v3", digest="0", sha256="0"),
            "key": KEY,
            "record": CHURN,
            "rows": len(keys),
            "values": hash_keys(keys).digest(),
            "store": store,
            **said,
        }
    )


def built(store: PostgresStore, storage: Storage, day: int, **said: Any) -> Release:
    """A release, built."""
    release = described(store, day, **said)
    return release.model_copy(update={"built": store.build(storage, release, [(USERS, records_of(day))])})


def live(store: PostgresStore, storage: Storage, day: int, number: int | None = None, **said: Any) -> Release:
    """A release that went live under the number of its day, or another."""
    release = built(store, storage, day, **said)
    store.publish(storage, release, day if number is None else number)
    return release


class Served:
    """Tests with a store in a server that all share, or in one of their own, which they may kill, freeze or fill."""

    @pytest.fixture
    def server(self, postgres_server: PostgresServer) -> PostgresServer:
        return postgres_server

    @pytest.fixture
    def own_server(self, start_server: Callable[[PostgresServer], PostgresServer]) -> PostgresServer:
        return start_server(PostgresServer())

    @pytest.fixture
    def store(self, server: PostgresServer, tmp_path: Path) -> PostgresStore:
        return store_of(server, tmp_path)

    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(str(tmp_path / "root"))


@contextmanager
def sql(server: PostgresServer, store: PostgresStore, user: str = "postgres", **said: Any) -> Iterator[psycopg.Connection[Any]]:
    """A connection of somebody's to the store's schema."""
    where = f"host=127.0.0.1 port={server.port} dbname=postgres user={user}"
    with psycopg.connect(where, autocommit=True, **said) as connection:
        connection.execute(f"""SET search_path = "{store.schema_name}" """)
        yield connection


def objects(server: PostgresServer, store: PostgresStore, kinds: str = "r") -> set[str]:
    """The tables in the store's schema, by their names, or what else there is of some kinds (see pg_class.relkind)."""
    with sql(server, store) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = ANY (%s)",
            [f'"{store.schema_name}"', list(kinds)],
        )
        return {name for (name,) in found}
