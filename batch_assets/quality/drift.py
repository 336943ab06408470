"""Have the scores moved? Against the days before by the same model (blocks), and against the model card (warns)."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.histogram import Histogram
from batch_assets.quality.outcome import CheckOutcome


class DriftSettings(BaseModel):
    """How far the distribution of scores may move, as PSI."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trailing_days: int = Field(28, description="How far back accepted days are compared with.", ge=1)
    warn: float = Field(0.1, description="PSI against the trailing days that warns.", gt=0)
    block: float = Field(0.25, description="PSI against the trailing days that blocks.", gt=0)
    baseline_warn: float = Field(0.25, description="PSI against the model card's baseline that warns.", gt=0)

    @model_validator(mode="after")
    def _blocks_above_warning(self) -> "DriftSettings":
        if self.block < self.warn:
            raise ValueError(f"drift blocks at {self.block}, below the {self.warn} where it warns")
        return self


def population_stability_index(expected: Histogram, actual: Histogram, bins: int = 10) -> float:
    """PSI = sum over bins of (a - e) * ln(a / e), a and e being the bins' shares.

    Bins are about equal parts of the expected distribution. Half a row is added to every bin, so that an empty one does
    not make the index infinite. Source: N. Siddiqi, "Credit Risk Scorecards" (2006), where 0.1 is a small and 0.25 a
    large shift.

    Raises:
        ValueError: other edges, or no rows on one side.
    """
    if expected.edges != actual.edges:
        raise ValueError("histograms with other edges cannot be compared")
    if not expected.total or not actual.total:
        raise ValueError("there is nothing to compare")
    middles = [upto - count / 2 for upto, count in zip(accumulate(expected.counts), expected.counts, strict=True)]
    groups = [min(int(bins * middle / expected.total), bins - 1) for middle in middles]
    e, a = [0.5] * bins, [0.5] * bins
    for group, expected_count, actual_count in zip(groups, expected.counts, actual.counts, strict=True):
        e[group] += expected_count
        a[group] += actual_count
    shares = [(x / sum(e), y / sum(a)) for x, y in zip(e, a, strict=True)]
    return sum((y - x) * math.log(y / x) for x, y in shares)


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
    """`drift`: PSI against all comparable days together, keyed by partition."""
    comparable = [histogram for histogram in trailing.values() if histogram.total]
    if not comparable or not actual.total:
        return CheckOutcome(
            name="drift",
            asset="predictions",
            passed=True,
            severity="info",
            threshold=settings.block,
            message=f"not_compared: no accepted day of the {settings.trailing_days} days before was scored by this model.",
        )
    psi = population_stability_index(_sum(comparable), actual)
    days = f"{len(comparable)} accepted day(s) from {min(trailing)} to {max(trailing)}"
    blocks = psi >= settings.block
    return CheckOutcome(
        name="drift",
        asset="predictions",
        passed=psi < settings.warn,
        severity="warn" if settings.warn <= psi < settings.block else "error",
        observed=psi,
        threshold=settings.block if blocks else settings.warn,
        message=f"PSI {psi:.4f} against {days}; warns at {settings.warn}, blocks at {settings.block}.",
    )


def judge_baseline(actual: Histogram, baseline: Histogram, partition: str, settings: DriftSettings) -> CheckOutcome:
    """`baseline`: PSI against the model card; it warns that the population is not the one that the model knew."""
    if not actual.total:
        return CheckOutcome(
            name="baseline", asset="predictions", passed=True, severity="info", message="not_compared: there are no scores."
        )
    psi = population_stability_index(baseline, actual)
    return CheckOutcome(
        name="baseline",
        asset="predictions",
        passed=psi < settings.baseline_warn,
        severity="warn",
        observed=psi,
        threshold=settings.baseline_warn,
        message=f"PSI {psi:.4f} against the model card's baseline of {partition}; warns at {settings.baseline_warn}.",
    )


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    total = histograms[0]
    for histogram in histograms[1:]:
        total = total + histogram
    return total
