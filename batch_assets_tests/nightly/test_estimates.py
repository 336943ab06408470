"""Minutes and costs, from what the last accepted runs took."""

import pytest

from batch_assets.engines.engine import Price
from batch_assets.nightly.estimates import Took, last_runs, memory, minutes, minutes_between
from batch_assets.quality.statistics import Interval
from batch_assets_tests.small import DAY, Small

RUNS = [Took(1_000, 60.0), Took(3_000, 60.0)]
"""60 seconds for a thousand rows, and for three thousand."""


def test_many_days_go_by_all_runs_together() -> None:
    assert minutes(4_000, RUNS) == 2.0


def test_a_night_goes_by_the_fastest_and_the_slowest() -> None:
    assert minutes_between(3_000, RUNS) == Interval(value=2.0, low=1.0, high=3.0)


def test_a_slower_model_takes_longer_at_most() -> None:
    assert minutes_between(3_000, RUNS, slower=1.5) == Interval(value=2.0, low=1.0, high=4.5)


def test_no_rows_take_no_time() -> None:
    assert minutes(0, RUNS) == 0.0


def test_without_a_run_nobody_knows() -> None:
    assert minutes(1, []) is None
    assert minutes_between(1, []) is None


def test_a_minute_costs_a_sixtieth_of_an_hour() -> None:
    assert Price(per_hour=36.0).per_minute == pytest.approx(0.6)


def test_the_newest_three_runs_count(small: Small) -> None:
    assert last_runs(small.storage, "small") == []
    for day in ("2024-03-07", "2024-03-08", "2024-03-09", DAY):
        small.night(day)
    newest = [small.opened(day).manifest() for day in (DAY, "2024-03-09", "2024-03-08")]
    assert last_runs(small.storage, "small") == [Took(one.scored_here, one.wall_seconds) for one in newest]


def test_memory_holds_the_largest_chunk(small: Small) -> None:
    small.night()
    found, largest = memory(small.opened(DAY)), max(chunk.rows for chunk in small.opened(DAY).plan)
    columns = len(small.opened(DAY).model.card.contract.columns)
    assert found.value - found.low == 2 * largest * 4 * (columns + 2)
    assert found.high - found.value == found.value - found.low
