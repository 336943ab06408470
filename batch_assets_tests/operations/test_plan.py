"""What a night will take: by explicit figures, by what the last nights took; what it costs; whether plans were right."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_assets.engines.engine import IN_HAND, Price
from batch_assets.errors import ConfigError, NotFound
from batch_assets.nightly.estimates import stages_take
from batch_assets.nightly.publish import check_published
from batch_assets.nightly.timings import STAGES, NightTook, nights_took
from batch_assets.operations.cost import Preempted, cost
from batch_assets.operations.plan import Figures, plan_figures, plan_from, plan_night
from batch_assets.operations.plan_check import Compared, check_plans, compare, is_off
from batch_assets.quality.statistics import Interval
from batch_assets_tests.nights import DAYS, SETTINGS
from batch_assets_tests.small import Small, rows

Make = Callable[..., Small]
HOUR = 3600.0


def night(number: int, size: int, *, slow: float = 1.0) -> NightTook:
    """A night of which every stage has a fixed second and a millisecond for each row."""
    seconds = {stage: slow * (1.0 + (0 if stage == "start-up" else size / 1000)) for stage in STAGES}
    return NightTook(f"2024-03-{number:02d}", size, 1, "threads", "model", seconds, 10**9 + 100 * size, f"{number:02d}")


class TestFigures:
    def test_half_a_billion_rows_on_eight_gpus(self) -> None:
        found = plan_figures(Figures(256, 0.05), 500_000_000, 8, deadline=6 * HOUR)
        assert found.total.value == pytest.approx(12_207.03, abs=0.01)
        assert found.fits
        assert found.workers_needed == 5
        assert found.sentence() == "It fits: at most 3.4 h of 6.0 h (57%). 5 workers would be enough."

    def test_what_does_not_fit_says_how_many_workers_do(self) -> None:
        found = plan_figures(Figures(256, 0.05), 500_000_000, 4, deadline=6 * HOUR)
        assert not found.fits
        assert found.sentence() == "It does not fit: 6.8 h to 6.8 h of 6.0 h; 5 workers are enough."

    @given(
        size=st.integers(1, 10**9),
        batch=st.integers(1, 10_000),
        milliseconds=st.floats(0.1, 1_000),
        workers=st.integers(1, 1_000),
        deadline=st.floats(1, 1e6),
    )
    def test_as_many_workers_as_are_needed_are_enough_and_one_less_is_not(
        self, size: int, batch: int, milliseconds: float, workers: int, deadline: float
    ) -> None:
        figures = Figures(batch, milliseconds / 1000)
        needed = plan_figures(figures, size, workers, deadline).workers_needed
        if needed is not None:
            assert plan_figures(figures, size, needed, deadline).fits
            assert needed == 1 or not plan_figures(figures, size, needed - 1, deadline).fits
        else:
            assert not plan_figures(figures, size, math.ceil(size / figures.chunk_rows), deadline).fits


class TestMoney:
    PRICE = Price(per_hour=8.0, spot_per_hour=2.0, preemptions_per_hour=0.5, replacement_seconds=100.0)

    def test_workers_are_paid_while_they_are_there(self) -> None:
        found = plan_figures(Figures(1, 1.0), 7_200, 2, price=Price(per_hour=8.0, currency="USD")).cost
        assert found is not None
        assert (found.on_demand.value, found.currency, found.spot) == (8.0, "USD", None)

    def test_a_preemption_loses_half_of_what_is_in_hand_and_the_time_until_another_is_there(self) -> None:
        found = Preempted.of(self.PRICE, 20.0)
        assert (found.work, found.away) == (IN_HAND / 2 * 20.0, 100.0)

    def test_work_that_is_lost_is_paid_on_spot(self) -> None:
        hour = Interval(value=HOUR, low=HOUR, high=HOUR)
        found = cost(self.PRICE, hour, hour, workers=4, share=1.0, chunk_seconds=20.0)
        assert found.spot is not None
        longer = (1 + 0.5 * 100.0 / HOUR) / (1 - 0.5 * 30.0 / HOUR)
        assert found.spot.extra_seconds.value == pytest.approx(HOUR * (longer - 1))
        assert found.spot.cost.value == pytest.approx(2.0 * longer)
        assert found.spot.preemptions == pytest.approx(0.5 * 4 / (1 - 0.5 * 30.0 / HOUR))

    @given(chunk=st.floats(0, 1_000), often=st.floats(0, 1), replacement=st.floats(0, 600))
    def test_spot_never_makes_a_night_shorter(self, chunk: float, often: float, replacement: float) -> None:
        price = Price(per_hour=1, spot_per_hour=1, preemptions_per_hour=often, replacement_seconds=replacement)
        assert Preempted.of(price, chunk).longer >= 1

    def test_workers_that_are_taken_away_before_they_have_done_anything_are_an_error(self) -> None:
        often = self.PRICE.model_copy(update={"preemptions_per_hour": 60.0})
        with pytest.raises(ConfigError, match="is never done: take smaller chunks"):
            Preempted.of(often, 60.0)

    def test_a_price_of_spot_without_preemptions_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="need each other"):
            Price(per_hour=1.0, spot_per_hour=0.5)

    def test_on_spot_the_deadline_may_be_missed(self) -> None:
        found = plan_figures(Figures(1, 1.0, chunk_rows=20), 7_200, 2, deadline=HOUR + 1, price=self.PRICE)
        assert found.fits
        assert found.sentence().endswith("which does not fit.")


class TestNights:
    NIGHTS = tuple(night(number, size) for number, size in enumerate((1_000, 4_000, 9_000, 16_000), start=1))

    def test_a_night_is_the_sum_of_its_stages(self, small: Small) -> None:
        found = plan_from(self.NIGHTS, small.config, 8_000, 1)
        assert found.total.value == pytest.approx(1 + 9 * 7)
        assert list(found.seconds) == list(STAGES)
        assert found.unmeasured == ()

    def test_everything_but_scoring_stays_however_many_workers_there_are(self, small: Small) -> None:
        found = plan_from(self.NIGHTS, small.config, 8_000, 1, deadline=30.0)
        assert found.workers_needed is None
        assert "no number of workers is enough, as everything but scoring takes up to" in found.sentence()

    def test_workers_are_needed_for_the_upper_bound(self, small: Small) -> None:
        one = plan_from(self.NIGHTS, small.config, 16_000, 1)
        deadline = one.total.high - one.seconds["scoring"].high / 2
        needed = plan_from(self.NIGHTS, small.config, 16_000, 1, deadline).workers_needed
        assert needed is not None
        assert needed > 1
        assert plan_from(self.NIGHTS, small.config, 16_000, needed, deadline).fits
        assert not plan_from(self.NIGHTS, small.config, 16_000, needed - 1, deadline).fits

    def test_twice_the_workers_cost_twice_as_much_an_hour(self, make_small: Make) -> None:
        small = make_small(rows(300), engine={"price": {"per_hour": 3600.0}})
        one, two = (plan_from(self.NIGHTS, small.config, 8_000, workers) for workers in (1, 2))
        assert one.cost
        assert two.cost
        start, scoring, proof = (one.seconds[stage].value for stage in ("start-up", "scoring", "proof"))
        assert one.cost.on_demand.value == pytest.approx(start + scoring + proof)
        assert two.cost.on_demand.value == pytest.approx(2 * start + scoring + 2 * proof)

    def test_far_more_rows_than_any_night_had_are_a_guess(self, small: Small) -> None:
        assert not plan_from(self.NIGHTS, small.config, 48_000, 1).is_far
        assert plan_from(self.NIGHTS, small.config, 48_001, 1).is_far


@pytest.mark.night
class TestAPipeline:
    def test_without_a_night_it_says_what_to_do(self, small: Small) -> None:
        with pytest.raises(NotFound, match="No night of small was measured yet: `batch-assets run small --partition DAY`"):
            plan_night(small.config, small.storage)

    def test_what_small_nights_say_nothing_of_is_refused(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        small.night(DAYS[0])
        assert plan_night(small.config, small.storage, 30_000).is_far
        with pytest.raises(NotFound, match="more than 300 rows, which say nothing of 30,001: make one of at least 301 first"):
            plan_night(small.config, small.storage, 30_001)

    def test_by_default_it_is_about_another_night_like_the_last(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        small.night(DAYS[0])
        assert check_published(small.opened(DAYS[0])).passed
        found = plan_night(small.config, small.storage)
        (took,) = nights_took(small.storage, "small", 14)
        assert (found.rows, found.workers, found.nights, found.engine) == (300, 1, 1, "threads of one process")
        assert found.total.value == pytest.approx(took.total)
        assert found.memory is not None
        assert found.memory.value == pytest.approx(took.peak_bytes)

    def test_bytes_are_those_of_each_row(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        small.night(DAYS[0])
        found = plan_night(small.config, small.storage, rows=3_000)
        root = Path(small.storage.root, "small")
        wanted = {
            "snapshot": root.glob("user_features/*/snapshot=*/part-*.parquet"),
            "predictions": root.glob("predictions/*/run=*/chunk-*.parquet"),
            "release in arrow": root.glob("serving/releases/*/*/release.arrow"),
        }
        assert found.sizes == {name: 10 * sum(one.stat().st_size for one in files) for name, files in wanted.items()}
        assert found.shares.keys() == {"memory", "disk"}

    def test_a_stage_that_no_night_has_measured_is_named(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        small.night(DAYS[0])
        assert plan_night(small.config, small.storage).unmeasured == ("checking",)

    def test_it_is_checked_by_the_nights_that_came_after(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        with pytest.raises(NotFound, match="There are not two nights of small"):
            check_plans(small.config, small.storage, 14)
        for day in DAYS[:3]:
            small.night(day)
            check_published(small.opened(day))
        assert [(one.day, one.before) for one in check_plans(small.config, small.storage, 14)] == [(DAYS[1], 1), (DAYS[2], 2)]
        assert [one.day for one in check_plans(small.config, small.storage, 1)] == [DAYS[2]]


class TestCheck:
    def test_a_night_is_planned_by_those_before_it_alone(self) -> None:
        nights = [night(number, 1_000 * number, slow=1 + number % 3) for number in range(1, 9)]
        changed = [*nights[:5], *(night(number, 77_000, slow=9.0) for number in range(6, 9))]
        assert compare(nights)[:4] == compare(changed)[:4]

    def test_what_was_planned_is_what_a_plan_would_have_said(self) -> None:
        nights = [night(number, 1_000 * number) for number in range(1, 6)]
        last = compare(nights)[-1]
        assert last.planned.value == pytest.approx(sum(one.value for one in stages_take(nights[:-1], 5_000).values()))
        assert last.within
        assert last.error == pytest.approx(0, abs=1e-6)

    def test_nights_of_which_a_stage_was_not_measured_are_left_out(self) -> None:
        nights = [night(number, 1_000) for number in (1, 2, 3)]
        del nights[1].seconds["publishing"]
        assert [one.day for one in compare(nights)] == ["2024-03-03"]

    @pytest.mark.parametrize(
        ("within", "of", "off"),
        [(3, 5, False), (2, 5, True), (0, 1, False), (0, 3, True), (10, 14, False), (9, 14, True)],
    )
    def test_plans_are_off_if_so_few_nights_within_are_no_chance(self, within: int, of: int, off: bool) -> None:
        good = Compared("", 1, 1, Interval(value=1, low=0.5, high=2), 1.0)
        bad = Compared("", 1, 1, Interval(value=1, low=0.5, high=2), 3.0)
        assert is_off([good] * within + [bad] * (of - within)) == off
