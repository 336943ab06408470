"""The statistics that gates and operations judge by: distances of distributions, ranks, and bounds of what was sampled.

A distance is taken from histograms over the same bins, which were filled while the data was read anyway. It comes with its
noise: what two samples of these sizes from one and the same distribution exceed only once in a thousand times. A small day is
therefore not taken for a changed one. Bounds hold in about 19 of 20 cases.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Counts = npt.NDArray[np.int64]

_GROUPS = 10
_CHANCE = 0.001
"""How often chance alone exceeds the noise of a look."""

_Z = 1.96
_RESAMPLES = 200


@dataclass(frozen=True)
class Measure:
    """One measure of distance, and what chance alone would make of it."""

    value: float
    noise: float

    def reaches(self, level: float) -> bool:
        """Whether it is a distance of that level, and not chance."""
        return self.value >= max(level, self.noise)


@dataclass(frozen=True)
class Distance:
    """PSI, the Kolmogorov-Smirnov distance and the Jensen-Shannon divergence (in bits) between two histograms.

    `expected` and `observed` are the shares in each group of bins, and `first` is the group's first bin.
    """

    psi: Measure
    ks: Measure
    js: Measure
    first: tuple[int, ...]
    expected: tuple[float, ...]
    observed: tuple[float, ...]


def distance(expected: Counts, observed: Counts, looks: int = 1, *, ordered: bool = True) -> Distance:
    """Compare two histograms over the same bins, of shape (bins,).

    Who looks at many pairs at once says so with `looks`: the noise is then what chance exceeds in one of all of them.

    PSI and Jensen-Shannon are taken over at most ten groups of neighbouring bins, about equal parts of what is expected; half a
    row is added to each group, so that an empty one does not make PSI infinite. KS is the largest difference of the shares up
    to a bin.

    Bins that are categories are not `ordered`, so they have no neighbours: the nine that are expected most often are groups of
    their own, all others together are the last one, and KS is taken over them in this order.

    Sources: N. Siddiqi, "Credit Risk Scorecards" (2006), for PSI, where 0.1 is a small and 0.25 a large shift; B. Yurdakul,
    "Statistical Properties of Population Stability Index" (2018), for its noise: (1/n + 1/m) times a quantile of chi-square;
    J. Lin, "Divergence measures based on the Shannon entropy" (1991), for Jensen-Shannon, an eighth of PSI when both are
    small; N. Smirnov (1948) for the noise of KS: sqrt(-ln(p/2)/2 * (1/n + 1/m)).

    Raises:
        ValueError: other bins, or no rows on one side.
    """
    if expected.shape != observed.shape:
        raise ValueError("histograms over other bins cannot be compared")
    n, m = int(expected.sum()), int(observed.sum())
    if not n or not m:
        raise ValueError("there is nothing to compare")
    from scipy.special import chdtri

    rarity, chance = 1 / n + 1 / m, _CHANCE / looks
    groups = equal_parts(expected) if ordered else _most_frequent(expected)
    count = int(groups.max()) + 1
    rows = [np.bincount(groups, weights=counts, minlength=count) for counts in (expected, observed)]
    e, o = ((one + 0.5) / (one + 0.5).sum() for one in rows)
    middle = (e + o) / 2
    steps = (expected, observed) if ordered else rows
    noise = rarity * float(chdtri(max(count - 1, 1), chance))
    return Distance(
        psi=Measure(float(np.sum((o - e) * np.log(o / e))), noise),
        ks=Measure(
            float(np.max(np.abs(np.cumsum(steps[0]) / n - np.cumsum(steps[1]) / m))),
            math.sqrt(-math.log(chance / 2) / 2 * rarity),
        ),
        js=Measure(float(np.sum(e * np.log2(e / middle) + o * np.log2(o / middle)) / 2), noise / 8 / math.log(2)),
        first=tuple(int(np.argmax(groups == group)) for group in range(count)),
        expected=tuple((rows[0] / n).tolist()),
        observed=tuple((rows[1] / m).tolist()),
    )


def equal_parts(expected: Counts) -> npt.NDArray[np.int64]:
    """The group of each bin: about equal parts of what is expected, numbered without gaps; shape (bins,)."""
    middles = np.cumsum(expected) - expected / 2
    groups = np.minimum((_GROUPS * middles / expected.sum()).astype(np.int64), _GROUPS - 1)
    return np.unique(groups, return_inverse=True)[1]


def _most_frequent(expected: Counts) -> npt.NDArray[np.int64]:
    """The group of each bin: those that are expected most often first, one each, all others last; shape (bins,)."""
    groups = np.full(len(expected), min(np.count_nonzero(expected), _GROUPS - 1), dtype=np.int64)
    most = np.argsort(-expected, kind="stable")[: groups[0]]
    groups[most] = np.arange(len(most))
    return groups


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Spearman's rank correlation of samples of shape (rows,), ties sharing their mean rank; 1 if there is nothing to rank."""
    ranks = [_ranks(values) for values in (a, b)]
    deviations = [rank - rank.mean() for rank in ranks] if len(a) else ranks
    scale = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum() / scale) if scale else 1.0


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: npt.NDArray[np.float64] = ends - (counts - 1) / 2
    return middles[which]


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
