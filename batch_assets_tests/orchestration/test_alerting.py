"""Which runs somebody is told of: real runs of a small pipeline, sensors as Dagster evaluates them, a real HTTP server."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from batch_assets.orchestration import alerting
from batch_assets.orchestration.liveness import COMMAND_LINE
from batch_assets_tests.listener import Listener, dripping
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.small import DAY, Small, rows, with_values

FAILURES, DEAD_LETTERS = "small_alerts", "small_dead_letter_alerts"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that retries runs that crashed, as the project's own does."""
    retries = {"run_retries": {"enabled": True, "retry_on_asset_or_op_failure": False}}
    with dg.instance_for_test(overrides=retries) as opened:
        yield opened


class Night:
    """A small pipeline with one receiver, and its sensors, which are evaluated as often as is asked."""

    def __init__(self, small: Small, instance: dg.DagsterInstance, listener: Listener, **settings: Any) -> None:
        self.small, self.instance, self.listener = small, instance, listener
        self.location = repository(small, alerts=[{"kind": "webhook", "url": listener.url}], **settings)
        self.cursors: dict[str, str | None] = {}
        self.tick()  # a sensor looks at what happens after its first tick

    def tick(self) -> list[str]:
        """Evaluate each sensor once; returns what went wrong."""
        faults = []
        for name in (FAILURES, DEAD_LETTERS):
            context = dg.build_sensor_context(self.instance, self.cursors.get(name), repository_def=self.location)
            tick = self.location.get_sensor_def(name).evaluate_tick(context)
            self.cursors[name] = tick.cursor
            faults += [str(reaction.error) for reaction in tick.dagster_run_reactions or [] if reaction.error]
        return faults

    def told(self) -> list[tuple[str, str | None, str]]:
        return [(one["kind"], one["partition"], one["title"]) for one in self.listener.heard]


@pytest.fixture
def night(small: Small, instance: dg.DagsterInstance, listener: Listener) -> Night:
    return Night(small, instance, listener)


@pytest.fixture
def with_missing(make_small: Callable[..., Small], instance: dg.DagsterInstance, listener: Listener) -> Callable[[int], Night]:
    """Makes nights of 2,000 rows of which some miss a feature and end as dead letters."""

    def make(count: int) -> Night:
        return Night(make_small(missing(count)), instance, listener)

    return make


def missing(count: int) -> pa.Table:
    return with_values(rows(2_000), "x", dict.fromkeys(range(count), np.nan))


def crash(night: Night, job: str, tags: dict[str, str], *assets: dg.AssetKey) -> str:
    """A run whose process is gone; returns its id."""
    started = dg.DagsterRun(
        run_id=str(uuid.uuid4()),
        job_name=job,
        status=dg.DagsterRunStatus.STARTED,
        tags=tags,
        root_run_id=tags.get("dagster/root_run_id"),
        parent_run_id=tags.get("dagster/parent_run_id"),
        asset_selection=frozenset(assets) or None,
    )
    night.instance.report_run_failed(night.instance.add_run(started), message="the machine is gone")
    return started.run_id


class TestARunThatFailed:
    @pytest.mark.parametrize("assets", [(), ("user_features",), ("user_features", "predictions", "serving_table")])
    def test_is_told_once_whoever_launched_it(self, night: Night, assets: tuple[str, ...]) -> None:
        night.small.source.unlink()
        run_id = run(night.location, night.instance, DAY, *assets)
        assert night.tick() == []
        assert night.tick() == []
        assert night.told() == [("failed", DAY, f"small {DAY} failed")]
        message = night.listener.heard[0]["message"]
        assert message == f"small__user_features: The table rows: {night.small.source} does not exist. (Dagster run {run_id})"

    def test_is_not_told_if_it_is_retried(self, night: Night) -> None:
        crash(night, "small", {"dagster/max_retries": "1"})
        assert night.tick() == []
        assert night.told() == []

    def test_is_told_if_a_command_line_made_it(self, night: Night) -> None:
        """Dagster says that it retries a killed one, and then finds no code location that could."""
        started = dg.DagsterRun(job_name="small", status=dg.DagsterRunStatus.STARTED, tags={"dagster/max_retries": "1"})
        run_id = night.instance.add_run(started.with_tags({**started.tags, COMMAND_LINE: started.run_id})).run_id
        night.instance.report_run_failed(started, message="the process is dead")
        assert night.instance.get_run_by_id(run_id).tags["dagster/will_retry"] == "true"  # type: ignore[union-attr]
        assert night.tick() == []
        assert night.told() == [("failed", None, "small failed")]

    def test_is_told_if_pruning_made_it(self, night: Night) -> None:
        crash(night, "small_prune", {})
        assert night.tick() == []
        assert [kind for kind, _, _ in night.told()] == ["failed"]

    def test_is_told_if_its_retries_are_spent(self, night: Night) -> None:
        first = crash(night, "small", {"dagster/max_retries": "1", "dagster/partition": DAY})
        of_first = {"dagster/root_run_id": first, "dagster/parent_run_id": first}
        second = crash(night, "small", {"dagster/max_retries": "1", "dagster/partition": DAY} | of_first)
        assert night.tick() == []
        assert night.told() == [("failed", DAY, f"small {DAY} failed")]
        assert second in night.listener.heard[0]["message"]
        assert "the machine is gone" in night.listener.heard[0]["message"]

    def test_is_not_told_if_it_is_another_pipelines(self, night: Night) -> None:
        crash(night, "large", {})
        crash(night, "__ASSET_JOB", {}, dg.AssetKey(["large", "predictions"]))
        assert night.tick() == []
        assert night.told() == []

    def test_that_nobody_could_be_told_of_shows_in_the_tick_without_the_address(self, night: Night) -> None:
        crash(night, "small", {})
        night.listener.statuses = [404]
        (fault,) = night.tick()
        assert "AlertFailed: The webhook receiver on 127.0.0.1 was not told 'small failed': it answered HTTP 404." in fault
        assert "secret" not in fault


