"""Was the source loaded before the features were computed? Windows over many days look as usual when the last one is missing.

Each table says which column is the date of its rows; then the rows of the partition's day are counted, and compared with the
same weekday of the good days before. And of any features it is known whether a single row is otherwise than it was.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.quality.comparable import same_weekday
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome, Finding, Shares

SOURCES = "sources"
"""The check's name. The subject of a finding is a table, or empty where the features as a whole are meant."""

ENOUGH_DAYS = 7
"""Of fewer good days nobody knows what is usual: then few rows only warn."""

_NEWEST = 7
_CHANCE = 3.0
"""Fewer rows than usual by so many times the square root, which is what chance does to a count, are always allowed."""

_AGAIN = "when its load is complete, run the day again with --refresh"


class SourceSettings(BaseModel):
    """How fresh the tables have to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_day_rows: float = Field(
        0.58,
        description="Rows of the partition's day, as a share of what is usual on that weekday, below which a night blocks.",
        ge=0,
        le=1,
    )
    max_unreadable: float = Field(
        0.001, description="Share of a table's rows that could not be read above which a night blocks.", ge=0, le=1
    )
    not_daily: tuple[str, ...] = Field(
        (), description="Tables that need not have rows of every day: what is closed on Sundays, a list that seldom grows."
    )


@dataclass(frozen=True)
class TableRows:
    """What is known of one table: rows of the partition's day, and those of good days before, by partition.

    `event_date` is the column that was counted by, "" if none is named; then nothing else is known of its days. Of `all_rows`
    that it has, `unreadable` could not be read.
    """

    name: str
    event_date: str = ""
    newest: date | None = None
    rows: int = 0
    before: Mapping[str, int] | None = None
    all_rows: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class ChangedRows:
    """How many of the `rows` that were compared are new or otherwise than on the day `since`.

    `unchanged` is sure: every row was compared, none is new, none is otherwise, none is gone.
    """

    since: str
    rows: int
    changed: int
    unchanged: bool


@dataclass(frozen=True)
class _Judged:
    """One table: what is usual, on which days that rests, and what is to be said."""

    table: TableRows
    usual: float | None = None
    days: tuple[str, ...] = ()
    finding: Finding | None = None

    @property
    def weight(self) -> int:
        """0 if it blocks, 1 if it warns, else 2."""
        return 2 if self.finding is None else 0 if self.finding.blocks else 1

    @property
    def ratio(self) -> float | None:
        """The day's rows as a share of what is usual."""
        return self.table.rows / self.usual if self.usual else None


def judge_sources(
    partition: str,
    tables: Sequence[TableRows],
    changed: ChangedRows | None,
    settings: SourceSettings,
    *,
    allow_unchanged: bool,
) -> CheckOutcome:
    """`sources`: every table has rows of the day, as many as usual, and could be read; the features are not those of before.

    Args:
        partition: the day.
        tables: what is known of their dates.
        changed: how the features compare with those of an earlier good day; None if there is none.
        settings: how fresh tables have to be.
        allow_unchanged: whether the very features of an earlier day are good.
    """
    judged = [_judge(date.fromisoformat(partition), table, settings) for table in tables]
    findings = [one.finding for one in sorted(judged, key=lambda one: one.weight) if one.finding]
    findings += [_unreadable(table, settings) for table in tables if table.unreadable]
    if changed is not None and changed.unchanged and not allow_unchanged:
        said = f"these are the features of {changed.since} again: the source was not updated"
        findings.insert(0, Finding(kind="unchanged", message=said))
    blocks = any(finding.blocks for finding in findings)
    ratios = [one.ratio for one in judged if one.ratio is not None]
    watched = [one for one in judged if one.table.event_date]
    shown = min(watched, key=lambda one: (one.weight, one.ratio if one.ratio is not None else 1.0), default=None)
    return GATES[SOURCES].outcome(
        passed=not findings,
        severity="warn" if findings and not blocks else "error" if findings or watched or changed else "info",
        observed=round(min(ratios), 6) if ratios else None,
        threshold=settings.min_day_rows,
        figures={name: figure for one in watched for name, figure in _figures(one).items()} | _changed_figure(changed),
        shares=_picture(date.fromisoformat(partition), shown) if shown and shown.days else None,
        table=_table(judged),
        findings=tuple(findings),
        message="; ".join(finding.message for finding in findings)
        or _as_usual(date.fromisoformat(partition), watched, changed),
    )


