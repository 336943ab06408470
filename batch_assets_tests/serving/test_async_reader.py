"""Look-ups from an event loop: they find what others find, and a server that is silent does not hold up the loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batch_assets.errors import Closed, NoPrediction, StoreUnavailable
from batch_assets.serving.async_reader import AsyncReader
from batch_assets.serving.reader import Reader
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.small import Small, rows

Make = Callable[..., Small]
Start = Callable[[RedisServer], RedisServer]


@pytest.fixture
def server(start_server: Start) -> RedisServer:
    return start_server(RedisServer())


def published(make_small: Make, store: dict[str, Any]) -> Small:
    small = make_small(rows(300), stores=[store])
    small.night()
    return small


def redis(server: RedisServer) -> dict[str, Any]:
    return {"kind": "redis", "host": "127.0.0.1", "port": server.port, "timeout_s": 5}


@pytest.mark.parametrize("kind", ["arrow", "redis"])
def test_it_finds_what_a_reader_finds(make_small: Make, server: RedisServer, kind: str) -> None:
    small = published(make_small, {"kind": "arrow"} if kind == "arrow" else redis(server))
    expected = Reader.open("small", small.storage)

    async def ask() -> None:
        reader = await AsyncReader.open("small", small.storage)
        assert await reader.release() == expected.release
        assert await reader.get(7) == await reader.lookup(7) == expected.get(7)
        assert await reader.get(301) is None
        with pytest.raises(NoPrediction, match="301"):
            await reader.lookup(301)
        found = await asyncio.gather(*(reader.get_many([key, key + 150, 301]) for key in range(1, 50)))
        assert found == [expected.get_many([key, key + 150, 301]) for key in range(1, 50)]
        await reader.close()
        with pytest.raises(Closed, match="open another"):
            await reader.get(7)

    asyncio.run(ask())


def test_the_loop_goes_on_while_a_server_is_silent(make_small: Make, server: RedisServer) -> None:
    small = published(make_small, redis(server))

    async def ask() -> None:
        reader = await AsyncReader.open("small", small.storage)
        with server.standing_still():
            asked = [asyncio.create_task(reader.get(key)) for key in (1, 2, 3)]
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert not any(one.done() for one in asked)
        assert [one and one.key for one in await asyncio.gather(*asked)] == [1, 2, 3]
        server.kill()
        with pytest.raises(StoreUnavailable, match="Redis at"):
            await reader.get(7)

    asyncio.run(ask())
