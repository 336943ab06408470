"""Which of the good days before it a day is compared with: first of all those of the same weekday.

A Sunday is like the Sundays before it, so these always count. What ages, or has changed for good, is like the newest good day,
although it is another weekday: that day counts too, unless the weeks before say that the two weekdays are no more alike than a
Sunday and a Monday. So a Wednesday that looks like a Sunday is found, and a cohort that is a week older is not blamed for it.
Where fewer than two days of the same weekday are known, one of which may have been a holiday, the newest of all count.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import TypeVar

from batch_assets.quality.outcome import CheckOutcome

T = TypeVar("T")

_WEEK = 7
_ENOUGH = 2
"""From how many days of the same weekday on these say what is usual on it."""


def same_weekday(day: str, before: Iterable[str]) -> list[str]:
    """Those of some days that are the same weekday as a day, newest first; days are written YYYY-MM-DD."""
    weekday = date.fromisoformat(day).weekday()
    return sorted((other for other in before if date.fromisoformat(other).weekday() == weekday), reverse=True)


def comparable(day: str, before: Mapping[str, T], apart: Callable[[T, T], bool], newest: int = _WEEK) -> dict[str, T]:
    """The days, newest first, that a day may be like.

    Args:
        day: the day that is judged.
        before: what is known of the good days before it.
        apart: whether the second of two days, had it been judged by the first alone, would have been found to be otherwise.
        newest: how many of the newest count where too few are the same weekday.
    """
    same = same_weekday(day, before)
    if len(same) < _ENOUGH:
        others = sorted(before, reverse=True)[:newest]
    else:
        others = [] if _known_apart(day, max(before), before, apart) else [max(before)]
    return {other: before[other] for other in sorted({*same, *others}, reverse=True)}


def _known_apart(day: str, newest: str, before: Mapping[str, T], apart: Callable[[T, T], bool]) -> bool:
    """Whether a day and the newest one before it are weekdays that were apart in the weeks before, each like itself.

    Where the newest day is not like its own weekday a week before either, weeks say nothing: everything is on the move.
    """
    weeks = [(_earlier(day, back), _earlier(newest, back)) for back in range(_WEEK, _span(day, before) + 1, _WEEK)]
    known = [(before[one], before[other]) for one, other in weeks if one in before and other in before]
    if not known or not all(apart(other, one) for one, other in known):
        return False
    return any(not apart(other, before[newest]) for _, other in known)


def _earlier(day: str, days: int) -> str:
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()


def _span(day: str, before: Iterable[str]) -> int:
    return (date.fromisoformat(day) - date.fromisoformat(min(before))).days


def while_few_are_known(outcome: CheckOutcome, known: int, least: int) -> CheckOutcome:
    """An outcome that blocks, as a warning where fewer good days are known than have to be: the first days differ truly."""
    if not outcome.blocks or known >= least:
        return outcome
    days = f"{known} good day{' is' if known == 1 else 's are'} known before it"
    said = f"It would block, but only {days}: it warns until there are {least}. Later days are compared with this one"
    findings = tuple(one.model_copy(update={"severity": "warn"}) for one in outcome.findings)
    message = f"{outcome.message.rstrip('.')}. {said}."
    return outcome.model_copy(update={"severity": "warn", "message": message, "findings": findings})
