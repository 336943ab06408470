"""Distances, ranks and bounds, against worked examples, scipy, and chance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from batch_assets.quality.statistics import distance, resampled, share, spearman

COUNTS = st.lists(st.integers(0, 1_000), min_size=100, max_size=100).filter(any)


def test_a_worked_example() -> None:
    """Two bins, 50:50 expected and 75:25 found, half a row added to each."""
    found = distance(np.array([500, 500]), np.array([750, 250]))
    a, b = 750.5 / 1001, 250.5 / 1001
    assert found.psi.value == pytest.approx((a - 0.5) * math.log(a / 0.5) + (b - 0.5) * math.log(b / 0.5), abs=1e-12)
    assert found.ks.value == 0.25
    assert found.js.value == pytest.approx(jensenshannon([0.5, 0.5], [a, b], base=2) ** 2)


def test_ks_is_scipys_where_every_value_has_its_bin() -> None:
    generator = np.random.default_rng(5)
    one, other = generator.poisson(5, 3_000), generator.poisson(6, 500)
    found = distance(np.bincount(one, minlength=40), np.bincount(other, minlength=40))
    assert found.ks.value == pytest.approx(stats.ks_2samp(one, other).statistic)


@given(COUNTS)
def test_the_same_distribution_is_no_distance(counts: list[int]) -> None:
    found = distance(np.array(counts), np.array(counts))
    assert [found.psi.value, found.ks.value, found.js.value] == pytest.approx([0.0] * 3, abs=1e-12)


@given(COUNTS, COUNTS)
def test_it_is_finite_and_in_its_bounds(one: list[int], other: list[int]) -> None:
    found = distance(np.array(one), np.array(other))
    assert -1e-12 <= found.psi.value < math.inf
    assert 0 <= found.ks.value <= 1
    assert -1e-12 <= found.js.value <= 1


def test_the_noise_is_that_of_its_sources() -> None:
    """Two groups have one degree of freedom; chance exceeds a thousandth of all looks together."""
    found = distance(np.array([500, 500]), np.array([1_000, 1_000]), looks=5)
    rarity = 1 / 1_000 + 1 / 2_000
    assert found.psi.noise == pytest.approx(rarity * stats.chi2.isf(0.001 / 5, 1))
    assert found.js.noise == pytest.approx(found.psi.noise / 8 / math.log(2))
    assert found.ks.noise == pytest.approx(math.sqrt(-math.log(0.001 / 5 / 2) / 2 * rarity))


def test_neighbours_are_a_group_by_the_middle_of_their_rows() -> None:
    assert distance(np.array([2, 15, 83]), np.array([2, 15, 83])).first == (0, 2)
    assert distance(np.array([2, 18, 80]), np.array([2, 18, 80])).first == (0, 1, 2)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (200, 20_000), (3_000, 500)])
@pytest.mark.parametrize("name", ["psi", "ks", "js"])
def test_chance_exceeds_the_noise_about_once_in_a_thousand(n: int, m: int, name: str) -> None:
    generator, exceeded, trials = np.random.default_rng(7), 0, 3_000
    for _ in range(trials):
        one, other = (np.bincount(generator.integers(0, 50, size), minlength=50) for size in (n, m))
        measure = getattr(distance(one, other), name)
        exceeded += measure.value > measure.noise
    assert exceeded <= 12, f"three are expected of {trials}"


def test_a_heavy_bin_does_not_hide_what_moves_around_it() -> None:
    assert distance(np.array([0, 0, 9_500, 500]), np.array([9_500, 0, 0, 500])).psi.value > 1


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="nothing"):
        distance(np.zeros(3, np.int64), np.ones(3, np.int64))
    with pytest.raises(ValueError, match="other bins"):
        distance(np.ones(2, np.int64), np.ones(3, np.int64))


class TestCategories:
    def test_order_says_nothing(self) -> None:
        """Neighbours that trade places are a change; numbered otherwise, the same change is the same distance."""
        generator = np.random.default_rng(11)
        expected, observed = generator.integers(1, 500, 64), generator.integers(1, 500, 64)
        renumbered = generator.permutation(64)
        one = distance(expected, observed, ordered=False)
        other = distance(expected[renumbered], observed[renumbered], ordered=False)
        assert (one.psi, one.ks, one.js) == (other.psi, other.ks, other.js)

    def test_neighbours_are_told_apart(self) -> None:
        expected, observed = np.zeros(64, np.int64), np.zeros(64, np.int64)
        expected[40:60:2] = 100
        expected[41:60:2] = 10
        observed[41:60:2] = 100
        observed[40:60:2] = 10
        assert distance(expected, observed).psi.value < 0.05
        assert distance(expected, observed, ordered=False).psi.value > 1

    def test_the_most_frequent_have_a_group_each_and_the_others_one(self) -> None:
        expected = np.array([5, 0, 900, 3, 80, *range(20, 30)])
        found = distance(expected, np.ones(15, np.int64), ordered=False)
        assert found.first[:3] == (2, 4, 14)
        assert len(found.first) == 10
        assert found.observed[-1] == pytest.approx(6 / 15)

    def test_one_that_was_never_seen_is_among_the_others(self) -> None:
        found = distance(np.array([500, 500, 0, 0]), np.array([300, 300, 0, 400]), ordered=False)
        assert found.observed == (0.3, 0.3, 0.4)
        assert found.expected == (0.5, 0.5, 0.0)
        assert found.psi.value > 1


def test_rank_agreement_is_spearmans() -> None:
    random = np.random.default_rng(0)
    a, noise = random.integers(0, 30, 500).astype(float), random.standard_normal(500)
    for b in (a, -a, a + noise, noise):
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(5), np.ones(5)) == 1.0


@pytest.mark.parametrize("truth", [0.001, 0.02, 0.5])
def test_a_share_lies_within_its_bounds_in_about_19_of_20_samples(truth: float) -> None:
    random = np.random.default_rng(1)
    found = [share(int(count), 2_000) for count in random.binomial(2_000, truth, 1_000)]
    assert 0.92 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99


def test_nothing_found_is_not_nothing_there() -> None:
    none = share(0, 1_000)
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.003 < none.high < 0.005
    assert share(1_000, 1_000).high == 1.0
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)


def test_a_mean_lies_within_its_bounds_in_about_19_of_20_samples() -> None:
    random, inside = np.random.default_rng(2), 0
    for seed in range(100):
        values = random.exponential(1.0, 300)
        found = resampled(lambda places, values=values: float(values[places].mean()), len(values), seed)  # type: ignore[misc]
        assert found.value == values.mean()
        inside += found.low <= 1.0 <= found.high
    assert 88 <= inside <= 99


def test_every_row_is_drawn_about_as_often() -> None:
    for place in range(3):
        drawn = resampled(lambda places, place=place: float(np.mean(places == place)), 3)  # type: ignore[misc]
        assert (drawn.low, drawn.value, drawn.high) == (0.0, 1 / 3, pytest.approx(0.8, abs=0.21))


def test_bounds_have_units() -> None:
    assert share(1, 2).times(60).value == 30
