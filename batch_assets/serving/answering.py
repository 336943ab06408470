"""A batch of requests -> everybody's answer: the model is called once, or, if it raises, until who makes it raise is alone.

A model that raises on a batch is called for its halves, and so on. k requests that make it raise are found among n by at most
1 + 2 k ceil(log2 n) calls. Where `max_calls` end that before, whoever was not told from them yet fails with them.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from batch_assets.errors import BatchAssetsError, DeadlinePassed, NotScored
from batch_assets.scoring.poison import first_line

Request = TypeVar("Request")
Answer = TypeVar("Answer")

Answers = Sequence[Answer | BaseException]
"""One for each request, in their order; an exception is the answer to a request that cannot be answered otherwise."""

Forward = Callable[[list[Request]], Answers[Answer] | Awaitable[Answers[Answer]]]
"""A model: an `async def`, which must not block the event loop, or a function that blocks."""

Call = Callable[[list[Request]], Awaitable[list[Answer | BaseException]]]
"""A model that can be awaited, whatever it is; it raises nothing that means something to an event loop."""


@dataclass(eq=False, slots=True)
class Asked(Generic[Request, Answer]):
    """A request and its answer to be, which is done when somebody gave it or who asked was cancelled; times in seconds."""

    request: Request
    arrived: float
    deadline: float
    answer: asyncio.Future[Answer]

    def settle(self, answer: Answer | BaseException) -> None:
        """Give the answer, or an error of the tree, unless it is done."""
        if self.answer.done():
            return
        if isinstance(answer, BaseException):
            self.answer.set_exception(answer if isinstance(answer, BatchAssetsError) else _not_scored(answer))
            self.answer.exception()  # who is cancelled in this moment never asks for it, and asyncio would log that
        else:
            self.answer.set_result(answer)

    def expire(self) -> None:
        """Say that it is too late."""
        given = (self.deadline - self.arrived) * 1_000
        self.settle(DeadlinePassed(f"There was no answer within {given:g} ms: ask again, or give it longer (timeout_ms)."))


def wanted(some: Iterable[Asked[Request, Answer]], now: float) -> list[Asked[Request, Answer]]:
    """Whose answers are not done; who is late is told so first."""
    found = []
    for one in some:
        if one.deadline <= now:
            one.expire()
        elif not one.answer.done():
            found.append(one)
    return found


async def answer_all(
    batch: list[Asked[Request, Answer]], call: Call[Request, Answer], time: Callable[[], float], max_calls: int
) -> None:
    """Answer a batch. Before each call those are left out who are late by then, or were cancelled."""
    raised, calls = deque(await _answer(wanted(batch, time()), call)), 1
    while raised:
        suspects, error = raised.popleft()
        if len(suspects) == 1 or calls + 2 > max_calls:
            for one in suspects:
                one.settle(error)
            continue
        middle = -(-len(suspects) // 2)
        for half in (suspects[:middle], suspects[middle:]):
            raised += await _answer(wanted(half, time()), call)
        calls += 2


async def _answer(
    some: list[Asked[Request, Answer]], call: Call[Request, Answer]
) -> list[tuple[list[Asked[Request, Answer]], Exception]]:
    """Answer some requests by one call; if the model raises, none of them is answered: them, and what it raised."""
    if not some:
        return []
    try:
        answers = await call([one.request for one in some])
        if len(answers) != len(some):
            raise NotScored(f"The model gave {len(answers):,} answers to {len(some):,} requests: it must give one for each.")
    except Exception as error:  # noqa: BLE001 - whatever the model raises is the answer to whom it raises on
        return [(some, error)]
    for one, answer in zip(some, answers, strict=True):
        one.settle(answer)
    return []


def awaitable(forward: Forward[Request, Answer], executor: Executor) -> Call[Request, Answer]:
    """A model as something to be awaited: an `async def` in the event loop, all else on an executor."""
    model: Callable[[list[Request]], Any] = forward

    async def in_loop(requests: list[Request]) -> list[Answer | BaseException]:
        try:
            return list(await model(requests))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _not_scored(error) from error  # something within the model was cancelled, and not who awaits it

    async def on_executor(requests: list[Request]) -> list[Answer | BaseException]:
        return await asyncio.get_running_loop().run_in_executor(executor, _called, model, requests)

    return in_loop if inspect.iscoroutinefunction(forward) else on_executor


def _called(model: Callable[[list[Request]], Any], requests: list[Request]) -> list[Any]:
    """Call a model on an executor, from which StopIteration would never arrive, and CancelledError would cancel who waits."""
    try:
        return list(model(requests))
    except BatchAssetsError:
        raise
    except BaseException as error:
        raise _not_scored(error) from error


def _not_scored(error: BaseException) -> NotScored:
    said = f"{type(error).__name__}: {first_line(error)}"
    found = NotScored(f"The model does not answer this request ({said}): correct the request, or look into the model.")
    found.__cause__ = error
    return found
