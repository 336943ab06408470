from datetime import UTC, date, datetime, timedelta

import pytest

from batch_assets.quality.sla import Sla, SlaSettings, SlaState, deadline_of

SETTINGS = SlaSettings(published_by="06:00", timezone="Europe/Berlin")
DAY = date(2026, 3, 28)
DEADLINE = datetime(2026, 3, 29, 4, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def sla(now: datetime, published: datetime | None = None, eta: datetime | None = None) -> Sla:
    return Sla(DAY, now, DEADLINE, "Europe/Berlin", published, eta, eta)


@pytest.mark.parametrize(
    ("day", "deadline"),
    [
        (date(2026, 3, 27), datetime(2026, 3, 28, 5)),
        (date(2026, 3, 28), datetime(2026, 3, 29, 4)),
        (date(2026, 10, 23), datetime(2026, 10, 24, 4)),
        (date(2026, 10, 24), datetime(2026, 10, 25, 5)),
    ],
)
@pytest.mark.parametrize("days_zone", ["Europe/Berlin", "UTC"])
def test_the_deadline_is_the_same_on_the_wall_clock_all_year(day: date, deadline: datetime, days_zone: str) -> None:
    assert deadline_of(day, SETTINGS, days_zone) == deadline.replace(tzinfo=UTC)


def test_a_deadline_is_never_before_the_day_is_over() -> None:
    settings = SlaSettings(published_by="06:00", timezone="Pacific/Auckland")
    assert deadline_of(date(2026, 1, 1), settings, "UTC") == datetime(2026, 1, 2, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "published", "eta", "state", "passed", "severity", "observed"),
    [
        (DEADLINE - 60 * MINUTE, None, None, SlaState.on_course, True, "info", None),
        (DEADLINE - 60 * MINUTE, None, DEADLINE, SlaState.on_course, True, "info", 0.0),
        (DEADLINE - 60 * MINUTE, None, DEADLINE + MINUTE, SlaState.at_risk, False, "warn", 1.0),
        (DEADLINE, None, None, SlaState.on_course, True, "info", None),
        (DEADLINE + MINUTE, None, DEADLINE + 9 * MINUTE, SlaState.missed, False, "error", 9.0),
        (DEADLINE - MINUTE, DEADLINE - 30 * MINUTE, None, SlaState.kept, True, "warn", -30.0),
        (DEADLINE + 99 * MINUTE, DEADLINE, None, SlaState.kept, True, "warn", 0.0),
        (DEADLINE + 99 * MINUTE, DEADLINE + MINUTE, None, SlaState.late, False, "warn", 1.0),
    ],
)
def test_what_becomes_of_a_promise(
    now: datetime,
    published: datetime | None,
    eta: datetime | None,
    state: SlaState,
    passed: bool,
    severity: str,
    observed: float | None,
) -> None:
    found = sla(now, published, eta)
    outcome = found.outcome()
    assert found.state is state
    assert (outcome.passed, outcome.severity, outcome.observed, outcome.threshold) == (passed, severity, observed, 0.0)
    assert (outcome.name, outcome.asset) == ("sla", "serving_table")


def test_it_is_told_in_the_zone_of_the_promise() -> None:
    assert sla(DEADLINE - MINUTE, eta=DEADLINE + 5 * MINUTE).outcome().message == (
        "2026-03-28 is due by 2026-03-29 06:00 (Europe/Berlin): at risk, expected at 2026-03-29 06:05."
    )
    assert "it went live at 2026-03-29 05:59" in sla(DEADLINE, published=DEADLINE - MINUTE).outcome().message
    between = Sla(DAY, DEADLINE, DEADLINE, "UTC", eta_low=DEADLINE - MINUTE, eta_high=DEADLINE + MINUTE)
    assert "expected between 2026-03-29 03:59 and 2026-03-29 04:01" in between.outcome().message
    assert "nothing tells when it will be" in sla(DEADLINE).outcome().message
