"""Mergeable histograms: filled while rows are read or scored, judged in quality.

Edges are fixed before the first value is seen, so that histograms of chunks, days and baselines can be added and compared
without a second look at the data. Those of scores have the edges that the model's card carries. Those of features have the
same bins on every day and in every pipeline: a value's bin is the first twelve bits of its float32 form (sign, exponent,
three bits of the mantissa), which takes a shift to compute. Such a bin is an eighth of an octave wide: 9 to 13 % of its
values. So any two days can be compared, and nobody has to say beforehand which values to expect.

A category's bin is its number.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

FLOAT_BINS = 4096
_SHIFT = 20
_HALF = FLOAT_BINS // 2
_SPECIAL = 0x7F8
"""Of the bits below the sign: from here on they are infinities and NaN."""


class Histogram(BaseModel):
    """Counts between fixed edges.

    With n inner edges there are n + 1 bins: below the first edge, between each pair, and from the last edge on. Values that
    are NaN or infinite are counted apart. `minimum` and `maximum` are those of the finite values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    non_finite: int = 0
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} bins, not {len(self.counts)}")
        if any(later <= earlier for earlier, later in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must ascend")
        return self

    @classmethod
    def empty(cls, edges: Sequence[float]) -> "Histogram":
        """No values yet."""
        return cls(edges=tuple(edges), counts=(0,) * (len(edges) + 1))

    @classmethod
    def of(cls, values: npt.NDArray[np.floating], edges: Sequence[float]) -> "Histogram":
        """The histogram of values of shape (rows,)."""
        ascending = np.sort(values)  # many times faster than a look-up of each value among the edges
        first = np.searchsorted(ascending, -np.inf, side="right")
        finite = ascending[first : np.searchsorted(ascending, np.inf, side="left")]
        below = np.searchsorted(finite, np.asarray(edges, dtype=np.float64), side="left")
        return cls(
            edges=tuple(edges),
            counts=tuple(np.diff(below, prepend=0, append=len(finite)).tolist()),
            non_finite=len(values) - len(finite),
            minimum=float(finite[0]) if len(finite) else None,
            maximum=float(finite[-1]) if len(finite) else None,
        )

    def __add__(self, other: "Histogram") -> "Histogram":
        if self.edges != other.edges:
            raise ValueError("histograms with other edges cannot be added")
        minima = [value for value in (self.minimum, other.minimum) if value is not None]
        maxima = [value for value in (self.maximum, other.maximum) if value is not None]
        return Histogram(
            edges=self.edges,
            counts=tuple(mine + yours for mine, yours in zip(self.counts, other.counts, strict=True)),
            non_finite=self.non_finite + other.non_finite,
            minimum=min(minima, default=None),
            maximum=max(maxima, default=None),
        )

    @property
    def total(self) -> int:
        """How many finite values."""
        return sum(self.counts)

    @property
    def constant(self) -> bool:
        """Whether all values (at least one) are the same."""
        return self.minimum is not None and self.minimum == self.maximum


def float_bins(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], int]:
    """Counts of the finite values by bin, ascending, shape (4096,), and how many values are NaN or infinite."""
    codes = np.bincount(values.view(np.uint32) >> _SHIFT, minlength=FLOAT_BINS)
    special = int(codes[_SPECIAL:_HALF].sum() + codes[_HALF + _SPECIAL :].sum())
    codes[_SPECIAL:_HALF] = codes[_HALF + _SPECIAL :] = 0
    return np.concatenate([codes[: _HALF - 1 : -1], codes[:_HALF]]), special


def float_edges() -> npt.NDArray[np.float64]:
    """The smallest value of each bin of `float_bins`, ascending, shape (4096,); those of the specials are NaN.

    The two bins around zero hold the zeros and what is nearly zero.
    """
    codes = np.concatenate([np.arange(FLOAT_BINS - 1, _HALF - 1, -1), np.arange(_HALF)]).astype(np.uint32)
    largest = np.uint32((1 << _SHIFT) - 1)
    rest = np.where(codes >= _HALF, largest, np.uint32(0))  # of negative values the largest bits are smallest
    special = codes % _HALF >= _SPECIAL
    bits = np.where(special, np.uint32(0), (codes << np.uint32(_SHIFT)) | rest)
    return np.where(special, np.nan, bits.view(np.float32).astype(np.float64))


def category_bins(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Counts of finite values by bin, shape (4096,), where a category's bin is its number."""
    return np.bincount(np.clip(values, 0, FLOAT_BINS - 1).astype(np.int64), minlength=FLOAT_BINS)


class Spread(BaseModel):
    """How the values of a feature were spread: the bins that are not empty, ascending, and their counts.

    The bins are those of `float_bins`, of a category those of `category_bins`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bins: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: npt.NDArray[np.generic], *, category: bool = False) -> "Spread":
        """The spread of values of shape (rows,); what is not finite is left out."""
        taken = np.ascontiguousarray(values, dtype=np.float32)
        counts = category_bins(taken[np.isfinite(taken)]) if category else float_bins(taken)[0]
        filled = np.flatnonzero(counts)
        return cls(bins=tuple(filled.tolist()), counts=tuple(counts[filled].tolist()))
