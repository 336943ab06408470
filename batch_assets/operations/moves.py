"""What is counted of keys that two runs scored: how far scores, deciles and labels moved, and who moved most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from batch_assets.features.keys import plain
from batch_assets.operations.paired import Pairs
from batch_assets.records import RecordType

By = Literal["score", "label"]
"""Who is a top mover: whose score moved most, or whose label changed."""

DECILE = "decile"
DECILES = 10

QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mover:
    """A key (of several columns a list), by how much its score moved, and both of its records."""

    key: object
    difference: float
    before: dict[str, Any]
    after: dict[str, Any]


class Moves:
    """Counts what pairs of records say.

    `deciles` has shape (10, 10), `labels` (labels before, labels after); a row is what was before, a column what is after. They
    are None where one of the records has none.
    """

    def __init__(self, before: RecordType, after: RecordType, by: By, top: int) -> None:
        self.rows = self.up = self.down = 0
        self.deciles: Counts | None = None
        self.labels: Counts | None = None
        self._labels = (before.label, after.label)
        if DECILE in before.names and DECILE in after.names:
            self.deciles = np.zeros((DECILES, DECILES), np.int64)
        if before.labels and after.labels:
            self.labels = np.zeros((len(before.labels), len(after.labels)), np.int64)
        self._differ = np.array([[one != other for other in after.labels] for one in before.labels], np.bool_)
        self._spread = _Spread()
        self._by: By = by
        self._top = {name: _Top(top) for name in (("up", "down") if by == "score" else ("changed",))}

    def add(self, pairs: Pairs) -> None:
        """Count some keys, which come after those before."""
        before, after = pairs.before, pairs.after
        moved = after.score.astype(np.float64) - before.score
        self.rows += len(pairs)
        self.up += int(np.count_nonzero(moved > 0))
        self.down += int(np.count_nonzero(moved < 0))
        self._spread.add(moved)
        if self.deciles is not None:
            _count(self.deciles, before[DECILE] - 1, after[DECILE] - 1)
        labels = [pair[field.name] for pair, field in zip((before, after), self._labels, strict=True) if field]
        if self.labels is not None:
            _count(self.labels, *labels)
        for name, weights in self._weights(pairs, moved, labels).items():
            self._top[name].see(weights, lambda row: _mover(pairs, moved, row))

    def movers(self) -> dict[str, tuple[Mover, ...]]:
        """The top movers, those who moved most first: `up` and `down` by score, or who `changed` the label."""
        return {name: tuple(top.movers()) for name, top in self._top.items()}

    def difference(self) -> dict[str, float]:
        """How scores after differ from those before, as mean, least, largest and quantiles; empty if there are no rows."""
        return self._spread.described()

    def _weights(self, pairs: Pairs, moved: Floats, labels: Sequence[npt.NDArray[Any]]) -> dict[str, Floats]:
        """How much each key counts in each list of top movers; NaN: it is not of those.

        Of two labels the score is that of the second one, so the difference says how far a key went. Of more it is that of the
        label itself, so a key counts as much as both labels were likely.
        """
        if self._by == "score":
            return {"up": np.where(moved > 0, moved, np.nan), "down": np.where(moved < 0, -moved, np.nan)}
        sure = pairs.before.score.astype(np.float64) + pairs.after.score
        weights = sure if max(self._differ.shape) > 2 else np.abs(moved)
        return {"changed": np.where(self._differ[labels[0], labels[1]], weights, np.nan)}


class _Spread:
    """The distribution of differences, in the memory of its bins: the first 16 bits of their float32 form.

    So a quantile is right to 0.8 % of its value, and is never told larger than it is.
    """

    def __init__(self) -> None:
        self._bins = np.zeros(1 << 16, np.int64)
        self._sum = self._absolute = 0.0
        self._least, self._largest = np.inf, -np.inf

    def add(self, moved: Floats) -> None:
        """Count differences of shape (rows,)."""
        if len(moved):
            with np.errstate(over="ignore"):
                codes = moved.astype(np.float32).view(np.uint32) >> 16
            self._bins += np.bincount(codes, minlength=len(self._bins))
            self._sum, self._absolute = self._sum + float(moved.sum()), self._absolute + float(np.abs(moved).sum())
            self._least, self._largest = min(self._least, float(moved.min())), max(self._largest, float(moved.max()))

    def described(self) -> dict[str, float]:
        """Mean, mean of the absolute values, least, quantiles and largest."""
        rows = int(self._bins.sum())
        if not rows:
            return {}
        half = len(self._bins) // 2
        codes = np.concatenate([np.arange(len(self._bins) - 1, half - 1, -1), np.arange(half)]).astype(np.uint32)
        values = (codes << np.uint32(16)).view(np.float32)
        reached = np.cumsum(self._bins[codes])
        found = {name: float(values[np.searchsorted(reached, share * rows)]) for name, share in QUANTILES.items()}
        means = {"mean": self._sum / rows, "mean_absolute": self._absolute / rows}
        return {**means, "least": self._least, **found, "largest": self._largest}


class _Top:
    """The rows with the largest weights; of equal ones those that came first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: list[tuple[float, Mover]] = []

    def see(self, weights: Floats, mover: Callable[[int], Mover]) -> None:
        """Look at rows by their weights, shape (rows,); one that is NaN does not count."""
        least = self._found[-1][0] if len(self._found) == self._most else -np.inf
        rows = np.flatnonzero(weights > least)
        best = rows[np.argsort(-weights[rows], kind="stable")[: self._most]]
        both = [*self._found, *((float(weights[row]), mover(int(row))) for row in best)]
        self._found = sorted(both, key=lambda one: -one[0])[: self._most]

    def movers(self) -> list[Mover]:
        """Who they are, the largest weight first."""
        return [mover for _, mover in self._found]


def _count(counts: Counts, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> None:
    """Add how many rows went from each place to each, in a table of two dimensions."""
    width = counts.shape[1]
    counts += np.bincount(before.astype(np.intp) * width + after, minlength=counts.size).reshape(counts.shape)


def _mover(pairs: Pairs, moved: Floats, row: int) -> Mover:
    one, other = (
        records.kind.as_mapping(records.take(slice(row, row + 1)).packed()[0]) for records in (pairs.before, pairs.after)
    )
    (key,) = pairs.keys.slice(row, 1).to_pylist()
    return Mover(plain(list(key.values())), float(moved[row]), one, other)