class TestASlowReceiver:
    def test_keeps_a_tick_no_longer_than_one_delivery_may_take(
        self, night: Night, monkeypatch: pytest.MonkeyPatch, listener: Listener
    ) -> None:
        """Five runs failed at once. It would drip for minutes; Dagster repeats a tick of more than one."""
        monkeypatch.setattr(alerting, "LIMIT", 1.0)
        monkeypatch.setattr(alerting, "_SECONDS_EACH", 0.1)
        with dripping(b"HTTP/1.1 ") as port:
            both = [{"kind": "slack", "url": f"http://127.0.0.1:{port}/"}, {"kind": "webhook", "url": listener.url}]
            night.location = repository(night.small, alerts=both)
            runs = [crash(night, "small", {}) for _ in range(5)]
            faults = night.tick()
            assert len([fault for fault in faults if "slack receiver on 127.0.0.1 was not told" in fault]) == 5
            assert "it did not answer within 1 s" in faults[0]
            assert "it did not answer within 0.1 s" in faults[4]
            assert night.tick() == [], "nobody is told again"
            listener.wait_for(5)
        assert {one["message"].rpartition("run ")[2].rstrip(")") for one in listener.heard} == set(runs)

    def test_each_run_that_failed_is_an_alert_of_its_own(self, night: Night) -> None:
        crash(night, "small", {"dagster/partition": DAY})
        crash(night, "small", {"dagster/partition": DAY})
        assert night.tick() == []
        assert len(set(night.listener.keys)) == 2

    def test_a_repeated_tick_repeats_the_ids(self, night: Night) -> None:
        """Dagster forgets a tick that took too long."""
        cursors = dict(night.cursors)
        crash(night, "small", {"dagster/partition": DAY})
        assert night.tick() == []
        night.cursors = cursors
        assert night.tick() == []
        first, second = night.listener.keys
        assert first is not None
        assert first == second


def test_a_blocked_night_is_told_as_such(with_missing: Callable[[int], Night]) -> None:
    night = with_missing(400)
    run(night.location, night.instance, DAY)
    assert night.tick() == []
    assert night.told() == [("blocked", DAY, f"small {DAY} is blocked")]
    assert night.listener.heard[0]["message"].startswith("the check expectations: ")


class TestDeadLetters:
    def test_more_than_one_in_a_thousand_are_told(self, with_missing: Callable[[int], Night]) -> None:
        night = with_missing(3)
        run_id = run(night.location, night.instance, DAY)
        assert night.tick() == []
        assert night.told() == [("dead_letters", DAY, f"small {DAY} has many dead letters")]
        assert night.listener.heard[0]["message"] == (
            "3 of 2,000 rows are dead letters (0.150%), at most 0.10% wanted; `batch-assets dead-letters` lists them. "
            f"(Dagster run {run_id})"
        )

    def test_one_in_a_thousand_is_not(self, with_missing: Callable[[int], Night]) -> None:
        night = with_missing(2)
        run(night.location, night.instance, DAY)
        assert night.tick() == []
        assert night.told() == []

    def test_a_day_that_is_published_by_a_later_run_is_told_once(self, with_missing: Callable[[int], Night]) -> None:
        """The first run died before it published; the second only publishes, the third finds everything done."""
        night = with_missing(3)
        run(night.location, night.instance, DAY, "user_features", "predictions")
        assert night.told() == []
        for _ in range(2):
            run(night.location, night.instance, DAY, "serving_table")
            assert night.tick() == []
        run(night.location, night.instance, DAY)
        assert night.tick() == []
        assert [kind for kind, _, _ in night.told()] == ["dead_letters"]

    def test_nor_is_a_run_that_scores_nothing(self, with_missing: Callable[[int], Night]) -> None:
        night = with_missing(3)
        run(night.location, night.instance, DAY, "user_features")
        assert night.tick() == []
        assert night.told() == []


def test_sensors_run_by_themselves(night: Night) -> None:
    for name in (FAILURES, DEAD_LETTERS):
        assert night.location.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_without_receivers_there_are_no_sensors(small: Small) -> None:
    assert not {FAILURES, DEAD_LETTERS} & {sensor.name for sensor in repository(small).sensor_defs}
