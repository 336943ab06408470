"""Requests in batches, whatever comes together: arrivals, errors, people who go, time that passes, late alarms, the end."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.serving.batcher import BatcherSettings
from batch_assets_tests.serving.rush import Rush, run

TIMES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])


def events(*names: str, **how: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.sampled_from(names), st.fixed_dictionaries(how))


KINDS = st.sampled_from(["good", "good", "good", "raises", "refused"])
ASKS = events("ask", kind=KINDS, timeout_ms=st.none() | TIMES)
EVENTS = st.one_of(
    ASKS,
    ASKS,
    ASKS,
    events("finish", out_of_order=st.just(0)),
    events("finish", out_of_order=st.sampled_from([0, 1, 3])),
    events("advance", ms=TIMES),
    events("step", "settle"),
    events("cancel", which=st.integers(0, 9)),
    events("jump", ms=TIMES),
)
CLOSING = st.lists(EVENTS | events("close", drain=st.booleans()), max_size=10)
STORIES = st.tuples(st.lists(EVENTS, min_size=15, max_size=60), CLOSING).map(lambda parts: parts[0] + parts[1])


@st.composite
def batcher_settings(draw: st.DrawFn) -> BatcherSettings:
    size = draw(st.integers(1, 5))
    return BatcherSettings(
        max_batch_size=size,
        max_wait_ms=draw(st.sampled_from([0, 1, 2])),
        max_waiting=size + draw(st.integers(0, 6)),
        max_calls=draw(st.sampled_from([1, 3, 64])),
    )


@settings(max_examples=250, deadline=None)
@given(batcher_settings(), STORIES, st.booleans(), st.sampled_from([True, True, False]))
def test_whatever_happens_everybody_is_answered_once_and_in_time(
    limits: BatcherSettings, story: list[tuple[str, dict[str, Any]]], threaded: bool, drain: bool
) -> None:
    async def whole() -> None:
        rush = Rush(limits, threaded=threaded)
        await rush.do(story)
        await rush.end(drain=drain)

    run(whole)
