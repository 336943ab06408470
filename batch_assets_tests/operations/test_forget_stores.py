"""Forgetting while something else happens: a store is down, or somebody publishes in the same moment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.nightly import publish as publishing
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.releases import list_releases, prune_stores, publish_day
from batch_assets.process import Process
from batch_assets.runs.commit import day_folder
from batch_assets.serving.reader import Reader
from batch_assets_tests.nights import DAYS
from batch_assets_tests.operations.forgetting import answers, forgets, secret
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.small import DAY, Small, rows

__all__ = ["secret"]

Make = Callable[..., Small]
Start = Callable[[RedisServer], RedisServer]


@pytest.fixture(autouse=True)
def _secret(secret: Path) -> None:
    """Every pipeline here can forget."""


def in_redis(small: Small, key: int) -> Any:
    """What readers of Redis, who know nothing of the storage root, are told."""
    reader = Reader.of_store(small.config.stores[1], "small")
    try:
        return reader.get(key)
    finally:
        reader.close()


def test_a_store_that_is_down_is_named_and_catches_up_without_the_key(
    make_small: Make, start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(RedisServer())
    stores = [{"kind": "arrow"}, {"kind": "redis", "host": "127.0.0.1", "port": server.port, "timeout_s": 2}]
    small = make_small(rows(300), stores=stores)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)
    small.night()
    assert in_redis(small, 7) is not None
    server.kill()
    done = forgets(small, 7)
    assert list(done.lagging) == ["redis"]
    assert answers(small, 7) == [None]
    server.start()
    small.night("2024-03-11")
    assert in_redis(small, 7) is None
    assert in_redis(small, 8) is not None
    publish_day(small.config, small.storage, small.registry, "2024-03-11", small.progress)
    prune_stores(small.config, small.storage, dry_run=False)
    assert [one.rows for one in list_releases(small.config, small.storage)] == [299, 299]
    store = small.config.stores[1]
    assert store.left_behind(small.storage, "small", []) == []


def test_who_publishes_in_this_moment_looks_once_more(make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    small, build, times = make_small(rows(300)), publishing.build, list[int]()
    freeze(small.config, small.storage, DAY, small.progress)
    score(small.opened(), LocalEngine(1), small.progress)
    judge(small.opened())

    def built(*said: Any) -> Any:
        found = build(*said)
        times.append(1)
        if len(times) == 1:
            forgets(small, 7)
        return found

    monkeypatch.setattr(publishing, "build", built)
    assert publish(small.opened(), small.progress).release.rows == 299
    assert answers(small, 7) == [None]
    assert [one.rows for one in list_releases(small.config, small.storage)] == [299]


def test_what_somebody_is_publishing_is_left_to_them(make_small: Make) -> None:
    small = make_small(rows(300))
    for day in DAYS[:2]:
        small.night(day)
    content = json.dumps(Process("elsewhere", 1, 0.0).as_mapping()).encode()
    path = f"{day_folder('small', DAYS[0])}/_active/far.json"
    small.storage.create(path, content)
    assert [name[:10] for name in forgets(small, 7).busy] == [DAYS[0]]
    assert answers(small, 7) == [None]
    small.storage.delete(path)
    assert [name[:10] for name in forgets(small, 7).rebuilt] == [DAYS[0]]
    assert [one.rows for one in list_releases(small.config, small.storage)] == [299, 299]
