"""Is a snapshot suddenly otherwise than on the nights before? What no contract forbids, and no night does by itself.

A filled column, another unit, a fifth of the rows gone: each leaves types and ranges as they were. It shows beside the days
that are comparable. What moves little by little is drift; see `drift`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.quality.columns import Column
from batch_assets.quality.comparable import comparable, same_weekday
from batch_assets.quality.gates import GATES
from batch_assets.quality.guess import guessed, in_words
from batch_assets.quality.outcome import FEWER_ROWS, MORE_ROWS, CheckOutcome, Finding

Columns = Mapping[str, Column]

_ENOUGH = 30
"""Of fewer values no unit is guessed."""

_CHANCE = 4
"""So many square roots of a count are what chance does to it."""


class ChangeSettings(BaseModel):
    """How much a night may differ from the nights before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compare_days: int = Field(
        7, description="How many of the newest good days count where too few are of the same weekday.", ge=1, le=28
    )
    min_rows: float = Field(
        0.9,
        description="Rows, as a share of the median of the newest or of the same weekdays, below which a night blocks.",
        ge=0,
    )
    max_rows: float = Field(1.5, description="And above which it blocks.", ge=1)
    max_missing_rise: float = Field(
        0.05, description="By how much the share of missing values in a column may exceed that of those days.", ge=0, le=1
    )
    max_factor: float = Field(
        4.0, description="By what factor the median size of a column's values may differ from each of those days.", gt=1
    )
    allow_unchanged: bool = Field(False, description="Whether the very features of an earlier day are good; see `sources`.")


def judge_changes(
    day: str,
    today: Columns,
    before: Mapping[str, Columns],
    settings: ChangeSettings,
    unusual: Collection[str] = (),
) -> CheckOutcome:
    """`changes`: nothing is suddenly otherwise than on earlier good days.

    Args:
        day: the partition that is judged.
        today: the profile's columns.
        before: those of the good days before, by partition.
        settings: how much may differ.
        unusual: of those days, the ones whose number of rows is not compared with.
    """
    if not before or not today:
        return GATES["changes"].outcome(passed=True, severity="info", message="not_compared: no earlier good day.")
    rows, counts = _rows(today), {other: _rows(columns) for other, columns in before.items() if other not in unusual}
    usual = _usual(day, counts, settings) or [rows]
    nearest = min(usual, key=lambda one: abs(math.log((rows + 1) / (one + 1))))
    findings = _of_rows(rows, usual, nearest, counts[max(counts)] if counts else rows, settings)
    for name, column in today.items():
        like = comparable(day, _known(name, before), partial(_apart, settings), settings.compare_days)
        findings += _of_column(column, like, settings, partial(_guess, name, today, before))
    return GATES["changes"].outcome(
        passed=not findings,
        severity="error",
        observed=float(len(findings)),
        threshold=0.0,
        figures={"rows_ratio": round(rows / nearest, 6)} if nearest else {},
        findings=tuple(findings),
        message="; ".join(finding.message for finding in findings)
        or f"Nothing is suddenly otherwise than from {min(before)} to {max(before)} ({len(before)} good days).",
    )


def _rows(columns: Columns) -> int:
    return next(iter(columns.values())).rows if columns else 0


def _known(name: str, before: Mapping[str, Columns]) -> dict[str, Column]:
    """A column on those days on which it had values."""
    return {day: columns[name] for day, columns in before.items() if name in columns and columns[name].rows}


def _usual(day: str, counts: Mapping[str, int], settings: ChangeSettings) -> list[float]:
    """The rows that are usual: the median of the newest days and, where there are some, of the same weekdays."""
    newest, same = sorted(counts, reverse=True)[: settings.compare_days], same_weekday(day, counts)
    return [median(counts[other] for other in days) for days in (newest, same) if days]


def _of_rows(rows: int, usual: Sequence[float], nearest: float, newest: int, settings: ChangeSettings) -> list[Finding]:
    """Rows against what is usual; what chance does to a small count is always allowed.

    It is enough to be usual in one way. A young pipeline grows day by day, so more rows than usual are measured by the newest
    day, too.
    """
    if all(rows < min(settings.min_rows * one, one - _CHANCE * math.sqrt(one)) for one in usual):
        few = f"{rows:,} rows are {1 - rows / nearest:.0%} fewer than the usual {nearest:,.0f}"
        return [Finding(kind=FEWER_ROWS, message=few)]
    if all(rows > max(settings.max_rows * one, one + _CHANCE * math.sqrt(one)) for one in (*usual, newest)):
        many = f"{rows:,} rows are {rows / nearest:.2f} times the usual {nearest:,.0f}"
        return [Finding(kind=MORE_ROWS, message=many)]
    return []


def _apart(settings: ChangeSettings, one: Column, other: Column) -> bool:
    """Whether the second of two days would be found to be otherwise than the first."""
    return bool(_of_column(other, {"": one}, settings, lambda _: ""))


def _of_column(
    today: Column, before: Mapping[str, Column], settings: ChangeSettings, guess: Callable[[str], str]
) -> list[Finding]:
    """What is otherwise about one column.

    Args:
        today: the column.
        before: the same column on the days that it may be like, newest first.
        settings: how much may differ.
        guess: what would explain that its size is another one than on a day.
    """
    if not before or not today.rows:
        return []
    found = list[Finding]()

    def find(kind: str, what: str) -> None:
        found.append(Finding(subject=today.name, kind=kind, message=f"{today.name} {what}"))

    if today.constant and not any(other.constant for other in before.values()):
        find("constant", f"is {today.minimum:.6g} in every row; it had many values on {max(before)}")
    most = max(other.missing for other in before.values())
    if today.missing > most + settings.max_missing_rise:
        find("missing", f"is missing in {today.missing:.0%} of the rows; it was in at most {most:.0%}")
    day, factor = _factor(today, before) if not found and not today.category else ("", 1.0)
    if max(factor, 1 / factor) >= settings.max_factor:
        find("unit", f"is {in_words(factor)} what it was on {day}{guess(day)}")
    return found


def _factor(today: Column, before: Mapping[str, Column]) -> tuple[str, float]:
    """The factor between a column's median size and that of the day where it is nearest; 1 where too few values say."""
    size, values = today.size()
    sizes = {day: other.size() for day, other in before.items()}
    factors = {day: size / other for day, (other, count) in sizes.items() if min(count, values) >= _ENOUGH}
    return min(factors.items(), key=lambda one: abs(math.log(one[1])), default=("", 1.0))


def _guess(name: str, today: Columns, before: Mapping[str, Columns], day: str) -> str:
    found = guessed(name, today, before[day])
    return f", {found.why}" if found else ""
