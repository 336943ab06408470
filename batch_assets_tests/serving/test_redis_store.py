"""Redis as a store: what every store does, and what can happen to a server."""

from pathlib import Path

import pytest

from batch_assets.serving.redis_store import RedisStore
from batch_assets.serving.store import Store
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.serving.store_behaviour import ServerStoreBehaviour


class TestRedis(ServerStoreBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.port = redis_server.port

    def store(self, folder: Path) -> Store:
        return RedisStore(host="127.0.0.1", port=self.port, prefix=folder.name)
