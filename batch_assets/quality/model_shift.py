"""Does another model version, or another day, score the same keys otherwise than was to be expected?"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from batch_assets.quality.drift import MEASURES, DriftSettings, Levels, figures_of, reached_in_words, shares_of, told
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.quality.statistics import Distance

_AGAIN, _RANKS = 1.5, 0.1
"""How much farther than expected a new version's scores may be, and by how much the rank correlation may be lower."""

_ENOUGH = 30
"""Of fewer keys ranks say nothing."""


class Shift(BaseModel):
    """How far the scores of two model versions, or of two days, are apart.

    `top_decile_overlap` is the share of the old highest tenth that is in the new one; `rank_correlation` is Spearman's; both
    are of the `rows` whose key is in both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str
    against: str
    rows: int
    psi: float
    ks: float
    js: float
    top_decile_overlap: float
    rank_correlation: float


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
        return GATES["previous_model"].outcome(passed=True, severity="info", message=message)
    foreseen = {name: getattr(expected, name) if expected else 0.0 for name in MEASURES}
    level = Levels(**{name: max(getattr(settings.model_block, name), _AGAIN * foreseen[name]) for name in MEASURES})
    reached = level.reached(found)
    least = (
        min(settings.model_rank_correlation, expected.rank_correlation - _RANKS)
        if expected
        else settings.model_rank_correlation
    )
    reorders = shift.rank_correlation < least
    message = f"{told(found)}, rank correlation {shift.rank_correlation:.4f} against {shift.against} on {shift.partition}; "
    if reorders:
        message += f"blocks as the rank correlation is below {least:.4g}"
    else:
        message += reached_in_words(reached, level, "blocks")
    if reached or reorders:
        message += ", which the approval was not told to expect"
    return GATES["previous_model"].outcome(
        passed=not reached and not reorders,
        severity="error",
        observed=found.psi.value,
        threshold=level.psi,
        figures=figures_of(found) | _ranks_of(shift),
        shares=shares_of(found, f"Scores of this version and of {shift.against}", np.asarray([np.nan, *edges])),
        message=f"{message}.",
    )


def judge_ranks(shift: Shift | None, settings: DriftSettings) -> CheckOutcome:
    """`ranks`: by and large, users stand where they stood on the newest accepted day that the same model scored.

    Features that were joined to other users leave every distribution as it was; this is where it shows.
    """
    if shift is None or shift.rows < _ENOUGH:
        message = "not_compared: no accepted day before has enough of the same keys."
        return GATES["ranks"].outcome(passed=True, severity="info", message=message)
    least, overlap = settings.day_rank_correlation, shift.top_decile_overlap
    return GATES["ranks"].outcome(
        passed=shift.rank_correlation >= least,
        severity="error",
        observed=shift.rank_correlation,
        threshold=least,
        figures=_ranks_of(shift),
        message=f"{shift.rows:,} keys rank as on {shift.partition} with a correlation of {shift.rank_correlation:.4f}, at "
        f"least {least} wanted; {overlap:.1%} of the highest tenth are the same.",
    )


def _ranks_of(shift: Shift) -> dict[str, float]:
    return {"rank_correlation": shift.rank_correlation, "top_decile_overlap": shift.top_decile_overlap}
