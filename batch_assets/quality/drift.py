"""Have the scores moved? Against the comparable days by the same model (blocks), and against the model card (warns)."""

from collections.abc import Callable, Mapping
from datetime import date
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.histogram import Histogram
from batch_assets.quality.comparable import comparable
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome, Severity, Shares
from batch_assets.quality.statistics import Distance, distance

T = TypeVar("T")

MEASURES = ("psi", "ks", "js")

_ENOUGH = 30
"""Fewer rows may all have the same label."""


class Levels(BaseModel):
    """A level for each measure of distance; reaching one of them is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    psi: float = Field(description="Population stability index.", gt=0)
    ks: float = Field(description="Kolmogorov-Smirnov distance.", gt=0)
    js: float = Field(description="Jensen-Shannon divergence, in bits.", gt=0)

    def reached(self, found: Distance) -> list[str]:
        """The names of the measures that reach their level by more than chance."""
        return [name for name in MEASURES if getattr(found, name).reaches(getattr(self, name))]


class DriftSettings(BaseModel):
    """How far distributions may move. A distance that chance alone explains is none, whatever the levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trailing_days: int = Field(28, description="How far back good days are compared with.", ge=1)
    warn: Levels = Field(Levels(psi=0.1, ks=0.1, js=0.02), description="Of scores and of features, what warns.")
    block: Levels = Field(Levels(psi=0.25, ks=0.25, js=0.05), description="Of scores and of features, what blocks.")
    baseline_warn: Levels = Field(
        Levels(psi=0.25, ks=0.25, js=0.05), description="Against the model card's baseline, what warns."
    )

    model_block: Levels = Field(
        Levels(psi=0.25, ks=0.25, js=0.05),
        description="Against the model version before, what blocks unless the approval was told to expect it.",
    )
    model_rank_correlation: float = Field(
        0.5,
        description="Spearman's, with that version's scores of the same keys, below which it blocks likewise.",
        ge=-1,
        le=1,
    )
    day_rank_correlation: float = Field(
        0.3,
        description="Spearman's, with the newest accepted day's scores of the same keys, below which it blocks.",
        ge=-1,
        le=1,
    )

    @model_validator(mode="after")
    def _blocks_above_warning(self) -> "DriftSettings":
        for name in MEASURES:
            warn, block = getattr(self.warn, name), getattr(self.block, name)
            if block < warn:
                raise ValueError(f"drift blocks at {name} {block}, below the {warn} where it warns")
        return self


def between(expected: Histogram, observed: Histogram) -> Distance:
    """How far two histograms of scores are apart. Raises ValueError: other edges, or no rows on one side."""
    if expected.edges != observed.edges:
        raise ValueError("histograms with other edges cannot be compared")
    return distance(np.asarray(expected.counts), np.asarray(observed.counts))


def judge_scores(actual: Histogram, labels: Mapping[str, int], threshold: float | None = None) -> CheckOutcome:
    """`scores`: they are finite and not all the same (blocks), and not all rows have the same label (warns).

    Args:
        actual: the scores.
        labels: how many rows have each label.
        threshold: of two labels, the score from which on the second is given.
    """
    severity: Severity = "error"
    given = [label for label, rows in labels.items() if rows]
    if actual.non_finite:
        passed, message = False, f"{actual.non_finite:,} scores are NaN or infinite."
    elif actual.constant and actual.total > 1:
        passed, message = False, f"All {actual.total:,} scores are {actual.minimum:.6g}: the model says nothing."
    elif len(given) == 1 and actual.total >= _ENOUGH:
        passed, severity = False, "warn"
        ends = f"scores are from {actual.minimum:.4f} to {actual.maximum:.4f}"
        message = f"All {actual.total:,} rows have the same label, {given[0]}: {ends}" + (
            f", and the threshold of the model's card is {threshold:g}." if threshold is not None else "."
        )
    elif actual.total:
        passed, message = True, f"{actual.total:,} finite scores from {actual.minimum:.4f} to {actual.maximum:.4f}."
    else:
        passed, message = True, "There are no scores."
    return GATES["scores"].outcome(passed=passed, severity=severity, message=message)


def nearest_of(
    day: str, today: T, before: Mapping[str, T], apart: Callable[[T, T], Distance], warn: Levels, newest: int
) -> tuple[str, Distance] | None:
    """The comparable day on which something was nearest to what it is today, and how far it is; None if there is none.

    Args:
        day: the partition that is judged.
        today: what is compared.
        before: the same on the good days before.
        apart: how far the second is from the first.
        warn: the levels from which on two weekdays are not alike.
        newest: how many of the newest days are comparable where too few are of the same weekday.
    """
    days = comparable(day, before, lambda one, other: bool(warn.reached(apart(one, other))), newest)
    found = {other: apart(one, today) for other, one in days.items()}
    return min(found.items(), key=lambda near: near[1].js.value, default=None)