def _judge(day: date, table: TableRows, settings: SourceSettings) -> _Judged:
    """One table against what is usual."""
    daily = table.name not in settings.not_daily
    if not table.event_date:
        said = f"{table.name} has no event_date: whether it is fresh is not watched"
        return _Judged(
            table, finding=Finding(subject=table.name, kind="unwatched", message=said, severity="warn") if daily else None
        )
    before = table.before or {}
    usual, days = _usual(day, before)
    if daily and not table.rows:
        newest = f"the newest {table.event_date} is {table.newest}" if table.newest else f"it has no {table.event_date} at all"
        said = f"{table.name} has no row of {day}, {newest}: {_AGAIN}"
        return _Judged(table, usual, days, Finding(subject=table.name, kind="stale", message=said))
    if usual is None or table.rows >= (least := min(settings.min_day_rows * usual, _by_chance(usual))):
        return _Judged(table, usual, days)
    thin = f"{table.name} has {table.rows:,} rows of {day}, {table.rows / usual:.0%} of the usual {usual:,.0f}"
    if len(before) < ENOUGH_DAYS or not same_weekday(day.isoformat(), before):
        said = f"{thin}, as far as {len(before)} good days can tell"
        return _Judged(table, usual, days, Finding(subject=table.name, kind="thin", message=said, severity="warn"))
    wanted = f"at least {math.ceil(least):,} rows are wanted on a {day:%A}"
    return _Judged(table, usual, days, Finding(subject=table.name, kind="thin", message=f"{thin}; {wanted}: {_AGAIN}"))


def _unreadable(table: TableRows, settings: SourceSettings) -> Finding:
    share = table.unreadable / table.all_rows
    said = f"{table.name} has {table.unreadable:,} rows of {table.all_rows:,} that could not be read ({share:.3%})"
    if share <= settings.max_unreadable:
        return Finding(subject=table.name, kind="unreadable", message=said, severity="warn")
    wanted = f"at most {settings.max_unreadable:.2%} may be: {_AGAIN}"
    return Finding(subject=table.name, kind="unreadable", message=f"{said}, {wanted}")


def _usual(day: date, before: Mapping[str, int]) -> tuple[float | None, tuple[str, ...]]:
    """How many rows are usual on a day, and the days that say so, oldest first; None where there are none.

    It is the median of the same weekday, lowered as far as the newest week lies below all of the days: a source that dwindles
    is not stale. One such weekday alone may have been a feast: then the newest days may say less. Without one they alone say.
    """
    newest = sorted(before)[-_NEWEST:]
    if not newest:
        return None, ()
    same = tuple(reversed(same_weekday(day.isoformat(), before)))
    level = median(before[one] for one in newest)
    if len(same) > 1:
        whole = median(before.values())
        return median(before[one] for one in same) * (min(1.0, level / whole) if whole else 1.0), same
    return min([level, *(before[one] for one in same)]), tuple(newest)


def _by_chance(usual: float) -> float:
    return usual - _CHANCE * math.sqrt(usual)


def _figures(one: _Judged) -> dict[str, float]:
    found = {f"{one.table.name}_rows": float(one.table.rows)}
    if one.usual is not None and one.ratio is not None:
        found |= {f"{one.table.name}_usual": round(one.usual, 1), f"{one.table.name}_ratio": round(one.ratio, 6)}
    return found


def _changed_figure(changed: ChangedRows | None) -> dict[str, float]:
    return {"changed_share": round(changed.changed / changed.rows, 6)} if changed and changed.rows else {}


def _as_usual(day: date, watched: Sequence[_Judged], changed: ChangedRows | None) -> str:
    """What is so on a good night."""
    found = [
        f"{one.table.name} has {one.table.rows:,} rows of {day}"
        + (f", {one.usual:,.0f} are usual" if one.usual is not None else "; not_compared: no earlier good day")
        for one in watched
    ]
    if changed and changed.rows:
        found.append(
            f"{changed.changed / changed.rows:.1%} of {changed.rows:,} rows that were compared changed since {changed.since}"
        )
    return f"{'; '.join(found)}." if found else "not_compared: no table has dates, and there is no earlier good day."


def _picture(day: date, one: _Judged) -> Shares:
    """The day's rows beside those of the days that say what is usual."""
    before = one.table.before or {}
    usual = one.usual or 0.0
    return Shares(
        title=f"Rows of {one.table.name}: what is usual, and the days that say so before {day}",
        unit="rows",
        groups=(*one.days, day.isoformat()),
        expected=tuple(round(usual, 1) for _ in (*one.days, day)),
        observed=(*(float(before[other]) for other in one.days), float(one.table.rows)),
    )


def _table(judged: Sequence[_Judged]) -> str:
    lines = ["| table | | event_date | newest | rows of the day | usual |", "|---|---|---|---|--:|--:|"]
    for one in sorted(judged, key=lambda one: one.weight):
        mark = ("blocks", "warns", "")[one.weight]
        if one.table.event_date:
            usual = f"{one.usual:,.0f}" if one.usual is not None else ""
            lines.append(
                f"| {one.table.name} | {mark} | {one.table.event_date} | {one.table.newest} | {one.table.rows:,} | {usual} |"
            )
        else:
            lines.append(f"| {one.table.name} | {mark} | not watched | | | |")
    return "\n".join(lines)
