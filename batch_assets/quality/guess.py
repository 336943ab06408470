"""What would explain that a column is far from what it was: another unit, or another column's values?

Each explanation is tried, and what it leaves unexplained is measured: a unit by the old values times one factor, another column
by its old values. A guess is made only where one explanation leaves next to nothing and every other clearly more; where several
do as well, nothing is said. Two columns that each look like the other can hardly do so by chance. One that is multiplied may
well look like some other, so a unit is tried before that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from batch_assets.histogram import FLOAT_BINS, float_edges
from batch_assets.quality.columns import Column
from batch_assets.quality.statistics import Counts, Measure, distance, equal_parts

_LIKE = 0.05
"""The Kolmogorov-Smirnov distance up to which an explanation leaves next to nothing."""

_CLEARLY = 3.0
"""How many times as much every other explanation must leave, and more than chance does."""

_LEAST = 1.5
"""A smaller factor is no other unit."""

_BIN = 0.15
"""How far the factor between two medians may be from the true one: the width of a histogram's bin."""

_EXACT = 0.03
"""How far apart the factors between smallest, largest and mean values may be if they are one."""

_FACTORS = (7, 10, 12, 24, 60, 100, 365, 1_000, 3_600, 10_000, 86_400, 1_000_000)
_USUAL = tuple(one for factor in _FACTORS for one in (factor, 1 / factor))


@dataclass(frozen=True)
class Guess:
    """The one explanation that is clearly better than others; `factor` is that between the units, 1 where it is no unit."""

    why: str
    factor: float = 1.0

    def __str__(self) -> str:
        """What goes on after "x is far from what it was"."""
        return f", {in_words(self.factor, _EXACT)} that, {self.why}" if self.factor != 1 else f" {self.why}"


def guessed(name: str, today: Mapping[str, Column], then: Mapping[str, Column]) -> Guess | None:
    """What explains one of today's columns by those of an earlier day, or None where nothing clearly does."""
    column, before = today[name], then.get(name)
    if before is None or column.category or before.category or not column.comparable(before):
        return None
    others = {other: _left_by(one, column) for other, one in then.items() if other != name and one.comparable(column)}
    like = min(others, key=lambda other: others[other].value, default="")
    explains = bool(like) and _explains(others[like])
    clear = explains and all(_clearly(others[like], one) for other, one in others.items() if other != like)
    back = today.get(like)
    if clear and back is not None and back.comparable(before) and _explains(_left_by(before, back)):
        return Guess(f"and looks like {like} then, as if they were swapped")
    factor, unit = _unit(before, column)
    if unit is not None and _explains(unit):
        usual = any(_near(factor, one) for one in _USUAL)
        ambiguous = explains and (not usual or _clearly(others[like], unit))
        return None if ambiguous else Guess("as if in another unit", factor)
    if clear and (unit is None or _clearly(others[like], unit)):
        return Guess(f"and looks like {like} then, as if it held the values of {like}")
    return None


def in_words(factor: float, within: float = _BIN) -> str:
    """A factor as it goes before "what it was"; one that is nearly a usual one between units is called so."""
    size = max(factor, 1 / factor)
    near = min(_FACTORS, key=lambda one: abs(math.log(size / one)))
    amount = f"{near:,}" if _near(size, near, within) else f"{size:.3g}"
    return f"about {amount} times" if factor > 1 else f"about 1/{amount} of"


def _left_by(then: Column, now: Column) -> Measure:
    """How far a column is from another: by all values, or without zeros if that is farther. Those of a rare thing are alike."""
    return _farther(distance(then.counts, now.counts).ks, _of_filled(then, now))


def _of_filled(then: Column, now: Column) -> Measure | None:
    """How far the values are apart that are not zero; None where there are none on one side."""
    pair = [one.counts.copy() for one in (then, now)]
    for counts in pair:
        counts[FLOAT_BINS // 2 - 1 : FLOAT_BINS // 2 + 1] = 0
    return distance(pair[0], pair[1]).ks if all(counts.any() for counts in pair) else None


def _farther(one: Measure, other: Measure | None) -> Measure:
    return max(one, other or one, key=lambda measure: measure.value)


def _explains(left: Measure) -> bool:
    return left.value <= max(_LIKE, left.noise)


def _clearly(one: Measure, other: Measure) -> bool:
    """Whether the first of two explanations is clearly better."""
    return other.value >= _CLEARLY * max(one.value, one.noise)


def _unit(before: Column, now: Column) -> tuple[float, Measure | None]:
    """The factor by which all sizes were multiplied, and what that leaves unexplained; None where it is none of a unit.

    The factor between the means is exact. Where smallest and largest values say the same, nothing is left; else it, usual
    ones and that between the medians are tried, and the first is taken of those that explain as well as chance lets them.
    """
    size, was = now.size()[0], before.size()[0]
    if not size or not was:
        return 1.0, None
    middle = size / was
    mean = abs(now.mean / before.mean) if before.mean and now.mean else middle
    if max(mean, 1 / mean) >= _LEAST and _multiplied(before, now, mean):
        return mean, Measure(0.0, 0.0)
    tried = (mean, *_USUAL, middle)
    left = {one: _left_by_unit(before, now, one) for one in tried if _near(one, middle) and max(one, 1 / one) >= _LEAST}
    known = {one: measure for one, measure in left.items() if measure is not None}
    if not known:
        return 1.0, None
    best = min(measure.value for measure in known.values())
    factor = next(one for one, measure in known.items() if measure.value <= max(best, measure.noise))
    return factor, known[factor]


def _multiplied(before: Column, now: Column, factor: float) -> bool:
    """Whether smallest and largest value, which are not the same, are the old ones times a factor."""
    ends = ((before.minimum, now.minimum), (before.maximum, now.maximum))
    return before.minimum != before.maximum and all(
        one == other == 0 or (bool(one and other) and _near(abs(other / one), factor, _EXACT))
        for one, other in ends
        if one is not None and other is not None
    )


def _near(one: float, other: float, within: float = _BIN) -> bool:
    return abs(math.log(one / other)) <= within


def _left_by_unit(before: Column, now: Column, factor: float) -> Measure | None:
    """How far sizes are from the old ones times a factor: all, or without zeros if that is farther. None as in `_left`."""
    expected, observed = before.sizes(), now.sizes()
    left = _left(expected, observed, factor)
    expected[0] = observed[0] = 0
    return _farther(left, _left(expected, observed, factor)) if left and expected.any() and observed.any() else left


def _left(expected: Counts, observed: Counts, factor: float) -> Measure | None:
    """How far sizes are from the old ones times a factor; None where all were one, which is like anything times something.

    The old sizes are cut into parts between the values that are there, so that whole numbers, too, fall on the right side.
    """
    edges = np.append(float_edges()[FLOAT_BINS // 2 :], np.nan)
    edges[np.isnan(edges)] = np.inf
    groups, filled = equal_parts(expected), np.flatnonzero(expected)
    last = filled[:-1][np.diff(groups[filled]) > 0]
    if not len(last):
        return None
    following = filled[np.searchsorted(filled, last) + 1]
    cuts = np.sqrt(edges[last + 1]) * np.sqrt(edges[following])
    finite = np.isfinite(edges)
    below = np.interp(cuts * factor, edges[finite], np.concatenate([[0], np.cumsum(observed)])[: len(edges)][finite])
    parts = np.diff(np.concatenate([[0], below, [observed.sum()]]))
    then = np.bincount(np.searchsorted(last, np.arange(len(expected))), weights=expected)
    return distance(then.astype(np.int64), np.rint(parts).astype(np.int64), ordered=False).ks
