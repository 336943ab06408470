"""What a night will take, from what the last ones took."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.engines.engine import Price
from batch_assets.nightly.estimates import CONFIDENCE, added, amount_at, driver_peak, memory, scoring_minutes, stages_take
from batch_assets.nightly.timings import STAGES, NightTook, Stage
from batch_assets.quality.statistics import Interval
from batch_assets_tests.small import DAY, Small

MANY = 720_720
"""So many chunks every number of workers up to 16 shares without a rest."""

SIZES = st.lists(st.integers(10_000, 10_000_000), min_size=1, max_size=14)


def took(rows: int, workers: int = 1, chunks: int = MANY, model: str = "one", **seconds: float) -> NightTook:
    """A night whose stages took these seconds, by their names with underscores."""
    named: dict[Stage, float] = {
        stage: seconds[stage.replace(" ", "_").replace("-", "_")] for stage in STAGES if _said(stage, seconds)
    }
    return NightTook(DAY, rows, chunks, workers, "threads", model, named, {}, "")


def _said(stage: Stage, seconds: dict[str, float]) -> bool:
    return stage.replace(" ", "_").replace("-", "_") in seconds


def at(points: Sequence[tuple[int, float]], rows: int, *, grows: bool = True) -> Interval:
    found = amount_at(points, rows, grows=grows)
    assert found is not None
    return found


class TestALine:
    @given(sizes=SIZES, fixed=st.floats(0.1, 100), per_row=st.floats(1e-7, 1e-3))
    def test_nights_on_a_line_are_found_again(self, sizes: list[int], fixed: float, per_row: float) -> None:
        points = [(rows, fixed + per_row * rows) for rows in sizes]
        for rows, amount in points:
            found = at(points, rows)
            assert found.low <= amount <= found.high
            assert found.low <= found.value <= found.high
            if len(sizes) >= 3 and max(sizes) >= 2 * min(sizes):
                assert found.value == pytest.approx(amount, rel=0.02)

    @given(
        points=st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-3, 1e6)), min_size=1, max_size=20),
        rows=st.integers(1, 10**10),
        grows=st.booleans(),
    )
    def test_whatever_nights_took_no_bound_is_negative_or_missing(
        self, points: list[tuple[int, float]], rows: int, grows: bool
    ) -> None:
        found = at(points, rows, grows=grows)
        assert 0 <= found.low <= found.value <= found.high < math.inf

    def test_one_night_is_taken_as_proportional_and_may_be_all_fixed(self) -> None:
        ten_times = at([(1_000, 10.0)], 10_000)
        assert ten_times.value == pytest.approx(100.0)
        assert ten_times.low < 10.0
        assert ten_times.high > 100.0

    def test_what_does_not_grow_stays_what_it_was(self) -> None:
        points = [(1_000, 4.0), (2_000, 5.0), (3_000, 6.0)]
        assert at(points, 10**9, grows=False).value == pytest.approx(5.5, abs=0.5)

    def test_a_stage_that_gets_slower_by_the_row_is_followed(self) -> None:
        """Up to 8 million rows a second for each million; a sort that goes to the disk takes two for each of the others."""
        points = [(n * 10**6, float(n if n <= 8 else 2 * n - 8)) for n in (1, 2, 4, 8, 16, 32)]
        assert at(points, 3_000_000).value == pytest.approx(3.0, rel=0.1)
        assert at(points, 24_000_000).value == pytest.approx(40.0, rel=0.15)
        assert at(points, 64_000_000).value == pytest.approx(120.0, rel=0.2)

    def test_far_from_all_nights_it_is_less_sure(self) -> None:
        points = [(n * 1_000, 5.0 + n * (1.1 if n % 2 else 0.9)) for n in range(1, 8)]
        near, far = at(points, 6_000), at(points, 600_000)
        assert far.high / far.low > near.high / near.low

    def test_more_nights_make_it_surer(self) -> None:
        def width(nights: int) -> float:
            found = at([(1_000 * (1 + number % 5), 5.0 + (1 + number % 5)) for number in range(nights)], 3_000)
            return found.high / found.low

        assert width(1) > width(3) > width(5) > width(14)

    def test_without_a_night_there_is_none(self) -> None:
        assert amount_at([], 1) is None
        assert amount_at([(0, 0.0), (5, 0.0)], 1) is None


def coverage(nights: int, spread: float, together: bool) -> float:
    """In which share of made-up pipelines the night that follows is within its interval."""
    random, within = np.random.default_rng(5), list[bool]()
    true: list[tuple[Stage, float, float]] = [("features", 5.0, 4e-6), ("scoring", 1.0, 6e-6), ("proof", 0.2, 1e-6)]
    for _ in range(400):
        sizes = random.uniform(0.5e6, 9e6, nights + 1).astype(int)

        def noise() -> Sequence[float]:
            return [float(np.exp(random.normal(0, spread)))] * 3 if together else np.exp(random.normal(0, spread, 3)).tolist()

        made = [
            NightTook(
                DAY,
                int(rows),
                1,
                1,
                "",
                "",
                {stage: (fixed + each * rows) * by for (stage, fixed, each), by in zip(true, noise(), strict=True)},
                {},
                "",
            )
            for rows in sizes
        ]
        found = added(stages_take(made[:-1], made[-1].rows, 1).values())
        within.append(found.low <= made[-1].total <= found.high)
    return sum(within) / len(within)


@pytest.mark.night
class TestTheInterval:
    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("spread", [0.05, 0.1, 0.2])
    @pytest.mark.parametrize("nights", [3, 5, 14])
    def test_it_holds_the_night_that_follows_as_often_as_it_says(self, nights: int, spread: float, together: bool) -> None:
        assert coverage(nights, spread, together) >= CONFIDENCE - 0.04

    @pytest.mark.parametrize("spread", [0.1, 0.2])
    def test_it_is_not_so_wide_that_it_says_nothing(self, spread: float) -> None:
        assert coverage(14, spread, together=True) <= 0.97


class TestANight:
    def test_more_workers_share_the_scoring_and_nothing_else(self) -> None:
        nights = [took(rows, features=rows / 100, scoring=rows / 50, proof=1.0) for rows in (1_000, 2_000, 4_000)]
        one, four = stages_take(nights, 3_000, MANY), stages_take(nights, 3_000, MANY, workers=4)
        assert four["scoring"].value == pytest.approx(one["scoring"].value / 4)
        assert four["features"] == one["features"]

    def test_workers_of_other_nights_are_counted(self) -> None:
        nights = [took(1_000, 1, scoring=40.0), took(2_000, 2, scoring=40.0), took(4_000, 4, scoring=40.0)]
        assert stages_take(nights, 4_000, MANY)["scoring"].value == pytest.approx(40.0)
        assert stages_take(nights, 4_000, MANY, workers=8)["scoring"].value == pytest.approx(20.0)

    @given(chunks=st.integers(1, 500), workers=st.integers(1, 600))
    def test_the_last_chunks_leave_some_workers_idle(self, chunks: int, workers: int) -> None:
        nights = [took(rows, scoring=rows / 10) for rows in (1_000, 2_000, 4_000)]
        found = stages_take(nights, chunks * 100, chunks, workers)["scoring"].value
        assert found == pytest.approx(10.0 * math.ceil(chunks / workers), rel=1e-6)

    @given(nights=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 600)), min_size=1, max_size=6))
    def test_nights_like_those_before_take_what_those_took_however_many_workers_and_chunks_they_had(
        self, nights: list[tuple[int, int]]
    ) -> None:
        """Each chunk of 100 rows takes a worker ten seconds."""
        made = [took(100 * chunks, workers, chunks, scoring=10.0 * math.ceil(chunks / workers)) for chunks, workers in nights]
        for night in made:
            found = stages_take(made, night.rows, night.chunks, night.workers)["scoring"]
            assert found.value == pytest.approx(night.seconds["scoring"], rel=1e-6)

    def test_workers_that_were_idle_are_idle_in_the_plan_and_no_more(self) -> None:
        night = took(17_000, workers=16, chunks=17, scoring=200.0)
        assert stages_take([night], 17_000, 17)["scoring"].value == pytest.approx(200.0)
        assert stages_take([night], 16_000, 16)["scoring"].value == pytest.approx(100.0)
        assert stages_take([night], 17_000, 17, workers=1)["scoring"].value == pytest.approx(1_700.0)

    def test_scoring_goes_by_the_last_model(self) -> None:
        nights = [took(1_000, model="slow", scoring=100.0, proof=3.0), took(1_000, model="new", scoring=10.0, proof=3.0)]
        assert stages_take(nights, 1_000, 1)["scoring"].value == pytest.approx(10.0)

    @given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=8))
    def test_stages_add_up(self, found: list[tuple[float, float, float]]) -> None:
        parts = [Interval(value=sorted(one)[1], low=min(one), high=max(one)) for one in found]
        total = added(parts)
        assert total.value == pytest.approx(sum(part.value for part in parts))
        assert total.low <= total.value <= total.high


class TestMinutesOfScoring:
    NIGHTS = (took(1_000, start_up=10.0, scoring=40.0, proof=10.0, features=500.0),)

    def test_start_up_scoring_and_proof_count(self) -> None:
        found = scoring_minutes(self.NIGHTS, [1_000], chunk_rows=100)
        assert found is not None
        assert found.value == pytest.approx(1.0)

    def test_workers_share_whole_chunks(self) -> None:
        night = took(1_000, workers=8, chunks=10, start_up=10.0, scoring=40.0, proof=10.0)
        found = scoring_minutes([night], [800], chunk_rows=100)
        assert found is not None
        assert found.value == pytest.approx((10 + 20 + 8) / 60)

    def test_several_days_start_several_times(self) -> None:
        found = scoring_minutes(self.NIGHTS, [1_000, 1_000, 0], chunk_rows=100)
        assert found is not None
        assert found.value == pytest.approx(2.0 + 10 / 60)

    def test_a_slower_model_takes_longer_at_most(self) -> None:
        as_fast, slower = (scoring_minutes(self.NIGHTS, [1_000], chunk_rows=100, slower=factor) for factor in (1.0, 1.5))
        assert as_fast
        assert slower
        assert (slower.low, slower.value, slower.high) == (as_fast.low, as_fast.value, pytest.approx(1.5 * as_fast.high))

    def test_without_a_night_nobody_knows(self) -> None:
        assert scoring_minutes([], [1], chunk_rows=1) is None


def test_a_minute_costs_a_sixtieth_of_an_hour() -> None:
    assert Price(per_hour=36.0).per_minute == pytest.approx(0.6)


class TestMemory:
    """Nights whose features hold their rows until a limit, beside 300 MB, and whose scoring takes a GB in any case."""

    LIMIT = 2_000_000_000

    def nights(self, *sizes: int) -> list[NightTook]:
        features = [300_000_000 + min(120 * rows, self.LIMIT) for rows in sizes]
        return [
            replace(took(rows), peaks={"features": held, "scoring": 1_000_000_000})
            for rows, held in zip(sizes, features, strict=True)
        ]

    def most(self, nights: Sequence[NightTook], held: int | None, rows: int) -> Interval:
        found = driver_peak(nights, held, rows)
        assert found is not None
        return found

    def test_it_is_that_of_the_stage_that_takes_most(self) -> None:
        nights = self.nights(1_000_000, 4_000_000, 8_000_000)
        assert self.most(nights, self.LIMIT, 1_000_000).value == pytest.approx(1e9, rel=0.01)
        assert self.most(nights, self.LIMIT, 10_000_000).value == pytest.approx(1.5e9, rel=0.01)

    def test_what_goes_to_the_disk_takes_no_memory(self) -> None:
        nights = self.nights(1_000_000, 4_000_000, 8_000_000)
        found, unlimited = (self.most(nights, held, 500_000_000) for held in (self.LIMIT, None))
        assert found.low < found.value < found.high < unlimited.low
        assert found.value == pytest.approx(2.42e9, rel=0.01)
        assert unlimited.value == pytest.approx(60.3e9, rel=0.01)

    def test_another_stage_grows_whatever_a_source_holds(self) -> None:
        nights = [
            replace(took(rows), peaks={"features": 10**8, "judging": 100 * rows}) for rows in (10**6, 2 * 10**6, 4 * 10**6)
        ]
        assert self.most(nights, self.LIMIT, 500_000_000).value == pytest.approx(50e9, rel=0.01)

    def test_after_one_night_only_features_are_taken_to_grow(self) -> None:
        nights = self.nights(1_000_000)
        assert self.most(nights, self.LIMIT, 2_000_000).value == pytest.approx(1e9)
        assert self.most(nights, self.LIMIT, 4_000_000).value == pytest.approx(4 * 0.42e9)

    def test_nights_without_it_say_nothing(self) -> None:
        assert driver_peak([took(1_000)], self.LIMIT, 1_000) is None


def test_memory_holds_the_largest_chunk(small: Small) -> None:
    small.night()
    found, largest = memory(small.opened(DAY)), max(chunk.rows for chunk in small.opened(DAY).plan)
    columns = len(small.opened(DAY).model.card.contract.columns)
    assert found.value - found.low == 2 * largest * 4 * (columns + 2)
    assert found.high - found.value == found.value - found.low
