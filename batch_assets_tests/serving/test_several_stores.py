"""A pipeline with two stores, one of which is a server: it may be down for nights, and is never ahead of what was decided."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_assets.config import QualitySettings
from batch_assets.errors import NotPublishable, StoreUnavailable
from batch_assets.nightly.publish import lagging_stores, live_since, published_matches
from batch_assets.operations.prune import prune
from batch_assets.operations.releases import go_back, list_releases, list_stores, prune_stores, publish_day, show_release
from batch_assets.serving.live import current_log
from batch_assets.serving.reader import Reader
from batch_assets.serving.release import described
from batch_assets.serving.store import Store
from batch_assets_tests.nights import DAYS, SETTINGS
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.small import Small, rows

Make = Callable[..., Small]
Start = Callable[[RedisServer], RedisServer]

NEVER = {"psi": 100, "ks": 100, "js": 100}
SHORT = QualitySettings.model_validate({"min_days": 1, **SETTINGS["quality"]})
ROWS_DIFFER = {"quality": {"drift": {"warn": NEVER, "block": NEVER, "day_rank_correlation": -1}}}


class Two:
    """Nights of a pipeline that is served from a file and from a Redis of its own."""

    def __init__(self, make: Make, server: RedisServer, *order: str, **settings: Any) -> None:
        self.server = server
        redis = {"kind": "redis", "host": "127.0.0.1", "port": server.port, "timeout_s": 2, **settings}
        stores = [redis if kind == "redis" else {"kind": kind} for kind in order]
        self.small = make(rows(300), stores=stores, **ROWS_DIFFER)

    @property
    def redis(self) -> Store:
        return next(store for store in self.small.config.stores if store.kind == "redis")

    def night(self, day: str) -> Any:
        self.small.replace_rows(rows(300, seed=int(day[-2:])))
        return self.small.night(day)

    def seen(self) -> str:
        """The day that readers see who know nothing of the storage root."""
        reader = Reader.of_store(self.redis, "small")
        answer = reader.lookup(7)
        reader.close()
        return str(answer.record["partition"])

    def looked_up(self) -> str:
        return str(Reader.open("small", self.small.storage).lookup(7).record["partition"])

    def releases(self) -> dict[str, tuple[str, ...]]:
        return {one.partition: one.stores for one in list_releases(self.small.config, self.small.storage)}


@pytest.fixture
def server(start_server: Start) -> RedisServer:
    return start_server(RedisServer())


@pytest.fixture
def two(make_small: Make, server: RedisServer) -> Two:
    return Two(make_small, server, "arrow", "redis")


def test_both_have_the_same_and_look_ups_ask_the_first(make_small: Make, server: RedisServer) -> None:
    two = Two(make_small, server, "redis", "arrow")
    published = two.night(DAYS[0])
    assert (published.release.store.called, dict(published.lagging)) == ("redis", {})
    from_redis = Reader.open("small", two.small.storage)
    in_file = described(two.small.storage, "small", published.release.name, "arrow")
    from_file = Reader.of_release(two.small.storage, in_file)
    assert from_redis.release.store.kind == "redis"
    assert published_matches(two.small.opened(DAYS[0])).passed
    assert from_redis.get_many([1, 7, 301]) == from_file.get_many([1, 7, 301])
    assert from_redis.get(7) == from_file.get(7) is not None


def test_one_is_down_for_three_nights_and_catches_up(two: Two) -> None:
    two.night(DAYS[0])
    assert two.seen() == two.looked_up() == DAYS[0]
    two.server.kill()
    for day in DAYS[1:]:
        published = two.night(day)
        assert list(published.lagging) == ["redis"]
        assert f"127.0.0.1:{two.server.port}" in published.lagging["redis"]
        assert two.looked_up() == day
        outcome = published_matches(two.small.opened(day))
        assert outcome.blocks
        assert "redis lags" in outcome.message
        assert live_since(two.small.config, two.small.storage, day) is None, "it counts against the SLA"
    two.server.start()
    assert two.seen() == DAYS[0], "its own readers see what they saw"
    assert "It lags" in list_stores(two.small.config, two.small.storage)[1].trouble
    publish_day(two.small.config, two.small.storage, two.small.registry, DAYS[-1], two.small.progress)
    assert two.seen() == two.looked_up() == DAYS[-1]
    assert lagging_stores(two.small.config, two.small.storage) == []
    assert published_matches(two.small.opened(DAYS[-1])).passed
    assert live_since(two.small.config, two.small.storage, DAYS[-1]) is not None


def test_the_only_store_is_down(make_small: Make, server: RedisServer) -> None:
    two = Two(make_small, server, "redis")
    two.night(DAYS[0])
    before = current_log(two.small.storage, "small").numbers()
    server.kill()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        two.night(DAYS[1])
    assert current_log(two.small.storage, "small").numbers() == before
    server.start()
    assert two.seen() == DAYS[0]
    assert two.night(DAYS[1]).is_live
    assert two.seen() == DAYS[1]


def test_a_store_keeps_as_many_as_it_should(two: Two) -> None:
    for day in DAYS:
        two.night(day)
    assert two.releases() == {
        **dict.fromkeys(DAYS[:2], ("arrow",)),
        **dict.fromkeys(DAYS[2:], ("arrow", "redis")),
    }
    assert prune_stores(two.small.config, two.small.storage, dry_run=True).removed == []


def test_a_backfill_of_older_days_does_not_fill_a_store_that_keeps_few(two: Two) -> None:
    two.night(DAYS[3])
    for day in DAYS[:3]:
        published = two.night(day)
        assert not published.is_live
        assert published_matches(two.small.opened(day)).passed
    assert two.releases() == {**dict.fromkeys(DAYS[:3], ("arrow",)), DAYS[3]: ("arrow", "redis")}
    assert two.seen() == DAYS[3]


def test_pruned_days_go_from_every_store(make_small: Make, server: RedisServer) -> None:
    two = Two(make_small, server, "arrow", "redis", keep=4)
    for day in DAYS:
        two.night(day)
    config = two.small.config.model_copy(update={"quality": SHORT, "model": two.small.config.model})
    pruned = prune(config, two.small.storage, config.days_needed(), False, two.small.progress)
    assert pruned.counts["releases"] == 2
    assert {one.partition for one in two.redis.left_behind(two.small.storage, "small", [])} == {DAYS[2]}
    assert two.seen() == DAYS[3]


class TestGoingBack:
    def test_the_release_before_is_live_at_once_in_every_store(self, two: Two) -> None:
        for day in DAYS[:3]:
            two.night(day)
        small = two.small
        entry = go_back(small.config, small.storage, small.registry, "prices were wrong").live
        assert (entry.body.partition, entry.why) == (DAYS[1], "prices were wrong")
        assert two.seen() == two.looked_up() == DAYS[1]
        states = {one.partition: one.state for one in list_releases(small.config, small.storage)}
        assert states == {DAYS[2]: "withdrawn", DAYS[1]: "live", DAYS[0]: "superseded"}

    def test_nothing_publishes_it_again_but_a_person_with_a_reason(self, two: Two) -> None:
        for day in DAYS[:2]:
            two.night(day)
        small = two.small
        go_back(small.config, small.storage, small.registry, "prices were wrong")
        with pytest.raises(NotPublishable, match="prices were wrong"):
            small.night(DAYS[1])
        with pytest.raises(NotPublishable, match="No run of small"):
            publish_day(small.config, small.storage, small.registry, DAYS[1], small.progress)
        assert two.seen() == DAYS[0]
        publish_day(small.config, small.storage, small.registry, DAYS[1], small.progress, "they were right after all")
        assert two.seen() == two.looked_up() == DAYS[1]
        entry = current_log(small.storage, "small").latest()
        assert entry is not None
        assert entry.why == "they were right after all"
        small.night(DAYS[1])

    def test_the_next_night_goes_live(self, two: Two) -> None:
        for day in DAYS[:2]:
            two.night(day)
        go_back(two.small.config, two.small.storage, two.small.registry, "prices were wrong")
        two.night(DAYS[2])
        assert two.seen() == two.looked_up() == DAYS[2]
        entry = go_back(two.small.config, two.small.storage, two.small.registry, "and again").live
        assert entry.body.partition == DAYS[0], "not to the one that was withdrawn"
        assert [one.store for one in entry.body.stores] == ["arrow"], "redis has dropped that one already"

    def test_to_one_that_is_not_there(self, two: Two) -> None:
        small = two.small
        two.night(DAYS[0])
        for to in (None, "2024-01-01-0123456789abcdef"):
            with pytest.raises(NotPublishable, match="any more: `batch-assets releases list small`"):
                go_back(small.config, small.storage, small.registry, "why not", to)
        with pytest.raises(NotPublishable, match="needs a reason"):
            go_back(small.config, small.storage, small.registry, " ")


def test_what_a_release_says_of_its_stores(two: Two) -> None:
    release = two.night(DAYS[0]).release
    found = show_release(two.small.config, two.small.storage, release.name)
    assert found["in_stores"] == {"arrow": "there", "redis": "there"}
    two.server.kill()
    found = show_release(two.small.config, two.small.storage, release.name)
    assert "does not answer" in found["in_stores"]["redis"]
    with pytest.raises(NotPublishable, match="has no release"):
        show_release(two.small.config, two.small.storage, "2024-01-01-0123456789abcdef")


def test_two_stores_of_one_kind_need_names(make_small: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="called the same"):
        make_small(stores=[{"kind": "arrow"}, {"kind": "arrow"}])
    make_small(stores=[{"kind": "arrow"}, {"kind": "arrow", "name": "second"}]).night()
