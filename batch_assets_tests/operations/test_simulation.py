"""Played nights confirm what the formulas say."""

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.engines.engine import Price
from batch_assets.errors import MissingExtra
from batch_assets.operations.cost import Preempted
from batch_assets.operations.plan import Figures, plan_figures
from batch_assets.operations.simulation import Played, play, played_of, simulate
from batch_assets.quality.statistics import Interval

pytestmark = pytest.mark.night

HOUR = 3600.0


def certain(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def even(workers: int, chunks: int, chunk: float, often: float = 0.0, replacement: float = 0.0, **other: Any) -> Played:
    """A night on which nothing happens but preemptions."""
    calm = {"spread": 0.0, "stragglers": 0.0, "retries": 0.0, "slow_publishers": 0.0}
    return Played(workers, chunks, certain(chunk), certain(0), certain(0), often, replacement, **{**calm, **other})


class TestTheFormula:
    @pytest.mark.parametrize("workers", [1, 16])
    @pytest.mark.parametrize("often", [0.1, 0.5, 2.0])
    @pytest.mark.parametrize("replacement", [30.0, 120.0])
    def test_preemptions_take_as_long_as_it_says(self, workers: int, often: float, replacement: float) -> None:
        """Within 3 % of the mean of 60 nights of 150 chunks a worker, of which the last ones are not full."""
        chunk, chunks = 20.0, 150 * workers
        price = Price(per_hour=1, spot_per_hour=1, preemptions_per_hour=often, replacement_seconds=replacement)
        taken, calm = Preempted.of(price, chunk), chunk * chunks / workers
        found = simulate(even(workers, chunks, chunk, often, replacement), 60, seed=3)
        assert np.mean(found.totals) == pytest.approx(calm * taken.longer, rel=0.03)
        counted = taken.rate * workers * calm * taken.at_work
        assert found.preemptions == pytest.approx(counted, abs=4 * math.sqrt(counted / 60)), "as many as of a Poisson process"

    @given(workers=st.integers(1, 40), chunks=st.integers(1, 300), chunk=st.floats(0.1, 100))
    @settings(max_examples=30)
    def test_a_calm_night_takes_as_many_rounds_as_there_are_chunks_for_each_worker(
        self, workers: int, chunks: int, chunk: float
    ) -> None:
        assert play(even(workers, chunks, chunk), np.random.default_rng(0)).total == pytest.approx(
            chunk * math.ceil(chunks / workers)
        )

    @pytest.mark.parametrize(("stragglers", "retries"), list(itertools.product([0.0, 0.05], [0.0, 0.05])))
    def test_stragglers_and_retries_add_their_shares(self, stragglers: float, retries: float) -> None:
        """Within 4 %: a share s of chunks takes 4 times as long, a share r is done again."""
        found = simulate(even(8, 1_600, 10.0, stragglers=stragglers, retries=retries), 20, seed=1)
        assert np.mean(found.totals) == pytest.approx(2_000 * (1 + 3 * stragglers) / (1 - retries), rel=0.04)

    def test_chunks_that_differ_leave_workers_idle_for_less_than_the_longest_of_them(self) -> None:
        found = simulate(even(8, 800, 10.0, spread=0.3), 50, seed=1)
        assert 1_000 <= np.mean(found.totals) <= 1_000 + 10 * math.exp(3 * 0.3)


class TestANight:
    @given(
        workers=st.integers(1, 12),
        chunks=st.integers(1, 60),
        often=st.floats(0, 20),
        replacement=st.floats(0, 300),
        retries=st.floats(0, 0.5),
        seed=st.integers(0, 1_000),
    )
    @settings(max_examples=150)
    def test_it_ends_and_nobody_does_two_things_at_once(
        self, workers: int, chunks: int, often: float, replacement: float, retries: float, seed: int
    ) -> None:
        found = play(even(workers, chunks, 20.0, often, replacement, retries=retries), np.random.default_rng(seed))
        scored = [span for span in found.spans if span.kind == "scored"]
        assert len(scored) >= chunks
        assert max(span.end for span in scored) == pytest.approx(found.scoring)
        for _, spans in itertools.groupby(sorted(found.spans, key=lambda one: (one.worker, one.start)), lambda one: one.worker):
            for before, after in itertools.pairwise(spans):
                assert after.start >= before.end - 1e-6

    def test_nobody_waits_for_a_chunk_that_somebody_holds(self) -> None:
        """A worker that is idle has committed what it has: no night is much longer than all others."""
        price = Price(per_hour=1, spot_per_hour=1, preemptions_per_hour=1.0)
        found = simulate(played_of(plan_figures(Figures(256, 0.2), 20_000_000, 8), price), 500, seed=1)
        assert max(found.totals) < 1.6 * found.quantile(0.5)

    def test_the_same_seed_gives_the_same_nights(self) -> None:
        one = even(4, 100, 10.0, often=2.0, replacement=60.0, spread=0.2)
        assert simulate(one, 5, seed=7) == simulate(one, 5, seed=7)
        assert simulate(one, 5, seed=7).totals != simulate(one, 5, seed=8).totals

    def test_what_is_known_within_bounds_is_drawn_within_them(self) -> None:
        before = Interval(value=100.0, low=50.0, high=200.0)
        played = Played(1, 1, certain(1.0), before, certain(0), spread=0, stragglers=0, retries=0)
        totals = np.asarray(simulate(played, 2_000, seed=1).totals) - 1.0
        assert np.mean((totals >= 50) & (totals <= 200)) == pytest.approx(0.9, abs=0.02)

    def test_a_slow_publisher_makes_what_comes_after_longer(self) -> None:
        played = Played(1, 1, certain(1.0), certain(0), certain(50.0), spread=0, stragglers=0, retries=0)
        totals = simulate(played, 1_000, seed=1).totals
        assert sorted({round(total) for total in totals}) == [51, 101]
        assert sum(total > 60 for total in totals) / 1_000 == pytest.approx(0.05, abs=0.02)


def test_without_simpy_it_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    with pytest.raises(
        MissingExtra, match=r"A simulation needs simpy, which is not installed: pip install 'batch-assets\[plan\]'"
    ):
        play(even(1, 1, 1.0), np.random.default_rng(0))
