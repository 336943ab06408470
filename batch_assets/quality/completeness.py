"""Is every row accounted for, were enough of them scored, all by one model, and were the values looked at twice?"""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import UNSCORED_ROWS, CheckOutcome, Finding

_SURE = 0.95
"""The probability of finding one wrong row in a hundred from which on a second look is one."""


class CompletenessSettings(BaseModel):
    """How complete a run must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_output_ratio: float = Field(0.99, description="scored / (rows - excluded) must reach this.", gt=0, le=1)
    max_dead_letters: float = Field(
        0.001, description="Share of dead-lettered rows above which a run warns and an alert is sent.", ge=0, le=1
    )
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
    return GATES["complete"].outcome(
        passed=passed,
        severity="error",
        observed=ratio,
        threshold=settings.min_output_ratio,
        findings=() if passed else (Finding(kind=UNSCORED_ROWS, message=message),),
        message=message,
    )


def judge_dead_letters(*, rows: int, dead_lettered: int, settings: CompletenessSettings) -> CheckOutcome:
    """`dead_letters`: few enough rows could not be scored. It warns; whether too few were scored, `complete` says."""
    share = dead_lettered / rows if rows else 0.0
    return GATES["dead_letters"].outcome(
        passed=share <= settings.max_dead_letters,
        severity="warn",
        observed=share,
        threshold=settings.max_dead_letters,
        message=f"{dead_lettered:,} of {rows:,} rows are dead letters ({share:.3%}), at most {settings.max_dead_letters:.2%}"
        f" wanted{'; `batch-assets dead-letters` lists them' if dead_lettered else ''}.",
    )


def judge_one_model(found: Collection[tuple[str, str]], version: str, sha256: str) -> CheckOutcome:
    """`one_model`: every chunk was scored by the one version and program that was approved, as (version, sha256) found."""
    others = sorted(set(found) - {(version, sha256)})
    wrong = ", ".join(f"{other} (sha256 {digest[:16]})" for other, digest in others)
    return GATES["one_model"].outcome(
        passed=not others,
        severity="error",
        observed=float(len(set(found) | {(version, sha256)})),
        threshold=1.0,
        message=f"Chunks were scored by {wrong}, not by {version} (sha256 {sha256[:16]}) alone."
        if others
        else f"Every chunk was scored by {version}, sha256 {sha256[:16]}.",
    )


def judge_audit(*, scored: int, audited: int, bit_equal: int, detects: float) -> CheckOutcome:
    """`audit`: some rows were scored again, alone, and are what is about to be published.

    A value that differs ends the run before it is judged; here it counts that rows were compared at all (else it blocks), and
    that enough were to find one wrong row in a hundred (else it warns).
    """
    passed = detects >= _SURE or not scored
    found = f"{audited:,} rows scored again, {bit_equal:,} of them bit-equal, the others within the stated bound; one wrong row"
    found += f" in a hundred is found with probability {detects:.4f}"
    return GATES["audit"].outcome(
        passed=passed,
        severity="error" if passed or not audited else "warn",
        observed=detects if scored else None,
        threshold=_SURE,
        message="There are no rows to score again."
        if not scored
        else f"None of {scored:,} scored rows was scored again: nobody knows whether the values are right."
        if not audited
        else f"{found}."
        if passed
        else f"{found}, at least {_SURE} is wanted: raise scoring.audit_rows.",
    )
