from collections.abc import Callable

import pytest

from batch_assets_tests.nights import DAYS, SETTINGS, night
from batch_assets_tests.small import Small, rows

Make = Callable[..., Small]


@pytest.fixture
def four_days(make_small: Make) -> Small:
    """Four published days of 300 rows, of which two are to be kept."""
    small = make_small(rows(300), **SETTINGS)
    for day in DAYS:
        night(small, day)
    return small
