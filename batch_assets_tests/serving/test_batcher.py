"""Requests in batches, one thing at a time; `test_batcher_rush` has all that can come together."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from pydantic import ValidationError

from batch_assets.errors import Closed, DeadlinePassed, DeviceLost, NotScored, Overloaded
from batch_assets.serving.answering import Asked
from batch_assets.serving.batcher import BatcherSettings, DynamicBatcher
from batch_assets_tests.serving.rush import Rush, answer_to, run


def told(story: Callable[[Rush], Awaitable[object]], **limits: Any) -> Rush:
    """A rush on a batcher of four at a time, after it was told and everybody has an answer."""
    rushes: list[Rush] = []

    async def whole() -> None:
        rush = Rush(BatcherSettings(**{"max_batch_size": 4, "max_wait_ms": 2, **limits}))
        rushes.append(rush)
        await story(rush)
        await rush.settle()
        await rush.end()

    run(whole)
    return rushes[0]


class TestLeaving:
    def test_a_full_batch_leaves_at_once_and_in_order(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(5):
                rush.ask()
            await rush.settle()
            assert rush.calls == [[0, 1, 2, 3]]
            assert rush.batcher.waiting == 1

        assert told(story).calls == [[0, 1, 2, 3], [4]]

    def test_one_that_is_not_full_leaves_when_its_oldest_has_waited_enough(self) -> None:
        async def story(rush: Rush) -> None:
            rush.ask()
            await rush.advance(1.5)
            rush.ask()
            await rush.advance(0.4)
            assert rush.calls == []
            await rush.advance(0.1)
            assert rush.calls == [[0, 1]]

        told(story)

    def test_while_a_pass_runs_requests_gather_and_what_is_due_then_leaves_at_once(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(4):
                rush.ask()
            await rush.advance(1)
            rush.ask()
            await rush.advance(9)
            rush.ask()
            await rush.settle()
            assert len(rush.calls) == 1
            rush.finish()
            await rush.settle()
            assert rush.calls[1:] == [[4, 5]]
            rush.ask()
            rush.finish()
            await rush.settle()
            assert len(rush.calls) == 2, "it is not due yet"

        told(story)

    def test_who_was_cancelled_makes_no_batch_full(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(3):
                rush.ask()
            await rush.settle()
            rush.cancel(1)
            rush.ask()
            await rush.settle()
            assert rush.calls == []
            await rush.advance(2)
            assert rush.calls == [[0, 2, 3]]

        told(story)


class TestFailing:
    def test_a_row_that_makes_the_model_raise_fails_alone(self) -> None:
        async def story(rush: Rush) -> None:
            for number in range(64):
                rush.ask("raises" if number == 37 else "good")

        rush = told(story, max_batch_size=64)
        assert [one.request for one in rush.callers if one.task.exception()] == [37]
        assert len(rush.calls) == 1 + 2 * 6
        with pytest.raises(NotScored, match=r"does not answer this request \(StopIteration: out of order\): correct") as raised:
            rush.callers[37].task.result()
        assert isinstance(raised.value.__cause__, StopIteration)

    def test_an_error_that_the_model_gives_for_a_row_is_its_answer(self) -> None:
        async def story(rush: Rush) -> None:
            for kind in ("good", "refused", "good", "good"):
                rush.ask(kind)

        rush = told(story)
        assert str(rush.callers[1].task.exception()) == "refused"
        assert rush.calls == [[0, 1, 2, 3]]

    @pytest.mark.parametrize(("max_calls", "calls"), [(1, 1), (14, 13), (15, 15)])
    def test_a_model_that_raises_always_is_not_asked_for_ever(self, max_calls: int, calls: int) -> None:
        async def story(rush: Rush) -> None:
            for number in range(64):
                rush.ask("raises" if number % 2 else "good")

        rush = told(story, max_batch_size=64, max_calls=max_calls)
        assert len(rush.calls) == calls
        assert all(isinstance(one.task.exception(), NotScored) for one in rush.callers)

    def test_an_error_of_ours_comes_as_it_is(self) -> None:
        lost = DeviceLost("The device is gone.")

        def forward(requests: list[int]) -> list[int]:
            raise lost

        async def whole() -> None:
            async with DynamicBatcher(forward, BatcherSettings(max_wait_ms=0)) as batcher:
                assert await asyncio.gather(batcher.ask(1), return_exceptions=True) == [lost]

        run(whole)

    def test_of_an_error_that_nobody_fetches_nobody_complains(self) -> None:
        """Who is cancelled when the error is there already never fetches it."""

        async def whole() -> None:
            asked: Asked[int, int] = Asked(1, 0.0, 1.0, asyncio.get_running_loop().create_future())
            asked.settle(ValueError("unlucky"))
            del asked
            gc.collect()

        run(whole)

    def test_who_is_cancelled_before_the_pass_begins_is_not_computed(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(4):
                rush.ask()
            await rush.step()
            assert rush.batcher.waiting == 0
            rush.cancel(1)
            rush.jump(1)

        assert told(story).calls == [[0, 2, 3]]

    def test_who_is_cancelled_or_late_is_in_no_call_that_begins_later(self) -> None:
        async def story(rush: Rush) -> None:
            for kind, timeout_ms in (("raises", None), ("good", None), ("good", 1), ("good", None)):
                rush.ask(kind, timeout_ms)
            await rush.settle()
            rush.cancel(1)
            await rush.advance(1)

        assert told(story).calls == [[0, 1, 2, 3], [0], [3]]

    @pytest.mark.parametrize("given", [["one"], ["one", "two", "three"], None])
    def test_answers_that_are_not_one_for_each_are_nobodys(self, given: Any) -> None:
        async def whole() -> None:
            async with DynamicBatcher(lambda requests: given, BatcherSettings(max_batch_size=2, max_calls=1)) as batcher:
                found = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
            said = f"The model gave {len(given)} answers to 2 requests" if given else "TypeError"
            assert all(isinstance(one, NotScored) and said in str(one) for one in found)

        run(whole)


class TestLimits:
    def test_who_comes_when_as_many_wait_as_may_is_refused(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(10):
                rush.ask()
            await rush.settle()
            with pytest.raises(Overloaded, match="5 requests wait already, and no more may"):
                rush.callers[9].task.result()
            rush.finish()
            await rush.settle()
            rush.ask()

        rush = told(story, max_waiting=5)
        assert sum(one.task.exception() is None for one in rush.callers) == 10

    def test_who_is_late_is_told_so_at_once_though_the_model_computes(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(4):
                rush.ask(timeout_ms=3)
            late = rush.ask(timeout_ms=5)
            await rush.advance(3)
            with pytest.raises(DeadlinePassed, match="no answer within 3 ms"):
                rush.callers[0].task.result()
            assert not late.task.done()
            await rush.advance(2)
            assert isinstance(late.task.exception(), DeadlinePassed)
            assert rush.thread.held

        assert told(story).calls == [[0, 1, 2, 3]]

    def test_settings_by_which_no_batch_is_ever_full_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="max_waiting must be at least max_batch_size"):
            BatcherSettings(max_batch_size=8, max_waiting=7)


class TestClosing:
    def test_gracefully_everybody_is_answered_and_nobody_is_taken(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(6):
                rush.ask()
            await rush.settle()
            rush.close(drain=True)
            await rush.settle()
            with pytest.raises(Closed, match="This is closed, and takes no more requests: open another"):
                await rush.batcher.ask(6)
            assert not rush.closing[0].done()

        rush = told(story)
        assert [one.task.result() for one in rush.callers] == [answer_to(number) for number in range(6)]

    def test_at_once_nobody_waits_for_the_model(self) -> None:
        async def story(rush: Rush) -> None:
            for _ in range(6):
                rush.ask()
            await rush.settle()
            rush.close(drain=False)
            await rush.settle()
            assert rush.closing[0].done()
            assert rush.thread.held
            assert all(isinstance(one.task.exception(), Closed) for one in rush.callers)

        told(story)

    @pytest.mark.parametrize("threaded", [True, False])
    @pytest.mark.parametrize("turns", [0, 1, 12])
    def test_whoever_cancels_the_pass_closes_it(self, turns: int, threaded: bool) -> None:
        """As the end of an event loop does, also before the pass has begun."""

        async def whole() -> None:
            rush = Rush(BatcherSettings(max_batch_size=4), threaded=threaded)
            for _ in range(6):
                rush.ask()
            await rush.step()
            for _ in range(turns):
                await rush.step()
            (task,) = asyncio.all_tasks() - {asyncio.current_task(), *(one.task for one in rush.callers)}
            task.cancel()
            await asyncio.wait([one.task for one in rush.callers])
            assert all(isinstance(one.task.exception(), Closed) for one in rush.callers)

        run(whole)

    def test_who_leaves_its_context_by_an_error_leaves_at_once(self) -> None:
        async def whole() -> None:
            thread = ThreadPoolExecutor(1)
            held = threading.Event()
            with suppress(ZeroDivisionError):
                async with DynamicBatcher(lambda requests: [held.wait(60)], executor=thread) as batcher:
                    asked = asyncio.create_task(batcher.ask(1))
                    await asyncio.sleep(0)
                    raise ZeroDivisionError
            assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], Closed)
            held.set()
            assert thread.submit(int).result() == 0, "an executor of somebody else's is not shut down"
            thread.shutdown()

        run(whole)
