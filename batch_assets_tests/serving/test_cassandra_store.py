"""Releases in a real Cassandra: what every store does, and what its pointer, its builds and its errors are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.digest import Digest, hash_keys
from batch_assets.serving.cassandra_store import CassandraStore
from batch_assets.storage import LocalStorage
from batch_assets_tests.servers import SharedServer
from batch_assets_tests.serving.store_behaviour import BINARY, KEYS, StoreBehaviour, records


class TestCassandra(StoreBehaviour):
    @pytest.fixture(autouse=True)
    def server(self, cassandra_server: SharedServer) -> None:
        self.port = cassandra_server.port

    def store(self, folder: Path) -> CassandraStore:
        return CassandraStore(port=self.port, keyspace="pack", replication={"class": "SimpleStrategy", "replication_factor": 1})

    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
    def test_what_was_stored_is_read_back_in_its_order(self, storage: LocalStorage, tmp_path: Path, keys: pa.Array) -> None:
        """All of it, in the order of buckets."""
        release = self.built(storage, tmp_path, keys, records(BINARY, len(keys)))
        found, digest = [], Digest()
        for some, kept in release.store.scan(storage, release):
            found += some.to_pylist()
            digest = digest + hash_keys(some).with_values(kept.flat()).digest()
        assert sorted(found) == sorted(keys.to_pylist())
        assert digest == release.values
