import numpy as np
import pytest

from batch_assets.histogram import Spread
from batch_assets.quality.changes import ChangeSettings
from batch_assets.quality.columns import Column
from batch_assets.quality.completeness import CompletenessSettings
from batch_assets.quality.drift import DriftSettings
from batch_assets.quality.expectations import ExpectationSettings
from batch_assets.quality.sources import SourceSettings


def test_of_a_spread_alone_every_value_is_there() -> None:
    column = Column.seen("x", Spread.of(np.array([1.0, 2.0, 2.0])), category=False)
    assert (column.rows, column.finite, column.missing, column.constant) == (3, 3, 0.0, False)
    assert (column.nulls, column.nans, column.infinities, column.zeros) == (0, 0, 0, 0)
    assert column.size()[1] == 3


@pytest.mark.parametrize(("values", "size"), [([1, 1, 2, 2], 1), ([1, 2, 2], 2), ([-4, 0, 0, 0], 4), ([8], 8)])
def test_its_size_is_the_lower_median_of_what_is_not_zero(values: list[int], size: int) -> None:
    column = Column.seen("x", Spread.of(np.array(values)), category=False)
    assert column.size() == (size, np.count_nonzero(values))


def test_what_is_allowed_where_nobody_says_otherwise() -> None:
    """Teams count on these; change them with care."""
    far, near = {"psi": 0.25, "ks": 0.25, "js": 0.05}, {"psi": 0.1, "ks": 0.1, "js": 0.02}
    assert DriftSettings().model_dump() == {
        "trailing_days": 28, "warn": near, "block": far, "baseline_warn": far, "model_block": far,
        "model_rank_correlation": 0.5, "day_rank_correlation": 0.3,
    }  # fmt: skip
    assert ChangeSettings().model_dump() == {
        "compare_days": 7, "min_rows": 0.9, "max_rows": 1.5, "max_missing_rise": 0.05, "max_factor": 4.0,
        "allow_unchanged": False,
    }  # fmt: skip
    assert SourceSettings().model_dump() == {"min_day_rows": 0.58, "max_unreadable": 0.001, "not_daily": ()}
    assert CompletenessSettings().model_dump() == {"min_output_ratio": 0.99, "max_dead_letters": 0.001, "allow_empty": False}
    assert ExpectationSettings().model_dump() == {"max_missing": 0.01, "own": (), "full_scan": False}
