from datetime import UTC, date, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from batch_assets.clock import TimeOfDay, TimeZone, end_of, next_at, today

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("day", "end"),
    [
        (date(2026, 3, 27), datetime(2026, 3, 27, 23)),
        (date(2026, 3, 28), datetime(2026, 3, 28, 23)),
        (date(2026, 3, 29), datetime(2026, 3, 29, 22)),
        (date(2026, 10, 24), datetime(2026, 10, 24, 22)),
        (date(2026, 10, 25), datetime(2026, 10, 25, 23)),
    ],
)
def test_a_day_ends_at_midnight(day: date, end: datetime) -> None:
    assert end_of(day, BERLIN) == end.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "at", "zone", "found"),
    [
        (datetime(2026, 3, 27, 23), "06:00", BERLIN, datetime(2026, 3, 28, 5)),
        (datetime(2026, 3, 28, 23), "06:00", BERLIN, datetime(2026, 3, 29, 4)),
        (datetime(2026, 10, 24, 22), "06:00", BERLIN, datetime(2026, 10, 25, 5)),
        (datetime(2026, 3, 28, 23), "02:30", BERLIN, datetime(2026, 3, 29, 1, 30)),  # does not exist: 03:30
        (datetime(2026, 10, 24, 22), "02:30", BERLIN, datetime(2026, 10, 25, 0, 30)),  # is there twice: the first
        (datetime(2026, 1, 2), "06:00", "America/Los_Angeles", datetime(2026, 1, 2, 14)),
        (datetime(2026, 1, 2), "06:00", "Pacific/Auckland", datetime(2026, 1, 2, 17)),
        (datetime(2026, 1, 2), "00:00", "UTC", datetime(2026, 1, 3)),
    ],
)
def test_the_next_time_that_a_wall_clock_shows(moment: datetime, at: str, zone: str, found: datetime) -> None:
    assert next_at(moment.replace(tzinfo=UTC), at, zone) == found.replace(tzinfo=UTC)


def test_it_is_another_day_elsewhere() -> None:
    now = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
    assert (today(now, "UTC"), today(now, BERLIN)) == (date(2026, 3, 28), date(2026, 3, 29))


@pytest.mark.parametrize("text", ["24:00", "6:00", "06:60", "06:00:00", "noon", 750])
def test_a_time_of_day_is_two_digits_a_colon_and_two_digits(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TimeOfDay).validate_python(text)


@pytest.mark.parametrize("name", ["Europe/Berln", "", "../etc/passwd", "/etc/passwd", "CET+1"])
def test_a_time_zone_that_nobody_knows(name: str) -> None:
    with pytest.raises(ValidationError, match="there is no time zone"):
        TypeAdapter(TimeZone).validate_python(name)