def nearest_scores(
    day: str, actual: Histogram, trailing: Mapping[str, Histogram], settings: DriftSettings, newest: int = 7
) -> tuple[str, Distance] | None:
    """The comparable accepted day whose scores are nearest, and how far these are from it."""
    known = {other: histogram for other, histogram in trailing.items() if histogram.total}
    return nearest_of(day, actual, known, between, settings.warn, newest) if actual.total else None


def judge_drift(
    day: str,
    actual: Histogram,
    trailing: Mapping[str, Histogram],
    settings: DriftSettings,
    newest: int = 7,
    *,
    left_out: int = 0,
) -> CheckOutcome:
    """`drift`: the distance to the nearest comparable one of the accepted days before by the same model, keyed by partition.

    `newest` of them are comparable where too few are of the same weekday. Others, `left_out`, were overridden; where these are
    all there are, nobody watches the scores, and that is a warning.
    """
    near = nearest_scores(day, actual, trailing, settings, newest)
    if near is None:
        unwatched, reach = bool(left_out and not trailing), f"accepted day of the {settings.trailing_days} days before"
        return GATES["drift"].outcome(
            passed=not unwatched,
            severity="warn" if unwatched else "info",
            threshold=settings.block.psi,
            message=f"not_compared: what was found on each {reach} that this model scored was overridden."
            if unwatched
            else f"not_compared: no {reach} was scored by this model.",
        )
    other, found = near
    blocking, warning = settings.block.reached(found), settings.warn.reached(found)
    level = settings.block if blocking else settings.warn
    return GATES["drift"].outcome(
        passed=not warning,
        severity="warn" if warning and not blocking else "error",
        observed=found.psi.value,
        threshold=level.psi,
        figures=figures_of(found),
        shares=shares_of(found, f"Scores of this partition and of {named(other)}", score_edges(actual)),
        message=f"{told(found)} against {named(other)}, the nearest comparable one of {len(trailing)} accepted day(s); "
        f"{reached_in_words(blocking or warning, level, 'blocks' if blocking else 'warns')}.",
    )


def named(day: str) -> str:
    """A day and its weekday."""
    return f"{day} ({date.fromisoformat(day):%A})"


def judge_baseline(actual: Histogram, baseline: Histogram, partition: str, settings: DriftSettings) -> CheckOutcome:
    """`baseline`: the distance to the model card; it warns that the population is not the one that the model knew."""
    if not actual.total:
        return GATES["baseline"].outcome(passed=True, severity="info", message="not_compared: there are no scores.")
    found, level = between(baseline, actual), settings.baseline_warn
    reached = level.reached(found)
    return GATES["baseline"].outcome(
        passed=not reached,
        severity="warn",
        observed=found.psi.value,
        threshold=level.psi,
        figures=figures_of(found),
        shares=shares_of(found, f"Scores of this partition and of the model card's {partition}", score_edges(actual)),
        message=f"{told(found)} against the model card's baseline of {partition}; {reached_in_words(reached, level, 'warns')}.",
    )


def score_edges(scores: Histogram) -> npt.NDArray[np.float64]:
    """The smallest value of each bin of scores."""
    return np.asarray([np.nan, *scores.edges])


def shares_of(found: Distance, title: str, edges: npt.NDArray[np.float64] | None) -> Shares:
    """A picture of a distance; `edges` are the smallest values of the bins that it was taken over, None those of categories."""
    if edges is None:
        groups = [*map(str, found.first[:-1]), "others"]
    else:
        lower = [float(edges[first]) for first in found.first[1:]]
        groups = [f"< {lower[0]:.3g}" if lower else "all", *(f"≥ {value:.3g}" for value in lower)]
    return Shares(
        title=title,
        groups=tuple(groups),
        expected=tuple(round(share, 6) for share in found.expected),
        observed=tuple(round(share, 6) for share in found.observed),
    )


def figures_of(found: Distance) -> dict[str, float]:
    """The measures by name, rounded."""
    return {name: round(getattr(found, name).value, 6) for name in MEASURES}


def told(found: Distance) -> str:
    """The measures in words."""
    return ", ".join(f"{name.upper()} {getattr(found, name).value:.4f}" for name in MEASURES)


def reached_in_words(measures: list[str], level: Levels, does: str) -> str:
    """Which measures reached a level; if none, where it lies."""
    if measures:
        return f"{does} as " + ", ".join(f"{name.upper()} reaches {getattr(level, name)}" for name in measures)
    return f"{does} at " + ", ".join(f"{name.upper()} {getattr(level, name)}" for name in MEASURES)
