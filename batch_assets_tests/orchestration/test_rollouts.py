"""The sensor that rolls an approval out, and how a run keeps to one version, without a daemon."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from batch_assets.errors import ConfigError, Withdrawn
from batch_assets.orchestration.component import ScoringPipeline
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.pins import AS_OF, approval_tag, day_end, pinned
from batch_assets.orchestration.resources import StorageRoot, shared_resources
from batch_assets.orchestration.sensors import build_rollout_sensor, will_be_tried_again
from batch_assets_tests.small import DAY, Small, small_model

TURNED = (0.9, -0.55, 0.3)


class Rollout:
    """The sensor of a small pipeline with a real instance; time passes when it is told to."""

    def __init__(self, small: Small, instance: dg.DagsterInstance) -> None:
        self.small, self.instance = small, instance
        self.now = datetime.now(UTC)
        self.cursor: str | None = None
        self.sensor = build_rollout_sensor(small.config, lambda: self.now)

    def tick(self, *, forget_cursor: bool = False) -> list[dg.RunRequest]:
        """One evaluation; `forget_cursor`: the daemon died before it could be stored."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"batch_assets_root": StorageRoot(root=self.small.storage.root)},
        )
        result: Any = self.sensor(context)
        if not forget_cursor:
            self.cursor = result.cursor
        return list(result.run_requests or [])

    def launched(self, request: dg.RunRequest, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
        """The run that the daemon makes of a request, in a status."""
        return self.instance.add_run(
            dg.DagsterRun(
                job_name="small",
                status=status,
                run_config=request.run_config,
                tags={**request.tags, "dagster/run_key": str(request.run_key), **tags},
            )
        )

    def blocked(self, run: dg.DagsterRun) -> None:
        """A blocking check of a run fails."""
        evaluation = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["small", "predictions"]),
            check_name="drift",
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"message": dg.MetadataValue.text("PSI 0.9")},
            blocking=True,
        )
        self.instance.report_dagster_event(
            dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
                job_name="small",
                event_specific_data=evaluation,
            ),
            run_id=run.run_id,
        )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def rollout(small: Small, instance: dg.DagsterInstance) -> Rollout:
    """v1 is live, v2 is approved."""
    small.night()
    found = Rollout(small, instance)
    assert found.tick() == [], "what was approved and scored before needs nothing"
    small.register("v2", small_model(TURNED))
    return found


