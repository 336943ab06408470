"""Is a snapshot suddenly otherwise than on the nights before? What no contract forbids, and no night does by itself.

A filled column, another unit, a fifth of the rows gone: each leaves types and ranges as they were. It shows beside the newest
days whose features were good. What moves little by little is drift; see `drift`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.quality.columns import Column
from batch_assets.quality.outcome import FEWER_ROWS, MORE_ROWS, CheckOutcome, Finding

Columns = Mapping[str, Column]

_ENOUGH = 30
"""Of fewer values no unit is guessed."""

_EXACT = 0.15
"""How far a factor may be from a round one to be called so: the width of a histogram's bin."""

_FACTORS = (7, 10, 12, 24, 60, 100, 365, 1_000, 3_600, 10_000, 86_400, 1_000_000)


class ChangeSettings(BaseModel):
    """How much a night may differ from the nights before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compare_days: int = Field(7, description="How many of the newest good days are compared with.", ge=1, le=28)
    min_rows: float = Field(0.9, description="Rows, as a share of the median of those days, below which a night blocks.", ge=0)
    max_rows: float = Field(1.5, description="And above which it blocks.", ge=1)
    max_missing_rise: float = Field(
        0.05, description="By how much the share of missing values in a column may exceed that of those days.", ge=0, le=1
    )
    max_factor: float = Field(
        4.0, description="By what factor the median size of a column's values may differ from each of those days.", gt=1
    )
    allow_unchanged: bool = Field(False, description="Whether the very features of an earlier day are good; see `sources`.")


def judge_changes(
    today: Columns,
    before: Mapping[str, Columns],
    settings: ChangeSettings,
    unusual: Collection[str] = (),
) -> CheckOutcome:
    """`changes`: nothing is suddenly otherwise than on earlier good days, keyed by partition, oldest first.

    Args:
        today: the profile's columns.
        before: those of the days that are compared with.
        settings: how much may differ.
        unusual: of those days, the ones whose number of rows is not compared with.
    """
    if not before or not today:
        return CheckOutcome(
            name="changes", asset="user_features", passed=True, severity="info", message="not_compared: no earlier good day."
        )
    rows, counts = _rows(today), [_rows(columns) for day, columns in before.items() if day not in unusual]
    usual = median(counts or [rows])
    findings = _of_rows(rows, usual, settings)
    for name, column in today.items():
        findings += _of_column(column, _known(name, before), settings)
    return CheckOutcome(
        name="changes",
        asset="user_features",
        passed=not findings,
        severity="error",
        observed=float(len(findings)),
        threshold=0.0,
        figures={"rows_ratio": round(rows / usual, 6)} if usual else {},
        findings=tuple(findings),
        message="; ".join(finding.message for finding in findings)
        or f"Nothing is suddenly otherwise than from {min(before)} to {max(before)} ({len(before)} good days).",
    )


def _rows(columns: Columns) -> int:
    return next(iter(columns.values())).rows if columns else 0


def _known(name: str, before: Mapping[str, Columns]) -> dict[str, Column]:
    """A column on those days on which it had values."""
    return {day: columns[name] for day, columns in before.items() if name in columns and columns[name].rows}


def _of_rows(rows: int, usual: float, settings: ChangeSettings) -> list[Finding]:
    """Rows against the median; four times the square root, which is what chance does to a small count, is always allowed."""
    chance = 4 * math.sqrt(usual)
    if rows < settings.min_rows * usual and rows < usual - chance:
        return [Finding(kind=FEWER_ROWS, message=f"{rows:,} rows are {1 - rows / usual:.0%} fewer than the usual {usual:,.0f}")]
    if rows > settings.max_rows * usual and rows > usual + chance:
        return [Finding(kind=MORE_ROWS, message=f"{rows:,} rows are {rows / usual:.2f} times the usual {usual:,.0f}")]
    return []


def _of_column(today: Column, before: Mapping[str, Column], settings: ChangeSettings) -> list[Finding]:
    """What is otherwise about one column."""
    if not before or not today.rows:
        return []
    newest, found = max(before), list[Finding]()

    def find(kind: str, what: str) -> None:
        found.append(Finding(subject=today.name, kind=kind, message=f"{today.name} {what}"))

    if today.constant and not any(other.constant for other in before.values()):
        find("constant", f"is {today.minimum:.6g} in every row; it had many values on {newest}")
    most = max(other.missing for other in before.values())
    if today.missing > most + settings.max_missing_rise:
        find("missing", f"is missing in {today.missing:.0%} of the rows; it was in at most {most:.0%}")
    factor = _factor(today, before.values()) if not found and not today.category else 1.0
    if max(factor, 1 / factor) >= settings.max_factor:
        find("unit", f"is {_in_words(factor)} what it was on {newest}, as if in another unit")
    return found


def _factor(today: Column, before: Iterable[Column]) -> float:
    """The factor between a column's median size and that of the day where it is nearest; 1 where too few values say."""
    size, values = today.size()
    sizes = [found for found, count in (other.size() for other in before) if count >= _ENOUGH]
    if values < _ENOUGH or not sizes:
        return 1.0
    return min((size / other for other in sizes), key=lambda factor: abs(math.log(factor)))


def _in_words(factor: float) -> str:
    size = max(factor, 1 / factor)
    near = min(_FACTORS, key=lambda one: abs(math.log(size / one)))
    amount = f"{near:,}" if abs(math.log(size / near)) <= _EXACT else f"{size:.3g}"
    return f"about {amount} times" if factor > 1 else f"about 1/{amount} of"
