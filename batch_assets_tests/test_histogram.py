import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from batch_assets.histogram import Histogram

EDGES = (-1.0, 0.0, 0.5, 10.0)
VALUES = hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@given(VALUES, st.integers(min_value=0))
def test_parts_add_up_to_the_whole(values: np.ndarray, cut: int) -> None:
    cut %= len(values) + 1
    whole = Histogram.of(values, EDGES)
    assert Histogram.of(values[:cut], EDGES) + Histogram.of(values[cut:], EDGES) == whole
    assert Histogram.empty(EDGES) + whole == whole
    assert whole.total + whole.non_finite == len(values)


def test_a_value_on_an_edge_belongs_to_the_bin_above() -> None:
    assert Histogram.of(np.array([-2.0, -1.0, 0.0, 0.49, 0.5, 9.9, 10.0, np.nan]), EDGES).counts == (1, 1, 2, 2, 1)


def test_constant_is_one_value_only() -> None:
    assert Histogram.of(np.array([0.3, 0.3]), EDGES).constant
    assert not Histogram.of(np.array([0.3, 0.31]), EDGES).constant
    assert not Histogram.empty(EDGES).constant


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="bins"):
        Histogram(edges=(1.0,), counts=(1,))
    with pytest.raises(ValidationError, match="ascend"):
        Histogram(edges=(1.0, 1.0), counts=(1, 1, 1))
    with pytest.raises(ValueError, match="other edges"):
        Histogram.empty((1.0,)) + Histogram.empty((2.0,))
