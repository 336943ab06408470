"""Is every row accounted for, and were enough of them scored?"""

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.quality.outcome import CheckOutcome


class CompletenessSettings(BaseModel):
    """How complete a run must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_output_ratio: float = Field(0.99, description="scored / (rows - excluded) must reach this.", gt=0, le=1)
    allow_empty: bool = Field(False, description="Whether a partition without rows is good.")


def judge_completeness(
    *, rows: int, scored: int, excluded: int, dead_lettered: int, proven_rows: int, settings: CompletenessSettings
) -> CheckOutcome:
    """`complete`: the proof covers every row, and the output ratio reaches its threshold."""
    eligible = rows - excluded
    ratio = scored / eligible if eligible else 0.0
    accounted = scored + excluded + dead_lettered
    counts = f"{rows:,} in = {scored:,} scored + {excluded:,} excluded + {dead_lettered:,} dead-lettered"
    if proven_rows != rows or accounted != rows:
        passed, message = False, f"{counts}, but the proof covers {proven_rows:,} rows."
    elif not rows:
        passed, message = settings.allow_empty, "The partition has no rows."
    elif not eligible:
        passed, message = False, f"{counts}: nothing was left to score."
    else:
        passed = ratio >= settings.min_output_ratio
        message = f"{counts}; output ratio {ratio:.4f}, at least {settings.min_output_ratio} wanted."
    return CheckOutcome(
        name="complete",
        asset="predictions",
        passed=passed,
        severity="error",
        observed=ratio,
        threshold=settings.min_output_ratio,
        message=message,
    )
