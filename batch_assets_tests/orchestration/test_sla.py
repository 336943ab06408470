"""Is yesterday published in time: the sensor as Dagster evaluates it, on a real instance, with a clock that is set."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from batch_assets import logs
from batch_assets.nightly.publish import live_since
from batch_assets.nightly.throughput import Estimate
from batch_assets.orchestration import metadata
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.orchestration.assets import asset_key, partitions
from batch_assets.orchestration.nights import opened_nights
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.sla import build_sla_sensors, expected
from batch_assets.serving.live import InStore, Live, current_log
from batch_assets_tests.listener import Listener
from batch_assets_tests.orchestration.location import changed, repository, run
from batch_assets_tests.small import DAY, Small

SETTINGS = {
    "partitions": {"start": "2026-01-01", "timezone": "Europe/Berlin"},
    "sla": {"published_by": "06:00"},
}
MINUTE = timedelta(minutes=1)
DEADLINES = [
    ("2026-03-27", datetime(2026, 3, 28, 5, tzinfo=UTC)),
    ("2026-03-28", datetime(2026, 3, 29, 4, tzinfo=UTC)),
    ("2026-10-23", datetime(2026, 10, 24, 4, tzinfo=UTC)),
    ("2026-10-24", datetime(2026, 10, 25, 5, tzinfo=UTC)),
]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


class Mornings:
    """A small pipeline that promises something, its sensor, and a clock."""

    def __init__(self, small: Small, instance: dg.DagsterInstance, listener: Listener, patch: pytest.MonkeyPatch) -> None:
        self.small, self.instance, self.listener, self._patch = small, instance, listener, patch
        self.config = changed(small, alerts=[{"kind": "webhook", "url": listener.url}], **SETTINGS)
        self.now = datetime(2026, 3, 28, tzinfo=UTC)
        (self._sensor,) = build_sla_sensors(self.config, lambda: self.now)
        self.cursor: str | None = None
        self.says = ""

    def tick(self, now: datetime) -> list[tuple[str, str]]:
        """Who is told what at a time: kind and day. As Dagster's daemon does, evaluations are recorded on the instance."""
        self.now = now
        resources = {"batch_assets_root": StorageRoot(root=self.small.storage.root)}
        with dg.build_sensor_context(self.instance, self.cursor, resources=resources) as context:
            tick = self._sensor.evaluate_tick(context)
        self.cursor = tick.cursor or self.cursor
        self.says = tick.skip_message or ""
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        heard = [(one["kind"], one["partition"]) for one in self.listener.heard]
        self.listener.heard.clear()
        return heard

    def go_live(self, day: str, when: datetime) -> None:
        """A day's release went live at a time."""

        class At(datetime):
            @classmethod
            def now(cls, _: Any = None) -> datetime:
                return when

        log = current_log(self.small.storage, "small")
        with self._patch.context() as patch:
            patch.setattr(logs, "datetime", At)
            stores = (InStore(store="arrow", description=""),)
            body = Live(release=f"{day}-run", partition=day, approval=1, stores=stores)
            log.append(body, after=max(log.numbers(), default=0), why="test")

    def evaluations(self, day: str) -> list[dg.AssetCheckEvaluation]:
        """What the check says of a day, in the order in which it was said."""
        check = dg.AssetCheckKey(asset_key(self.config, "serving_table"), "sla")
        history = self.instance.event_log_storage.get_asset_check_execution_history(check, limit=99)
        found = [record.event.asset_check_evaluation for record in reversed(history) if record.partition == day]
        return [one for one in found if one is not None]

    def shown(self, day: str) -> str:
        """What Dagster shows of the check: the newest record of the day, whether or not it was made."""
        check = dg.AssetCheckKey(asset_key(self.config, "serving_table"), "sla")
        history = self.instance.event_log_storage.get_asset_check_execution_history(check, limit=99)
        return str(next(record.status.value for record in history if record.partition == day))

    def said(self, day: str) -> list[tuple[str, bool, dg.AssetCheckSeverity]]:
        return [(said(one), one.passed, one.severity) for one in self.evaluations(day)]


def said(event: dg.AssetCheckEvaluation) -> str:
    return str(event.metadata["message"].value).split("): ")[1].split(",")[0].rstrip(".")


