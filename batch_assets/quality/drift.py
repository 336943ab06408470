"""Have scores or features moved? Against the days before (warns, then blocks), and against the model card (warns).

Scores are compared with those of the same model, all days together. A feature is compared with each of the newest good days,
and the nearest counts: Sunday is like a Sunday, and what ages day by day is like yesterday.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.histogram import Histogram, float_edges
from batch_assets.quality.columns import Column
from batch_assets.quality.distance import Distance, distance
from batch_assets.quality.outcome import CheckOutcome, Shares

_NAMES = ("psi", "ks", "js")

_AGAIN, _RANKS = 1.5, 0.1
"""How much farther than expected a new version's scores may be, and by how much the rank correlation may be lower."""

_ENOUGH = 30
"""Of fewer keys ranks say nothing."""

_LIKE = 0.02
"""A Jensen-Shannon divergence up to which a column looks like another one."""


class Levels(BaseModel):
    """A level for each measure of distance; reaching one of them is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    psi: float = Field(description="Population stability index.", gt=0)
    ks: float = Field(description="Kolmogorov-Smirnov distance.", gt=0)
    js: float = Field(description="Jensen-Shannon divergence, in bits.", gt=0)

    def reached(self, found: Distance) -> list[str]:
        """The names of the measures that reach their level by more than chance."""
        return [name for name in _NAMES if getattr(found, name).reaches(getattr(self, name))]


class Shift(BaseModel):
    """How far the scores of two model versions, or of two days, are apart.

    `top_decile_overlap` is the share of the old highest tenth that is in the new one; `rank_correlation` is Spearman's; both
    are of the `rows` whose key is in both. Approvals of earlier releases of this program recorded neither `ks` nor `js`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str
    against: str
    rows: int
    psi: float
    ks: float | None = None
    js: float | None = None
    top_decile_overlap: float
    rank_correlation: float


