from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_assets.sources.warehouse_source import WarehouseSource
from batch_assets_tests.conftest import require
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.sources.source_behaviour import SourceBehaviour
from batch_assets_tests.sources.warehouse.server import Ask, Guarded, Read


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """One on which nothing happens but what a test does, so that two reads see the same snapshot."""
    require(Guarded)
    with Guarded({"autovacuum": "off"}) as server:
        yield server


@pytest.fixture
def ask(server: PostgresServer, tmp_path: Path) -> Ask:
    """Asks the server a query, which may have a look at dates beside it."""

    def ask(query: str, zone: str = "UTC", dates: str | None = None, **settings: Any) -> Read:
        (tmp_path / "features.sql").write_text(query)
        (tmp_path / "dates.sql").write_text(dates or "")
        said = {"event_date": "day", "dates": str(tmp_path / "dates.sql")} if dates else {}
        said |= {"driver": "postgresql", "uri": server.url, "query": str(tmp_path / "features.sql"), **settings}
        return SourceBehaviour.read(WarehouseSource(**said), tmp_path, keys=["id"], zone=zone)

    return ask
