"""Short nights whose answers lie in every store at once: whatever is answered, and whatever a key is, all say the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.nightly.publish import published_matches
from batch_assets.scoring.heads.classifier import Classes
from batch_assets.scoring.heads.value import Value
from batch_assets.serving.reader import Reader
from batch_assets.serving.release import in_stores
from batch_assets_tests.nightly.test_answers import NAMES, Spend, Three, registered
from batch_assets_tests.nightly.test_rows_about import ABOUT, TWO, by_country, candidates, pipeline
from batch_assets_tests.servers import PostgresServer, RedisServer
from batch_assets_tests.serving.postgres_releases import store_of
from batch_assets_tests.serving.test_cassandra_store import InCassandra
from batch_assets_tests.small import DAY, Small, rows

Make = Callable[..., Small]
Stores = list[dict[str, Any]]


def binary(make_small: Make, stores: Stores) -> Small:
    return make_small(rows(300, key_type=pa.string()), stores=stores)


def every_class(make_small: Make, stores: Stores) -> Small:
    small = make_small(rows(300), stores=stores, answers={"kind": "classes", "labels": NAMES, "scores": True})
    registered(small, Classes(returns="logits", labels=NAMES, scores=True), Three())
    return small


def value(make_small: Make, stores: Stores) -> Small:
    small = make_small(rows(300, key_type=pa.int32()), stores=stores, answers={"kind": "value"})
    registered(small, Value(), Spend())
    return small


def key_of_two(make_small: Make, stores: Stores) -> Small:
    return pipeline(make_small, by_country(), {"key": TWO}, stores=stores)


def best_items(make_small: Make, stores: Stores) -> Small:
    return pipeline(make_small, candidates(50, 20), ABOUT, items={"best": 3}, stores=stores)


class TestEveryStore(InCassandra):
    @pytest.fixture
    def stores(self, redis_server: RedisServer, postgres_server: PostgresServer, tmp_path: Path) -> Stores:
        return [
            {"kind": "arrow"},
            {"kind": "redis", "host": "127.0.0.1", "port": redis_server.port, "prefix": tmp_path.name},
            store_of(postgres_server, tmp_path).model_dump(mode="json"),
            self.store(tmp_path).model_dump(mode="json"),
        ]

    @pytest.mark.parametrize("make", [binary, every_class, value, key_of_two, best_items])
    def test_all_of_them_answer_the_same(self, make_small: Make, stores: Stores, make: Callable[[Make, Stores], Small]) -> None:
        small = make(make_small, stores)
        published = small.night()
        assert dict(published.lagging) == {}
        assert published_matches(small.opened(DAY)).passed
        found = {}
        for release in in_stores(small.storage, "small", published.release.name):
            reader = Reader.of_release(small.storage, release)
            found[release.store.called] = reader.get_many([*keys_of(small), 10**9])
            reader.close()
        assert sorted(found) == ["arrow", "cassandra", "postgres", "redis"]
        assert all(answers == found["arrow"] for answers in found.values())
        assert [one is None for one in found["arrow"]] == [False] * published.release.rows + [True]


def keys_of(small: Small) -> list[Any]:
    """Everybody in the source, as somebody asks for them."""
    names = [one.name for one in small.config.features.contract.key]
    columns = [pq.read_table(small.source)[name].to_pylist() for name in names]
    return list(dict.fromkeys(columns[0] if len(columns) == 1 else zip(*columns, strict=True)))
