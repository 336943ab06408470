import numpy as np
import pytest

from batch_assets.quality.statistics import resampled, share


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
