"""Between what bounds a number lies that was measured on a sample, in about 19 of 20 cases."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

_Z = 1.96
_RESAMPLES = 200


class Interval(BaseModel):
    """A measured value and its bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Interval":
        """The same in another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)


def share(count: int, of: int) -> Interval:
    """A share and its bounds by E. B. Wilson, "Probable Inference" (1927), which hold for small counts, too."""
    if not of:
        return Interval(value=0.0, low=0.0, high=1.0)
    p, z = count / of, _Z * _Z / of
    middle, half = p + z / 2, _Z * math.sqrt(p * (1 - p) / of + z / 4 / of)
    return Interval(value=p, low=max(0.0, (middle - half) / (1 + z)), high=min(1.0, (middle + half) / (1 + z)))


def resampled(statistic: Callable[[npt.NDArray[np.intp]], float], rows: int, seed: int = 0) -> Interval:
    """A statistic of `rows` rows and its bounds by the bootstrap (B. Efron, 1979): it is given places of rows, some doubled."""
    random = np.random.default_rng(seed)
    found = [statistic(random.integers(0, rows, rows)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(value=statistic(np.arange(rows)), low=float(low), high=float(high))