@pytest.fixture
def mornings(small: Small, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Mornings:
    return Mornings(small, instance, listener, monkeypatch)


@pytest.mark.parametrize(("day", "deadline"), DEADLINES)
class TestOnTheNightsOnWhichClocksAreSet:
    def test_published_in_time(self, mornings: Mornings, day: str, deadline: datetime) -> None:
        assert mornings.tick(deadline - 60 * MINUTE) == []
        mornings.go_live(day, deadline - MINUTE)
        assert mornings.tick(deadline - MINUTE) == []
        assert mornings.tick(deadline + MINUTE) == []
        assert mornings.said(day) == [], "it is for the run to say so"

    def test_missed_and_published_late(self, mornings: Mornings, day: str, deadline: datetime) -> None:
        assert mornings.tick(deadline) == []
        assert mornings.tick(deadline + MINUTE) == [("missed", day)]
        assert mornings.tick(deadline + MINUTE) == []
        assert mornings.tick(deadline + 60 * MINUTE) == []
        mornings.go_live(day, deadline + 90 * MINUTE)
        assert mornings.tick(deadline + 90 * MINUTE) == []
        assert mornings.said(day) == [("missed", False, dg.AssetCheckSeverity.ERROR)]

    def test_at_risk(self, mornings: Mornings, day: str, deadline: datetime) -> None:
        """Nothing runs, and the last run took longer than there is time."""
        took = a_good_run(mornings)
        assert mornings.tick(deadline - 60 * MINUTE) == []
        assert mornings.tick(deadline - took / 2) == [("at_risk", day)]
        assert mornings.tick(deadline - took / 3) == []
        assert mornings.tick(deadline - 60 * MINUTE) == []
        assert mornings.tick(deadline - took / 3) == [], "a risk that comes back is not told again"
        assert mornings.tick(deadline + MINUTE) == [("missed", day)]


def a_good_run(mornings: Mornings) -> timedelta:
    """How long a run of the job took, of another day."""
    location = repository(mornings.small)
    run(location, mornings.instance, DAY)
    record = mornings.instance.get_run_records()[0]
    assert record.dagster_run.is_success
    return timedelta(seconds=record.end_time - record.start_time)


class TestTheSensor:
    def test_an_older_release_does_not_keep_the_promise_but_a_newer_one_does(self, mornings: Mornings) -> None:
        day, deadline = DEADLINES[1]
        mornings.go_live("2026-03-27", deadline - 60 * MINUTE)
        assert mornings.tick(deadline + MINUTE) == [("missed", day)]
        mornings.cursor = None
        mornings.go_live("2026-03-29", deadline + 2 * MINUTE)
        assert mornings.tick(deadline + 3 * MINUTE) == []

    def test_a_day_is_judged_once_more_when_it_is_over(self, mornings: Mornings) -> None:
        """Dagster was down when the deadline passed."""
        day, deadline = DEADLINES[1]
        assert mornings.tick(deadline - 60 * MINUTE) == []
        assert mornings.tick(deadline + timedelta(hours=20)) == [("missed", day)]
        assert mornings.tick(deadline + timedelta(hours=20)) == []
        assert json.loads(mornings.cursor or "") == {"2026-03-29": []}

    def test_every_day_that_dagster_was_down_is_told(self, mornings: Mornings) -> None:
        day, deadline = DEADLINES[0]
        assert mornings.tick(deadline + MINUTE) == [("missed", day)]
        days = [f"2026-03-{number}" for number in (28, 29, 30)]
        assert sorted(mornings.tick(deadline + timedelta(days=3, hours=1))) == [("missed", day) for day in days]

    def test_it_gets_over_a_cursor_that_was_reset(self, mornings: Mornings) -> None:
        """Dagster takes only one evaluation of a day that belongs to no run."""
        day, deadline = DEADLINES[1]
        for _ in range(2):
            mornings.cursor = None
            assert mornings.tick(deadline + MINUTE) == [("missed", day)]
        assert len(mornings.evaluations(day)) == 1

    def test_a_receiver_that_cannot_be_told_is_told_of_in_the_evaluation(self, mornings: Mornings) -> None:
        """It is not tried again every minute: the others would be told every minute too."""
        day, deadline = DEADLINES[0]
        mornings.listener.statuses = [404]
        assert mornings.tick(deadline + MINUTE) == [("missed", day)]
        assert mornings.tick(deadline + 2 * MINUTE) == []
        (evaluation,) = mornings.evaluations(day)
        assert "HTTP 404" in str(evaluation.metadata["not_delivered"].value)

    def test_its_tick_says_how_each_day_stands(self, mornings: Mornings) -> None:
        day, deadline = DEADLINES[0]
        assert mornings.tick(deadline - 60 * MINUTE) == []
        assert mornings.says == f"{day}: not yet, on course"
        mornings.listener.statuses = [404]
        mornings.tick(deadline + MINUTE)
        assert mornings.says.startswith(f"{day}: missed; The webhook receiver on 127.0.0.1 was not told ")
        mornings.tick(deadline + 2 * MINUTE)
        assert mornings.says == f"{day}: missed"

    @pytest.mark.parametrize("missed_first", [True, False])
    def test_a_finding_is_not_lost_when_a_run_of_the_day_fails(
        self, mornings: Mornings, instance: dg.DagsterInstance, missed_first: bool
    ) -> None:
        """The run plans the check; what it planned and did not make is what Dagster shows."""
        day, deadline = DEADLINES[0]
        if missed_first:
            mornings.tick(deadline + MINUTE)
        mornings.small.source.unlink()
        assert not instance.get_run_by_id(run(repository(mornings.small, **SETTINGS), instance, day)).is_success
        mornings.tick(deadline + 2 * MINUTE)
        assert mornings.shown(day) == "FAILED"
        assert mornings.said(day)[-1] == ("missed", False, dg.AssetCheckSeverity.ERROR)
        before = len(mornings.said(day))
        mornings.tick(deadline + timedelta(days=2))
        assert len(mornings.said(day)) == before, "it is filled in once"

    def test_a_day_that_was_published_stays_so_when_a_later_run_of_it_fails(
        self, mornings: Mornings, instance: dg.DagsterInstance
    ) -> None:
        day, deadline = DEADLINES[0]
        mornings.go_live(day, deadline - 25 * MINUTE)
        mornings.small.source.unlink()
        run(repository(mornings.small, **SETTINGS), instance, day)
        mornings.tick(deadline + timedelta(days=3))
        assert mornings.said(day) == [("published in time", True, dg.AssetCheckSeverity.ERROR)]
        assert mornings.shown(day) == "SUCCEEDED"

    def test_before_the_first_day_is_over_there_is_nothing_to_promise(self, mornings: Mornings) -> None:
        assert mornings.tick(datetime(2025, 12, 31, 12, tzinfo=UTC)) == []

    def test_it_runs_by_itself_every_minute(self, mornings: Mornings) -> None:
        (sensor,) = build_sla_sensors(mornings.config)
        assert (sensor.name, sensor.minimum_interval_seconds) == ("small_sla", 60)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING

    def test_only_who_promises_has_one(self, small: Small) -> None:
        ended = {"start": "2024-01-01", "end": "2024-12-31"}
        assert build_sla_sensors(changed(small)) == []
        assert build_sla_sensors(changed(small, **SETTINGS | {"partitions": ended})) == []
        assert "sla" not in {key.name for key in repository(small).asset_graph.asset_check_keys}


class TestWhenItIsExpected:
    @staticmethod
    def during_a_run(
        mornings: Mornings, instance: dg.DagsterInstance, estimates: list[Estimate | None]
    ) -> tuple[datetime, datetime] | tuple[None, None]:
        """What is expected while a run of the job is at work on the day and has said how far it is."""
        config, seen = mornings.config, []

        @dg.asset(key=asset_key(config, "predictions"), partitions_def=partitions(config))
        def predictions(context: dg.AssetExecutionContext) -> None:
            for estimate in estimates:
                said = metadata.of_progress("scoring", 1, 2, estimate)
                context.log_event(dg.AssetObservation(context.asset_key, partition=context.partition_key, metadata=said))
            seen.append(expected(config, instance, context.partition_key, datetime.now(UTC)))

        job = dg.define_asset_job(config.name, selection=[predictions])
        defs = dg.Definitions(assets=[predictions], jobs=[job])
        done = defs.resolve_job_def(config.name).execute_in_process(instance=instance, partition_key="2026-03-28")
        assert done.success
        return seen[0]

    def test_as_the_running_step_says(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        before = datetime.now(UTC)
        estimates = [Estimate(1.0, 1.0, 2.0), Estimate(1.0, 600.0, 900.0)]
        low, high = self.during_a_run(mornings, instance, estimates)
        assert low is not None
        assert high is not None
        assert before + 10 * MINUTE <= low <= datetime.now(UTC) + 10 * MINUTE
        assert (high - low) == 5 * MINUTE

    def test_plus_how_long_publishing_took(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        a_good_run(mornings)
        (record,) = instance.get_run_records()
        made = {
            one.asset_key.path[-1]: one.timestamp
            for one in instance.get_records_for_run(
                record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            ).records
        }
        before = datetime.now(UTC)
        low, _ = self.during_a_run(mornings, instance, [Estimate(1.0, 600.0, 900.0)])
        assert low is not None
        publishing = timedelta(seconds=made["serving_table"] - made["predictions"])
        assert publishing > timedelta()
        assert before + publishing <= low - 10 * MINUTE <= datetime.now(UTC) + publishing

    def test_before_it_says_anything_as_long_as_the_last_run_took(
        self, mornings: Mornings, instance: dg.DagsterInstance
    ) -> None:
        took, before = a_good_run(mornings), datetime.now(UTC)
        low, high = self.during_a_run(mornings, instance, [None])
        assert low == high
        assert low is not None
        assert before + took <= low <= datetime.now(UTC) + took

    def test_never_before_now(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        before = datetime.now(UTC)
        low, high = self.during_a_run(mornings, instance, [Estimate(1.0, -60.0, 0.0)])
        assert low is not None
        assert before < low <= (high or low) <= datetime.now(UTC)

    def test_an_observation_of_a_run_that_is_over_says_nothing(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        self.during_a_run(mornings, instance, [Estimate(1.0, 600.0, 900.0)])
        now = datetime.now(UTC)
        (record,) = instance.get_run_records()
        took = timedelta(seconds=record.end_time - record.start_time)
        assert expected(mornings.config, instance, "2026-03-28", now) == (now + took, now + took)

    def test_a_run_that_found_its_work_done_says_little(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        took = a_good_run(mornings)
        a_good_run(mornings)
        now = datetime.now(UTC)
        low, _ = expected(mornings.config, instance, "2026-03-28", now)
        assert low is not None
        assert low - now >= took

    def test_before_the_night_begins_from_then_on(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        took = a_good_run(mornings)
        now = datetime(2026, 3, 27, 23, 30, tzinfo=UTC)  # half past midnight in Berlin
        begins = datetime(2026, 3, 28, 1, tzinfo=UTC)
        assert expected(mornings.config, instance, "2026-03-27", now) == (begins + took, begins + took)

    def test_nobody_knows_before_the_first_good_run(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        assert expected(mornings.config, instance, "2026-03-28", datetime.now(UTC)) == (None, None)


class TestTheCheck:
    def test_can_be_run_by_hand(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        day, deadline = DEADLINES[0]
        mornings.go_live(day, deadline - 25 * MINUTE)
        location = repository(mornings.small, **SETTINGS)
        key = dg.AssetCheckKey(asset_key(mornings.config, "serving_table"), "sla")
        assert location.asset_graph.get_check_spec(key).blocking is False
        (check,) = [one for one in build_checks(mornings.config, lambda: deadline) if key in one.check_keys]
        job = dg.Definitions(
            asset_checks=[check],
            jobs=[dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(check))],
            resources={
                "batch_assets_root": StorageRoot(root=mornings.small.storage.root),
                "batch_assets_nights": opened_nights,
            },
        ).resolve_job_def("by_hand")
        (evaluation,) = job.execute_in_process(instance=instance, tags={"dagster/partition": day}).get_asset_check_evaluations()
        assert (evaluation.passed, evaluation.partition, evaluation.metadata["observed"].value) == (True, day, -25.0)

    def test_is_part_of_the_night(self, mornings: Mornings, instance: dg.DagsterInstance) -> None:
        """A day was missed, and is published later: the run says so."""
        day, deadline = DEADLINES[0]
        mornings.tick(deadline + MINUTE)
        run_id = run(repository(mornings.small, **SETTINGS), instance, day)
        assert instance.get_run_by_id(run_id).is_success
        assert mornings.said(day) == [
            ("missed", False, dg.AssetCheckSeverity.ERROR),
            ("published late", False, dg.AssetCheckSeverity.WARN),
        ]


def test_since_when_a_day_is_live(mornings: Mornings) -> None:
    times = [datetime(2026, 3, day, 4, tzinfo=UTC) for day in (20, 21, 22, 23)]
    for day, when in zip(("2026-03-20", "2026-03-22", "2026-03-19", "2026-03-23"), times, strict=True):
        mornings.go_live(day, when)
    found = {
        day: live_since(mornings.config, mornings.small.storage, day) for day in ("2026-03-19", "2026-03-20", "2026-03-24")
    }
    assert found == {"2026-03-19": times[0], "2026-03-20": times[3], "2026-03-24": None}


def test_yesterday_is_that_of_the_time_zone(small: Small) -> None:
    config, now = changed(small, **SETTINGS), datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
    assert config.partitions.last(now) == date(2026, 3, 28)
    assert config.partitions.require("2026-03-28", "small", now) == "2026-03-28"
    assert changed(small, partitions={"start": "2026-01-01"}).partitions.last(now) == date(2026, 3, 27)