class DriftSettings(BaseModel):
    """How far distributions may move. A distance that chance alone explains is none, whatever the levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trailing_days: int = Field(28, description="How far back accepted days are compared with.", ge=1)
    warn: Levels = Field(Levels(psi=0.1, ks=0.1, js=0.02), description="Against the trailing days, what warns.")
    block: Levels = Field(Levels(psi=0.25, ks=0.25, js=0.05), description="Against the trailing days, what blocks.")
    baseline_warn: Levels = Field(
        Levels(psi=0.25, ks=0.25, js=0.05), description="Against the model card's baseline, what warns."
    )

    feature_warn: Levels = Field(Levels(psi=0.1, ks=0.1, js=0.02), description="Of a feature, what warns.")
    feature_block: Levels = Field(Levels(psi=0.25, ks=0.25, js=0.05), description="Of a feature, what blocks.")

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
        for what, warning, blocking in (
            ("drift", self.warn, self.block),
            ("feature_drift", self.feature_warn, self.feature_block),
        ):
            for name in _NAMES:
                warn, block = getattr(warning, name), getattr(blocking, name)
                if block < warn:
                    raise ValueError(f"{what} blocks at {name} {block}, below the {warn} where it warns")
        return self


def between(expected: Histogram, observed: Histogram) -> Distance:
    """How far two histograms of scores are apart. Raises ValueError: other edges, or no rows on one side."""
    if expected.edges != observed.edges:
        raise ValueError("histograms with other edges cannot be compared")
    return distance(np.asarray(expected.counts), np.asarray(observed.counts))


def judge_scores(actual: Histogram) -> CheckOutcome:
    """`scores`: they are finite, and they are not all the same."""
    if actual.non_finite:
        passed, message = False, f"{actual.non_finite:,} scores are NaN or infinite."
    elif actual.constant and actual.total > 1:
        passed, message = False, f"All {actual.total:,} scores are {actual.minimum:.6g}: the model says nothing."
    elif actual.total:
        passed, message = True, f"{actual.total:,} finite scores from {actual.minimum:.4f} to {actual.maximum:.4f}."
    else:
        passed, message = True, "There are no scores."
    return CheckOutcome(name="scores", asset="predictions", passed=passed, severity="error", message=message)


def judge_drift(actual: Histogram, trailing: Mapping[str, Histogram], settings: DriftSettings) -> CheckOutcome:
    """`drift`: the distance to all comparable days together, keyed by partition."""
    comparable = [histogram for histogram in trailing.values() if histogram.total]
    if not comparable or not actual.total:
        return CheckOutcome(
            name="drift",
            asset="predictions",
            passed=True,
            severity="info",
            threshold=settings.block.psi,
            message=f"not_compared: no accepted day of the {settings.trailing_days} days before was scored by this model.",
        )
    found = between(_sum(comparable), actual)
    blocking, warning = settings.block.reached(found), settings.warn.reached(found)
    level = settings.block if blocking else settings.warn
    return CheckOutcome(
        name="drift",
        asset="predictions",
        passed=not warning,
        severity="warn" if warning and not blocking else "error",
        observed=found.psi.value,
        threshold=level.psi,
        figures=_figures(found),
        shares=_shares(found, "Scores of this partition and of the days before", _score_edges(actual)),
        message=f"{_told(found)} against {len(comparable)} accepted day(s) from {min(trailing)} to {max(trailing)}; "
        f"{_reached(blocking or warning, level, 'blocks' if blocking else 'warns')}.",
    )


def judge_baseline(actual: Histogram, baseline: Histogram, partition: str, settings: DriftSettings) -> CheckOutcome:
    """`baseline`: the distance to the model card; it warns that the population is not the one that the model knew."""
    if not actual.total:
        return CheckOutcome(
            name="baseline", asset="predictions", passed=True, severity="info", message="not_compared: there are no scores."
        )
    found, level = between(baseline, actual), settings.baseline_warn
    reached = level.reached(found)
    return CheckOutcome(
        name="baseline",
        asset="predictions",
        passed=not reached,
        severity="warn",
        observed=found.psi.value,
        threshold=level.psi,
        figures=_figures(found),
        shares=_shares(found, f"Scores of this partition and of the model card's {partition}", _score_edges(actual)),
        message=f"{_told(found)} against the model card's baseline of {partition}; {_reached(reached, level, 'warns')}.",
    )


def judge_model_shift(
    found: Distance | None,
    shift: Shift | None,
    expected: Shift | None,
    settings: DriftSettings,
    edges: Sequence[float] = (),
) -> CheckOutcome:
    """`previous_model`: how far the scores are from those of the version before, and whether its approval was told so.

    Args:
        found: the distance between the two versions' scores; None if there is nothing to compare with.
        shift: what it says, and how differently they rank the same keys.
        expected: what the plan of the approval said; up to half as much again is accepted with it.
        settings: the levels.
        edges: between the bins over which the distance was taken.
    """
    if found is None or shift is None:
        message = "not_compared: no earlier version's run of this day, or of one of the days before, is accepted."
        return CheckOutcome(name="previous_model", asset="predictions", passed=True, severity="info", message=message)
    told = {name: getattr(expected, name) or 0.0 if expected else 0.0 for name in _NAMES}
    level = Levels(**{name: max(getattr(settings.model_block, name), _AGAIN * told[name]) for name in _NAMES})
    reached = level.reached(found)
    least = (
        min(settings.model_rank_correlation, expected.rank_correlation - _RANKS)
        if expected
        else settings.model_rank_correlation
    )
    reorders = shift.rank_correlation < least
    message = f"{_told(found)}, rank correlation {shift.rank_correlation:.4f} against {shift.against} on {shift.partition}; "
    if reorders:
        message += f"blocks as the rank correlation is below {least:.4g}"
    else:
        message += _reached(reached, level, "blocks")
    if reached or reorders:
        message += ", which the approval was not told to expect"
    return CheckOutcome(
        name="previous_model",
        asset="predictions",
        passed=not reached and not reorders,
        severity="error",
        observed=found.psi.value,
        threshold=level.psi,
        figures={**_figures(found), "rank_correlation": shift.rank_correlation, "top_decile_overlap": shift.top_decile_overlap},
        shares=_shares(found, f"Scores of this version and of {shift.against}", np.asarray([np.nan, *edges])),
        message=f"{message}.",
    )


def judge_ranks(shift: Shift | None, settings: DriftSettings) -> CheckOutcome:
    """`ranks`: by and large, users stand where they stood on the newest accepted day that the same model scored.

    Features that were joined to other users leave every distribution as it was; this is where it shows.
    """
    if shift is None or shift.rows < _ENOUGH:
        message = "not_compared: no accepted day before has enough of the same keys."
        return CheckOutcome(name="ranks", asset="predictions", passed=True, severity="info", message=message)
    least, overlap = settings.day_rank_correlation, shift.top_decile_overlap
    return CheckOutcome(
        name="ranks",
        asset="predictions",
        passed=shift.rank_correlation >= least,
        severity="error",
        observed=shift.rank_correlation,
        threshold=least,
        figures={"rank_correlation": shift.rank_correlation, "top_decile_overlap": overlap},
        message=f"{shift.rows:,} keys rank as on {shift.partition} with a correlation of {shift.rank_correlation:.4f}, at "
        f"least {least} wanted; {overlap:.1%} of the highest tenth are the same.",
    )


def judge_features(
    today: Mapping[str, Column], before: Mapping[str, Mapping[str, Column]], settings: DriftSettings
) -> CheckOutcome:
    """`feature_drift`: of each feature, the distance to the nearest of the newest good days, keyed by partition."""
    nearest = {name: _nearest(column, before, len(today)) for name, column in today.items()}
    found = {name: near for name, near in nearest.items() if near is not None}
    if not found:
        return CheckOutcome(
            name="feature_drift",
            asset="user_features",
            passed=True,
            severity="info",
            threshold=settings.feature_block.psi,
            message="not_compared: no earlier good day has such columns.",
        )
    blocking = [name for name in found if settings.feature_block.reached(found[name][1])]
    warning = [name for name in found if name not in blocking and settings.feature_warn.reached(found[name][1])]
    ordered = sorted(found, key=lambda name: (name not in blocking, name not in warning, -found[name][1].js.value))
    day, worst = found[ordered[0]]
    level = settings.feature_block if blocking or not warning else settings.feature_warn
    message = "; ".join(
        f"{name} is {_told(found[name][1])} from what it was on {found[name][0]}{_taken_for(name, today, before)}"
        for name in (blocking or warning)
    )
    return CheckOutcome(
        name="feature_drift",
        asset="user_features",
        passed=not blocking and not warning,
        severity="warn" if warning and not blocking else "error",
        observed=worst.psi.value,
        threshold=level.psi,
        figures=_figures(worst),
        shares=_shares(worst, f"{ordered[0]} of this partition and of {day}", float_edges()),
        table=_table([(name, *found[name]) for name in ordered], blocking, warning),
        message=f"{message}."
        if message
        else f"{len(found)} features are as on the days before; the farthest is {ordered[0]}, {_told(worst)} from {day}.",
    )


def _nearest(column: Column, before: Mapping[str, Mapping[str, Column]], looks: int) -> tuple[str, Distance] | None:
    """The day on which a column was nearest, and how far it is from that; None if there is nothing to compare."""
    found = [
        (day, distance(columns[column.name].counts, column.counts, looks))
        for day, columns in before.items()
        if column.name in columns and columns[column.name].finite and column.finite
    ]
    return min(found, key=lambda near: near[1].js.value, default=None)


def _taken_for(name: str, today: Mapping[str, Column], before: Mapping[str, Mapping[str, Column]]) -> str:
    """Whether a column that moved far is now what another one was, which is what a swap looks like."""
    newest = before[max(before)]
    mine = {
        other: distance(column.counts, today[name].counts).js.value
        for other, column in newest.items()
        if other != name and column.finite
    }
    like = min(mine, key=lambda other: mine[other], default=None)
    if like is None or mine[like] > _LIKE:
        return ""
    return f" and looks like {like} then: are they swapped?"


def _table(found: Sequence[tuple[str, str, Distance]], blocking: Sequence[str], warning: Sequence[str]) -> str:
    lines = ["| feature | | PSI | KS | JS | nearest day |", "|---|---|--:|--:|--:|---|"]
    for name, day, one in found:
        mark = "blocks" if name in blocking else "warns" if name in warning else ""
        lines.append(f"| {name} | {mark} | {one.psi.value:.4f} | {one.ks.value:.4f} | {one.js.value:.4f} | {day} |")
    return "\n".join(lines)


def _score_edges(scores: Histogram) -> npt.NDArray[np.float64]:
    """The smallest value of each bin of scores."""
    return np.asarray([np.nan, *scores.edges])


def _shares(found: Distance, title: str, edges: npt.NDArray[np.float64]) -> Shares:
    lower = [float(edges[first]) for first in found.first[1:]]
    return Shares(
        title=title,
        groups=(f"< {lower[0]:.3g}" if lower else "all", *(f"{value:.3g}" for value in lower)),
        expected=tuple(round(share, 6) for share in found.expected),
        observed=tuple(round(share, 6) for share in found.observed),
    )


def _figures(found: Distance) -> dict[str, float]:
    return {name: round(getattr(found, name).value, 6) for name in _NAMES}


def _told(found: Distance) -> str:
    return ", ".join(f"{name.upper()} {getattr(found, name).value:.4f}" for name in _NAMES)


def _reached(measures: list[str], level: Levels, does: str) -> str:
    """Which measures reached a level; if none, where it lies."""
    if measures:
        return f"{does} as " + ", ".join(f"{name.upper()} reaches {getattr(level, name)}" for name in measures)
    return f"{does} at " + ", ".join(f"{name.upper()} {getattr(level, name)}" for name in _NAMES)


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    total = histograms[0]
    for histogram in histograms[1:]:
        total = total + histogram
    return total
