"""The PostgreSQL store: what every store does, and what only it does, with a server of its own that is killed."""

import hashlib
from pathlib import Path

import pytest
from typing_extensions import override

from batch_assets.serving.postgres_store import PostgresStore
from batch_assets_tests.serving.store_behaviour import StoreBehaviour
from batch_assets_tests.servers import PostgresServer


class TestPostgres(StoreBehaviour):
    """Each test has a schema of its own."""

    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _served(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server

    @override
    def store(self, folder: Path) -> PostgresStore:
        name = f"schema {hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        return PostgresStore(host="127.0.0.1", port=self.server.port, dbname="postgres", user="postgres", schema_name=name)