class TestSensor:
    def test_an_approval_asks_for_the_newest_day_and_pins_its_version(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        model = rollout.small.model
        assert request.partition_key == DAY
        assert request.run_key == f"2-{model.card.model_sha256[:16]}-{DAY}"
        assert request.run_config == {"ops": {"small__predictions": {"config": {"approval": 2}}}}
        assert request.tags["batch_assets/approval.small"] == "2"
        assert request.tags["batch_assets/model_sha256"] == model.card.model_sha256

    def test_the_runs_tags_say_what_the_approver_was_told(self, rollout: Rollout) -> None:
        from batch_assets.operations.rollout import approve

        small = rollout.small
        approve([small.config], small.storage, small.registry, "small", "batch", "v2", why="sure", by="Ann")
        (request,) = rollout.tick()
        told = {name.removeprefix("batch_assets/expected_") for name in request.tags if "expected_" in name}
        assert told == {"rows", "minutes", "psi", "top_decile_overlap", "rank_correlation"}

    def test_ticks_that_are_repeated_or_cut_short_ask_for_the_same_run(self, rollout: Rollout) -> None:
        keys = {request.run_key for _ in range(3) for request in rollout.tick(forget_cursor=True)}
        assert len(keys) == 1

    def test_while_the_run_is_under_way_nothing_is_asked_for(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
            rollout.launched(request, status)
            assert rollout.tick() == []

    def test_when_it_is_done_it_is_done(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        rollout.launched(request, dg.DagsterRunStatus.SUCCESS)
        rollout.small.night()
        assert rollout.tick() == []
        assert rollout.cursor == "2"

    def test_a_failed_run_is_tried_again_after_a_while_and_not_for_ever(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        keys = [request.run_key]
        while True:
            run = rollout.launched(request, dg.DagsterRunStatus.FAILURE)
            assert will_be_tried_again(run) == (len(keys) < 5)
            rollout.now = datetime.now(UTC) + timedelta(seconds=10)
            assert rollout.tick() == [], "not at once"
            rollout.now += timedelta(hours=2)
            requests = rollout.tick()
            if not requests:
                break
            (request,) = requests
            keys.append(request.run_key)
        assert len(set(keys)) == 5
        assert rollout.cursor == "2"

    def test_a_blocked_run_is_not_tried_again_until_somebody_approves_again(self, rollout: Rollout) -> None:
        """The check would say the same; a person may have changed a threshold since, and says so by approving."""
        (request,) = rollout.tick()
        run = rollout.launched(request, dg.DagsterRunStatus.FAILURE)
        rollout.blocked(run)
        rollout.now += timedelta(hours=2)
        assert rollout.tick() == []
        assert rollout.cursor == "2"
        rollout.small.registry.approve("small", "batch", "v2", why="the threshold was too low", by="Ann")
        (again,) = rollout.tick()
        assert str(again.run_key).startswith("3-")

    def test_a_run_that_dagster_retries_is_not_asked_for_twice(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        rollout.launched(request, dg.DagsterRunStatus.FAILURE, **{"dagster/will_retry": "true"})
        rollout.now += timedelta(hours=2)
        assert rollout.tick() == []

    def test_what_somebody_canceled_stays_canceled(self, rollout: Rollout) -> None:
        (request,) = rollout.tick()
        rollout.launched(request, dg.DagsterRunStatus.CANCELED)
        rollout.now += timedelta(hours=2)
        assert rollout.tick() == []

    def test_back_and_forth_is_a_run_each_time(self, rollout: Rollout) -> None:
        small, keys = rollout.small, []
        for version in ("v2", "v1", "v2"):
            if version != small.model.version:
                small.registry.approve("small", "batch", version, why="back and forth", by="Ann")
            (request,) = rollout.tick()
            keys.append(request.run_key)
            rollout.launched(request, dg.DagsterRunStatus.SUCCESS)
            small.night()
            assert rollout.tick() == []
        assert len(set(keys)) == 3


class TestPins:
    """Two assets stand for a pipeline's: they only resolve, as the real ones do first."""

    def resolved(self, small: Small, instance: dg.DagsterInstance, **run: Any) -> tuple[list[str], dg.DagsterRun]:
        """The versions that the two steps of a run used; the alias is moved to v2 in between."""
        used: list[str] = []
        days = dg.DailyPartitionsDefinition("2024-01-01", end_offset=1)
        root = StorageRoot(root=small.storage.root)

        @dg.op(config_schema=dg.Noneable(dict), out=dg.Out(dg.Nothing))
        def small__predictions(context: dg.OpExecutionContext) -> None:
            used.append(pinned(context, small.config, root, Nights()).version)  # type: ignore[arg-type]
            if len(small.registry.approvals("small", "batch").history()) == 1:
                small.register("v2", small_model(TURNED))

        @dg.op(ins={"after": dg.In(dg.Nothing)})
        def small__serving_table(context: dg.OpExecutionContext) -> None:
            used.append(pinned(context, small.config, root, Nights()).version)  # type: ignore[arg-type]

        @dg.job(name="small", partitions_def=days, config={"ops": {"small__predictions": {"config": run.pop("config", {})}}})
        def job() -> None:
            small__serving_table(small__predictions())

        result = job.execute_in_process(instance=instance, partition_key=run.pop("day", DAY), **run)
        found = instance.get_run_by_id(result.run_id)
        assert found is not None
        return used, found

    def test_an_alias_that_moves_in_mid_run_changes_nothing(self, small: Small, instance: dg.DagsterInstance) -> None:
        used, run = self.resolved(small, instance)
        assert used == ["v1", "v1"]
        assert small.model.version == "v2"
        assert approval_tag(run, "small") == 1
        assert run.tags["batch_assets/model"] == "small v1"

    def test_a_retry_keeps_the_version_of_its_parent(self, small: Small, instance: dg.DagsterInstance) -> None:
        _, run = self.resolved(small, instance)
        used, _ = self.resolved(small, instance, tags=dict(run.tags))
        assert used == ["v1", "v1"]

    def test_a_retry_of_what_was_withdrawn_is_refused(self, small: Small, instance: dg.DagsterInstance) -> None:
        small.register("v2", small_model(TURNED))
        _, run = self.resolved(small, instance)
        assert approval_tag(run, "small") == 2
        small.registry.approve("small", "batch", "v1", why="complaints", by="Bob")
        with pytest.raises(Withdrawn, match="complaints"):
            self.resolved(small, instance, tags=dict(run.tags))

    def test_the_config_can_ask_for_an_approval(self, small: Small, instance: dg.DagsterInstance) -> None:
        small.register("v2", small_model(TURNED))
        assert self.resolved(small, instance, config={"approval": 1})[0] == ["v1", "v1"]

    def test_the_days_of_a_backfill_use_one_version(self, small: Small, instance: dg.DagsterInstance) -> None:
        backfill = {"dagster/backfill": "abc"}
        assert self.resolved(small, instance, tags=backfill)[0] == ["v1", "v1"]
        assert small.model.version == "v2"
        assert self.resolved(small, instance, tags=backfill, day="2024-03-11")[0] == ["v1", "v1"]
        assert self.resolved(small, instance, tags={"dagster/backfill": "another"})[0] == ["v2", "v2"]

    def test_as_of_a_day_is_what_was_approved_at_its_end(self, small: Small, instance: dg.DagsterInstance) -> None:
        small.register("v2", small_model(TURNED))
        today = datetime.fromisoformat(small.registry.approvals("small", "batch").number(2).when).date().isoformat()
        assert self.resolved(small, instance, tags={AS_OF: "day"}, day=today)[0] == ["v2", "v2"]
        with pytest.raises(Exception, match="No version of small was approved for batch yet at 2024-03-11 00:00 UTC"):
            self.resolved(small, instance, tags={AS_OF: "day"})

    def test_another_value_of_the_tag_is_refused(self, small: Small, instance: dg.DagsterInstance) -> None:
        with pytest.raises(ConfigError, match="is 'true'; the one value that it may have is 'day'"):
            self.resolved(small, instance, tags={AS_OF: "true"})

    def test_a_day_ends_where_the_pipeline_is(self, small: Small) -> None:
        partitions = small.config.partitions.model_copy(update={"timezone": "Europe/Berlin"})
        config = small.config.model_copy(update={"partitions": partitions})
        assert day_end(config, "2024-03-30") == datetime(2024, 3, 30, 23, tzinfo=UTC)
        assert day_end(config, "2024-03-31") == datetime(2024, 3, 31, 22, tzinfo=UTC)


def test_the_sensor_runs_by_default_and_is_found(small: Small) -> None:
    defs = dg.component_defs(component=ScoringPipeline(small.config), resources=shared_resources())
    sensor = defs.resolve_sensor_def("small_approved_model")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.job_name == "small"
