"""What time it is, and when a wall clock in a time zone shows a given time.

Moments are compared in UTC: two moments in one zone would be compared by what the wall clock shows, and on the night when
clocks are set that is not the order in which they happen.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, StringConstraints

Clock = Callable[[], datetime]
"""Says what time it is, in UTC."""


def utc_now() -> datetime:
    """The clock of everything that is not a test."""
    return datetime.now(UTC)


def _known(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name}; one is written like Europe/Berlin") from None
    return name


TimeZone = Annotated[str, AfterValidator(_known)]
TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""HH:MM. Text and not a number: YAML reads an unquoted 12:30 as 750, and that must be an error rather than a time."""


def today(now: datetime, zone: str) -> date:
    """The day it is in a zone."""
    return now.astimezone(ZoneInfo(zone)).date()


def days_ago(day: str, count: int) -> str:
    """The day, YYYY-MM-DD, that is so many days before another."""
    return (date.fromisoformat(day) - timedelta(days=count)).isoformat()


def end_of(day: date, zone: str) -> datetime:
    """The moment at which a day is over, in UTC."""
    return _moment(day + timedelta(days=1), time(), zone)


def next_at(moment: datetime, at: str, zone: str) -> datetime:
    """The first moment after another at which a wall clock in a zone shows HH:MM, in UTC.

    An hour that does not exist is as long after midnight as it would be; of one that is there twice, the first counts.
    """
    day = today(moment, zone)
    found = _moment(day, time.fromisoformat(at), zone)
    return found if found > moment else _moment(day + timedelta(days=1), time.fromisoformat(at), zone)


def _moment(day: date, at: time, zone: str) -> datetime:
    return datetime.combine(day, at, ZoneInfo(zone)).astimezone(UTC)
