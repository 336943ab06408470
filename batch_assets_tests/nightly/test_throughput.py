import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.nightly.throughput import Estimate, Throughput, in_words


def paced(steps: list[tuple[float, int]]) -> Throughput:
    times = iter([0.0, *(sum(seconds for seconds, _ in steps[: n + 1]) for n in range(len(steps)))])
    throughput = Throughput(clock=lambda: next(times))
    done = 0
    throughput.see(0)
    for _, rows in steps:
        done += rows
        throughput.see(done)
    return throughput


def test_start_up_counts_for_nothing() -> None:
    estimate = paced([(60.0, 100), *[(1.0, 100)] * 5]).estimate(1_000)
    assert estimate == Estimate(rate=pytest.approx(100.0), low=pytest.approx(10.0), high=pytest.approx(10.0))


def test_nothing_is_claimed_before_there_is_something_to_go_by() -> None:
    assert paced([(1.0, 100)] * 3).estimate(1_000) is None
    assert paced([(1.0, 100)] * 4).estimate(1_000) is not None


@given(st.lists(st.floats(0.1, 10.0), min_size=4, max_size=70), st.integers(1, 10**9))
def test_the_interval_holds_the_mean_and_grows_with_what_remains(seconds: list[float], remaining: int) -> None:
    throughput = paced([(one, 100) for one in [1.0, *seconds]])
    near, far = throughput.estimate(remaining), throughput.estimate(remaining * 2)
    assert near is not None
    assert far is not None
    assert 0 <= near.low <= remaining / near.rate * (1 + 1e-9)
    assert near.high >= remaining / near.rate * (1 - 1e-9)
    assert far.high - far.low >= (near.high - near.low) * (1 - 1e-9)


def test_the_end_is_inside_the_interval_most_of_the_time() -> None:
    import random

    source, inside = random.Random(4), 0
    for _ in range(300):
        steps = [(max(0.05, source.gauss(1.0, 0.3)), 1_000) for _ in range(60)]
        estimate = paced(steps[:20]).estimate(40_000)
        assert estimate is not None
        inside += estimate.low <= sum(seconds for seconds, _ in steps[20:]) <= estimate.high
    assert inside >= 270


def test_it_can_be_read() -> None:
    assert in_words(Estimate(812_345.6, 65.2, 79.3)) == "812,346 rows/s, 1:05 to 1:20 left"
    assert in_words(Estimate(10.0, 65.0, 65.0)) == "10 rows/s, 1:05 left"
    assert in_words(None) == "no estimate yet"
