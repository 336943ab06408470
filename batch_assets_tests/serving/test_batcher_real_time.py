"""Requests in batches with a real thread and the event loop's own clock; nothing is said of how long it takes."""

import asyncio
import threading

from batch_assets.errors import BatchAssetsError, NotScored
from batch_assets.serving.batcher import BatcherSettings, DynamicBatcher
from batch_assets_tests.serving.rush import run


def test_many_ask_and_the_event_loop_goes_on_meanwhile() -> None:
    sizes: list[int] = []
    turn = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def halved(requests: list[int]) -> list[float]:
        loops[0].call_soon_threadsafe(turn.set)
        assert turn.wait(60), "the event loop goes on while the model computes"
        sizes.append(len(requests))
        if 13 in requests:
            raise ValueError("unlucky")
        return [request / 2 for request in requests]

    async def ask(batcher: DynamicBatcher[int, float], number: int) -> float | BatchAssetsError:
        try:
            return await batcher.ask(number, timeout_ms=60_000)
        except NotScored as error:
            return error

    async def whole() -> None:
        loops.append(asyncio.get_running_loop())
        async with DynamicBatcher(halved, BatcherSettings(max_batch_size=32, max_wait_ms=1)) as batcher:
            found = await asyncio.gather(*(ask(batcher, number) for number in range(1_000)))
        assert isinstance(found.pop(13), NotScored)
        assert found == [number / 2 for number in range(1_000) if number != 13]

    run(whole)
    assert max(sizes) == 32
    assert len(sizes) < 100
    for thread in threading.enumerate():
        if thread.name.startswith("batcher"):
            thread.join(60)
            assert not thread.is_alive(), "its own thread ends with it"


def test_a_model_that_is_awaited_is_awaited_in_the_event_loop() -> None:
    async def lengths(requests: list[str]) -> list[int]:
        assert threading.current_thread() is threading.main_thread()
        await asyncio.sleep(0)
        return [len(one) for one in requests]

    async def whole() -> None:
        async with DynamicBatcher(lengths, BatcherSettings(max_wait_ms=0)) as batcher:
            assert await asyncio.gather(*map(batcher.ask, ["a", "bc", ""])) == [1, 2, 0]

    run(whole)
