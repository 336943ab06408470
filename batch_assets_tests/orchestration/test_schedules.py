"""The nightly schedule, evaluated at the very times at which Dagster would tick."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from batch_assets.config import PartitionSettings
from batch_assets.orchestration.schedules import nights_due
from batch_assets_tests.orchestration.location import repository
from batch_assets_tests.small import Small

BERLIN = "Europe/Berlin"


def ticks(schedule: dg.ScheduleDefinition, first: str, last: str) -> list[datetime]:
    """When Dagster ticks, from its own iterator over cron strings: windows of partitions go from tick to tick."""
    zone = ZoneInfo(str(schedule.execution_timezone))
    windows = dg.TimeWindowPartitionsDefinition(
        cron_schedule=str(schedule.cron_schedule),
        timezone=str(zone),
        start=datetime.fromisoformat(first).replace(tzinfo=zone),
        end=datetime.fromisoformat(f"{last}T23:59").replace(tzinfo=zone) + timedelta(days=1),
        fmt="%Y-%m-%dT%H:%M%z",
    )
    return [datetime.fromisoformat(key) for key in windows.get_partition_keys()]


def requests(defs: dg.RepositoryDefinition, times: list[datetime], *, launched: bool = False) -> list[dg.RunRequest]:
    """What is asked for by ticks; `launched`: the daemon has made runs of each before the next."""
    schedule = defs.get_schedule_def("small_nightly")
    found = []
    with dg.instance_for_test() as instance:
        for time in times:
            with dg.build_schedule_context(instance, scheduled_execution_time=time, repository_def=defs) as context:
                asked = schedule.evaluate_tick(context).run_requests or []
            for request in asked if launched else ():
                tags = {**request.tags, "dagster/schedule_name": schedule.name}
                instance.add_run(dg.DagsterRun(job_name="small", tags=tags))
            found += asked
    return found


@pytest.mark.parametrize(
    ("first", "last", "hours", "days"),
    [
        (
            "2026-03-28",
            "2026-03-31",
            ["02:30+0100", "03:00+0200", "02:30+0200", "02:30+0200"],
            ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30"],
        ),
        (
            "2026-10-24",
            "2026-10-27",
            ["02:30+0200", "02:30+0100", "02:30+0100", "02:30+0100"],
            ["2026-10-23", "2026-10-24", "2026-10-25", "2026-10-26"],
        ),
    ],
)
def test_every_day_is_asked_for_once_when_clocks_are_set(
    small: Small, first: str, last: str, hours: list[str], days: list[str]
) -> None:
    defs = repository(small, partitions={"start": "2026-01-01", "timezone": BERLIN}, nightly={"at": "02:30"})
    times = ticks(defs.get_schedule_def("small_nightly"), first, last)
    assert [time.strftime("%H:%M%z") for time in times] == hours
    assert [request.tags["dagster/partition"] for request in requests(defs, times)] == days


@pytest.mark.parametrize("at", ["00:00", "00:30", "01:59", "02:00", "02:59", "03:00", "23:59"])
@pytest.mark.parametrize("zone", [BERLIN, "America/Santiago", "Africa/Cairo", "Australia/Lord_Howe", "UTC"])
def test_whatever_the_hour_and_the_zone(small: Small, at: str, zone: str) -> None:
    """In some zones clocks are set at midnight, in one of them by half an hour."""
    defs = repository(small, partitions={"start": "2025-01-01", "timezone": zone}, nightly={"at": at})
    times = ticks(defs.get_schedule_def("small_nightly"), "2025-01-02", "2026-01-01")
    days = defs.asset_graph.get(dg.AssetKey(["small", "predictions"])).partitions_def.get_partition_keys()
    partitions = PartitionSettings(start=date(2025, 1, 1), timezone=zone)
    assert [day for time in times for day in nights_due(partitions, time, None)] == days[:365]
    assert days[364] == "2025-12-31"


def test_a_repeated_tick_runs_nothing_twice(small: Small) -> None:
    """Dagster starts no second run for a run key; the key is the day."""
    defs = repository(small, partitions={"start": "2026-01-01", "timezone": BERLIN})
    time = datetime(2026, 10, 25, 2, tzinfo=ZoneInfo(BERLIN))
    first, again = requests(defs, [time.replace(fold=0), time.replace(fold=1)])
    assert first.run_key == again.run_key == "2026-10-24"


def test_nights_that_dagster_missed_are_asked_for_with_the_next(small: Small) -> None:
    defs = repository(small, partitions={"start": "2026-01-01"})
    times = [datetime(2026, 3, day, 2, tzinfo=ZoneInfo("UTC")) for day in (10, 14, 15)]
    assert [request.run_key for request in requests(defs, times, launched=True)] == [
        f"2026-03-{day:02}" for day in (9, 10, 11, 12, 13, 14)
    ]


def test_after_a_year_without_dagster_a_month_is_asked_for(small: Small) -> None:
    defs = repository(small, partitions={"start": "2024-01-01"})
    times = [datetime(year, 3, 10, 2, tzinfo=ZoneInfo("UTC")) for year in (2025, 2026)]
    assert len(requests(defs, times[:1])) == 1
    assert len(requests(defs, times, launched=True)) == 1 + 31


def test_it_runs_by_itself_at_two(small: Small) -> None:
    schedule = repository(small, partitions={"start": "2026-01-01"}).get_schedule_def("small_nightly")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.job_name) == ("0 2 * * *", "UTC", "small")


def test_nothing_is_asked_for_before_the_first_day_is_over(small: Small) -> None:
    defs = repository(small, partitions={"start": "2026-03-10"})
    times = ticks(defs.get_schedule_def("small_nightly"), "2026-03-09", "2026-03-11")
    assert [request.run_key for request in requests(defs, times)] == ["2026-03-10"]


def test_partitions_that_end_have_no_schedule(small: Small) -> None:
    assert repository(small, partitions={"start": "2024-01-01", "end": "2024-12-31"}).schedule_defs == []
