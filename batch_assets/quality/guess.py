"""What would explain that a column is far from what it was: another unit, or another column's values?

Each explanation is tried, and what it leaves unexplained is measured: a unit by the old values times one factor, another column
by its old values. A guess is made only where one explanation leaves next to nothing and every other clearly more; where several
do as well, nothing is said. A unit, which takes nothing but the column itself, is tried first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from batch_assets.histogram import FLOAT_BINS, float_edges
from batch_assets.quality.columns import Column
from batch_assets.quality.distance import Measure, distance, equal_parts

_LIKE = 0.02
"""The Jensen-Shannon divergence up to which an explanation leaves next to nothing."""

_CLEARLY = 3.0
"""How many times as much every other explanation must leave, and more than chance does."""

_LEAST = 1.5
"""A smaller factor is no other unit."""

_EXACT = 0.15
"""How far a factor may be from a round one to be called so: the width of a histogram's bin."""

_FACTORS = (7, 10, 12, 24, 60, 100, 365, 1_000, 3_600, 10_000, 86_400, 1_000_000)


@dataclass(frozen=True)
class Guess:
    """The one explanation that is clearly better than others.

    `why` goes on after "x is far from what it was"; `factor` is that between the units, 1 where it is no unit.
    """

    why: str
    factor: float = 1.0


def guessed(name: str, today: Mapping[str, Column], then: Mapping[str, Column]) -> Guess | None:
    """What explains one of today's columns by those of an earlier day, or None where nothing clearly does."""
    column, before = today[name], then.get(name)
    if before is None or column.category or before.category or not column.comparable(before):
        return None
    factor, unit = _unit(before, column)
    others = {
        other: distance(one.counts, column.counts).js for other, one in then.items() if other != name and one.comparable(column)
    }
    nearest = sorted(others, key=lambda other: others[other].value)
    if unit is not None and unit.value <= max(_LIKE, unit.noise) and not (nearest and _clearly(others[nearest[0]], unit)):
        return Guess("as if in another unit", factor)
    if not nearest or others[nearest[0]].value > _LIKE:
        return None
    like, rest = nearest[0], [others[other] for other in nearest[1:]] + ([unit] if unit is not None else [])
    if not all(_clearly(others[like], one) for one in rest):
        return None
    back = today.get(like)
    swapped = back is not None and back.comparable(before) and distance(before.counts, back.counts).js.value <= _LIKE
    return Guess(f"and looks like {like} then, as if {'they were swapped' if swapped else f'it held the values of {like}'}")


def in_words(factor: float) -> str:
    """A factor as it goes before "what it was"; one that is nearly a usual one between units is called so."""
    size = max(factor, 1 / factor)
    near = min(_FACTORS, key=lambda one: abs(math.log(size / one)))
    amount = f"{near:,}" if abs(math.log(size / near)) <= _EXACT else f"{size:.3g}"
    return f"about {amount} times" if factor > 1 else f"about 1/{amount} of"


def _clearly(one: Measure, other: Measure) -> bool:
    """Whether an explanation is clearly better than another."""
    return other.value >= _CLEARLY * max(one.value, one.noise)


def _unit(before: Column, now: Column) -> tuple[float, Measure | None]:
    """The factor by which all sizes were multiplied, and what that leaves unexplained; None where it is none of a unit."""
    size, was = now.size()[0], before.size()[0]
    if not size or not was:
        return 1.0, None
    middle = size / was
    tried = [middle, *(float(one) for round_ in _FACTORS for one in (round_, 1 / round_) if _near(one, middle))]
    if before.mean and now.mean and _near(abs(now.mean / before.mean), middle):
        tried.append(abs(now.mean / before.mean))
    left = {factor: _left(before, now, factor) for factor in tried if max(factor, 1 / factor) >= _LEAST}
    known = {factor: one for factor, one in left.items() if one is not None}
    best = min(known, key=lambda factor: known[factor].value, default=None)
    return (best, known[best]) if best is not None else (1.0, None)


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) <= _EXACT


def _left(before: Column, now: Column, factor: float) -> Measure | None:
    """How far sizes are from the old ones times a factor; None where all were one, which is like anything times something.

    The old sizes are cut into parts between the values that are there, so that whole numbers, too, fall on the right side.
    """
    expected, observed = before.sizes(), now.sizes()
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
    return distance(then.astype(np.int64), np.rint(parts).astype(np.int64), ordered=False).js
