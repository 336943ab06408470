"""What a night will take: by explicit figures, by what the last nights took; what it costs; whether plans were right."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_assets.engines.engine import IN_HAND, Price
from batch_assets.errors import ConfigError, NotFound
from batch_assets.nightly.publish import check_published
from batch_assets.nightly.timings import STAGES, NightTook, Stage, nights_took
from batch_assets.operations.cost import Preempted, cost
from batch_assets.operations.plan import Figures, plan_figures, plan_from, plan_night
from batch_assets.operations.plan_check import Compared, check_plans, compare, is_off
from batch_assets.quality.statistics import Interval
from batch_assets.runs.chunks import count_chunks
from batch_assets.storage import LocalStorage
from batch_assets_tests.nights import DAYS, SETTINGS
from batch_assets_tests.small import Small, rows

Make = Callable[..., Small]
HOUR = 3600.0


def night(number: int, size: int, *, slow: float = 1.0, engine: str = "workers of Ray") -> NightTook:
    """A night of one worker, of which every stage has a fixed second and a millisecond for each row."""
    seconds = {stage: slow * (1.0 + (0 if stage == "start-up" else size / 1000)) for stage in STAGES}
    chunks = count_chunks(size, 256)
    return NightTook(f"2024-03-{number:02d}", size, chunks, 1, engine, "model", seconds, {}, f"{number:02d}")


def shared(number: int, chunks: int, workers: int) -> NightTook:
    """A night of workers that share chunks of 256 rows, of which each takes one of them ten seconds."""
    alone: dict[Stage, float] = {"start-up": 3.0, "scoring": 10.0 * math.ceil(chunks / workers)}
    seconds = {stage: alone.get(stage, chunks / 6) for stage in STAGES}
    day = f"2024-03-{number:02d}"
    return NightTook(day, 256 * chunks, chunks, workers, "workers of Ray", "model", seconds, {}, f"{number:02d}")


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
            assert not plan_figures(figures, size, figures.batches(size), deadline).fits

    @given(
        size=st.integers(1, 10**9), batch=st.integers(1, 10_000), workers=st.integers(1, 1_000), deadline=st.floats(0.001, 1e6)
    )
    def test_workers_share_their_chunks_evenly(self, size: int, batch: int, workers: int, deadline: float) -> None:
        found = plan_figures(Figures(batch, 0.05), size, workers, deadline)
        at_work = min(workers, math.ceil(size / batch))
        assert found.total.value == pytest.approx(found.chunk_seconds * found.chunks / at_work)
        assert found.chunks % at_work == 0 or found.chunks == math.ceil(size / batch)

    def test_few_rows_are_shared_too(self) -> None:
        figures = Figures(256, 0.05)
        alone = plan_figures(figures, 100_000, 1, deadline=8.0)
        assert alone.sentence() == "It does not fit: 19.6 s to 19.6 s of 8.0 s; 3 workers are enough."
        assert plan_figures(figures, 100_000, 4, deadline=8.0).sentence() == (
            "It fits: at most 4.9 s of 8.0 s (61%). 3 workers would be enough."
        )

    def test_what_one_batch_takes_too_long_for_no_number_of_workers_mends(self) -> None:
        found = plan_figures(Figures(256, 60.0), 100_000, 4, deadline=30.0)
        assert found.workers_needed is None
        assert found.sentence().endswith("no number of workers is enough, as one batch takes 60.0 s.")


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

    def test_one_chunk_is_not_shared_either(self, make_small: Make) -> None:
        small = make_small(rows(300), scoring={"chunk_rows": 16_384, "batch_size": 64})
        deadline = plan_from(self.NIGHTS, small.config, 16_000, 1).total.high - 1
        found = plan_from(self.NIGHTS, small.config, 16_000, 8, deadline)
        assert (found.chunks, found.workers_needed) == (1, None)
        assert found.sentence().endswith(": take smaller chunks (scoring.chunk_rows).")
        assert "no number of workers is enough, as one chunk and everything but scoring take up to" in found.sentence()

    @given(nights=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 120)), min_size=1, max_size=5))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_the_last_night_again_takes_what_it_took(self, small: Small, nights: list[tuple[int, int]]) -> None:
        made = [shared(number, chunks, workers) for number, (chunks, workers) in enumerate(nights, start=1)]
        last = made[-1]
        found = plan_from(made, small.config, last.rows, last.workers)
        assert found.chunks == last.chunks
        assert found.seconds["scoring"].value == pytest.approx(last.seconds["scoring"], rel=1e-6)
        assert found.chunk_seconds == pytest.approx(10.0, rel=1e-6)

    def test_a_deadline_that_was_held_needs_no_more_workers(self, small: Small) -> None:
        nights = [shared(number, 17, 16) for number in range(1, 15)]
        deadline = plan_from(nights, small.config, 17 * 256, 16).total.high
        assert plan_from(nights, small.config, 17 * 256, 16, deadline).workers_needed == 9, "two chunks each, as 16 have"

    def test_of_threads_several_workers_are_several_machines(self, small: Small) -> None:
        nights = [
            night(number, 1_000 * number, engine="threads of one process, because the work is short") for number in (1, 2)
        ]
        one, eight = (plan_from(nights, small.config, 8_000, workers, deadline=200.0) for workers in (1, 8))
        assert one.workers_are() == ""
        assert eight.workers_are().startswith("8 machines such as the one measured are meant, with engine ray or spark:")
        assert eight.sentence().endswith("1 machine such as the one measured would be enough.")
        missed = plan_from(nights, small.config, 8_000, 1, deadline=one.total.high - 1).sentence()
        assert "2 machines such as the one measured, with engine ray or spark, are enough" in missed
        of_ray = plan_from([night(1, 1_000)], small.config, 8_000, 8, deadline=1.0)
        assert of_ray.workers_are() == ""

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
        assert found.driver_peak is not None
        assert found.driver_peak.value == pytest.approx(max(took.peaks.values()))

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

    def test_a_full_disk_gives_out_first(self, make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        small = make_small(rows(300), **SETTINGS)
        small.night(DAYS[0])
        monkeypatch.setattr(LocalStorage, "free_bytes", lambda _: 0)
        found = plan_night(small.config, small.storage)
        assert max(found.shares, key=lambda name: found.shares[name]) == "disk"
        assert found.shares["disk"] > 1

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

    def test_what_was_planned_is_what_a_plan_would_have_said(self, small: Small) -> None:
        nights = [night(number, 1_000 * number) for number in range(1, 6)]
        last = compare(nights)[-1]
        assert last.planned.value == pytest.approx(plan_from(nights[:-1], small.config, 5_000, 1).total.value)
        assert last.within
        assert last.error == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("workers", [1, 2, 16, 40])
    def test_nights_of_any_workers_and_chunks_are_what_was_planned(self, small: Small, workers: int) -> None:
        nights = [shared(number, chunks, workers) for number, chunks in enumerate((17, 20, 33, 17, 5), start=1)]
        for number, one in enumerate(compare(nights), start=1):
            plan = plan_from(nights[:number], small.config, nights[number].rows, workers)
            assert one.planned == plan.total
            assert one.error == pytest.approx(0, abs=1e-6)

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
