"""A snapshot's columns as the checks see them: a few numbers and a histogram each."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.histogram import FLOAT_BINS, Spread, float_edges

_MIDDLE = FLOAT_BINS // 2


@dataclass(frozen=True)
class Column:
    """One column of a snapshot. `minimum`, `maximum` and `mean` are None if no value is finite; `counts` has shape (4096,)."""

    name: str
    category: bool
    rows: int
    nulls: int
    nans: int
    infinities: int
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    counts: npt.NDArray[np.int64]

    @classmethod
    def seen(cls, name: str, spread: Spread, *, category: bool) -> "Column":
        """A column of which nothing but its spread is known."""
        counts = np.zeros(FLOAT_BINS, np.int64)
        counts[list(spread.bins)] = spread.counts
        rows = int(counts.sum())
        return cls(name, category, rows, 0, 0, 0, 0, minimum=None, maximum=None, mean=None, counts=counts)

    @property
    def finite(self) -> int:
        """How many values are neither null nor NaN nor infinite."""
        return self.rows - self.nulls - self.nans - self.infinities

    @property
    def missing(self) -> float:
        """Share of values that are null, NaN or infinite."""
        return (self.rows - self.finite) / self.rows if self.rows else 0.0

    @property
    def constant(self) -> bool:
        """Whether all finite values (more than one) are the same."""
        return self.finite > 1 and self.minimum is not None and self.minimum == self.maximum

    def comparable(self, other: "Column") -> bool:
        """Whether both have values, counted in the same bins."""
        return bool(self.finite and other.finite) and self.category == other.category

    def sizes(self) -> npt.NDArray[np.int64]:
        """The histogram of the values without their signs, shape (2048,), over the upper half of `float_edges`."""
        return self.counts[_MIDDLE:] + self.counts[_MIDDLE - 1 :: -1]

    def size(self) -> tuple[float, int]:
        """The median size of the values that are not zero, to an eighth of an octave, and how many these are."""
        sizes = self.sizes()
        sizes[0] = 0
        total = int(sizes.sum())
        place = int(np.searchsorted(np.cumsum(sizes), (total + 1) // 2))
        return (float(float_edges()[_MIDDLE + place]) if total else 0.0), total


def columns_of(profile: pa.Table) -> dict[str, Column]:
    """The columns of a profile (see `features.profile`), in its order."""
    found = {}
    for row in profile.to_pylist():
        counts = np.zeros(FLOAT_BINS, np.int64)
        counts[row.pop("bins")] = row.pop("counts")
        name = row.pop("column")
        found[name] = Column(name=name, counts=counts, **row)
    return found
