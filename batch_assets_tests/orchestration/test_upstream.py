"""A night begins when the assets that its source reads have its day, and its columns lead to theirs."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.component import definitions
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.schedules import build_schedules
from batch_assets.orchestration.upstream import WITHOUT, build_upstream_sensor, column_lineage
from batch_assets_tests.small import DAY, Small

Make = Callable[..., Small]
ORDERS, USERS = dg.AssetKey(["warehouse", "orders"]), dg.AssetKey(["users"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def waiting(small: Small, **nightly: Any) -> PipelineConfig:
    """The small pipeline, every day, which reads two assets."""
    said = small.config.model_dump(mode="json")
    said["features"]["deps"] = ["warehouse/orders", {"asset": "users", "table": "rows"}]
    said |= {"partitions": {"start": "2024-03-01", "timezone": "Europe/Berlin"}, "nightly": {"at": "02:30", **nightly}}
    return PipelineConfig.model_validate(said)


class Ticks:
    """The sensor of a pipeline, tick by tick, as Dagster remembers it."""

    def __init__(self, config: PipelineConfig, instance: dg.DagsterInstance) -> None:
        self.config, self.instance, self.cursor = config, instance, None
        self.said = ""

    def at(self, moment: str) -> list[dg.RunRequest]:
        """What is asked for at a moment of Berlin's time."""
        now = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        (sensor,) = build_upstream_sensor(self.config, lambda: now)
        found: Any = sensor(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        self.cursor, self.said = found.cursor, str(found.skip_reason and found.skip_reason.skip_message)
        return list(found.run_requests or ())


def made(instance: dg.DagsterInstance, key: dg.AssetKey, day: str | None = None) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))


class TestTheSensor:
    def test_a_day_waits_for_every_asset_and_is_asked_for_once(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small), instance)
        assert ticks.at("2024-03-11T03:00") == []
        assert ticks.said == "2024-03-10 waits for warehouse/orders and users"
        made(instance, ORDERS, "2024-03-09")
        made(instance, ORDERS, DAY)
        assert ticks.at("2024-03-11T04:00") == []
        assert ticks.said == "2024-03-10 waits for users"
        made(instance, USERS, DAY)
        (request,) = ticks.at("2024-03-11T05:00")
        assert (request.run_key, request.partition_key, request.tags) == (DAY, DAY, {})
        assert ticks.at("2024-03-11T05:01") == []
        assert ticks.said == "Every day that is over was asked for."

    def test_nothing_begins_before_its_hour(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small), instance)
        for key in (ORDERS, USERS):
            made(instance, key, DAY)
        assert ticks.at("2024-03-11T02:29") == []
        assert [one.partition_key for one in ticks.at("2024-03-11T02:30")] == [DAY]

    def test_an_asset_without_partitions_must_be_younger_than_the_day(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small), instance)
        made(instance, ORDERS, DAY)
        made(instance, USERS)  # today, which is long after that day
        assert [one.partition_key for one in ticks.at("2024-03-11T05:00")] == [DAY]
        tomorrow = datetime.now(UTC).date()
        config = waiting(small)
        late = Ticks(config, instance)
        made(instance, ORDERS, tomorrow.isoformat())
        following = date.fromordinal(tomorrow.toordinal() + 1)
        assert late.at(f"{following}T05:00") == []
        assert "waits for users" in late.said

    def test_one_that_is_late_is_waited_for_until_an_hour(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small, wait_until="05:30"), instance)
        made(instance, ORDERS, DAY)
        assert ticks.at("2024-03-11T05:29") == []
        assert ticks.said == "2024-03-10 waits for users (until 05:30)"
        (request,) = ticks.at("2024-03-11T05:30")
        assert request.tags == {WITHOUT: "users"}
        assert ticks.at("2024-03-11T06:00") == []

    def test_an_older_day_that_waits_is_not_forgotten(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small), instance)
        ticks.at("2024-03-11T03:00")
        for key in (ORDERS, USERS):
            made(instance, key, "2024-03-11")
        assert [one.partition_key for one in ticks.at("2024-03-12T03:00")] == ["2024-03-11"]
        for key in (ORDERS, USERS):
            made(instance, key, DAY)
        assert [one.partition_key for one in ticks.at("2024-03-12T04:00")] == [DAY]

    def test_days_that_were_over_while_dagster_was_down_are_asked_for(self, small: Small, instance: dg.DagsterInstance) -> None:
        ticks = Ticks(waiting(small, wait_until="05:00"), instance)
        ticks.at("2024-03-11T03:00")
        asked = [one.partition_key for one in ticks.at("2024-03-14T06:00")]
        assert asked == ["2024-03-10", "2024-03-11", "2024-03-12", "2024-03-13"]

    def test_it_takes_the_place_of_the_schedule(self, small: Small) -> None:
        assert build_schedules(waiting(small)) == []
        assert build_upstream_sensor(small.config) == []


class TestLineage:
    def test_columns_lead_to_columns_of_the_assets(self, small: Small) -> None:
        found = column_lineage(waiting(small))
        assert found is not None
        assert found.deps_by_column["x"] == [dg.TableColumnDep(USERS, "x")]
        assert sorted(found.deps_by_column) == ["user", "x", "y", "z"]
        assert column_lineage(small.config) is None

    def test_the_event_and_the_graph_have_it(self, small: Small, instance: dg.DagsterInstance) -> None:
        said = small.config.model_dump(mode="json")
        said["features"]["deps"] = [{"asset": "users", "table": "rows"}]
        config = PipelineConfig.model_validate({**said, "engine": {"kind": "local"}})
        location = definitions(config, {"batch_assets_root": StorageRoot(root=small.storage.root)}).get_repository_def()
        key = dg.AssetKey(["small", "user_features"])
        assert location.asset_graph.get(key).parent_keys == {USERS}
        done = location.get_job("small").execute_in_process(instance=instance, partition_key=DAY)
        (event,) = [one for one in done.get_asset_materialization_events() if one.asset_key == key]
        lineage: Any = event.materialization.metadata["dagster/column_lineage"]
        assert lineage.value.deps_by_column["z"] == [dg.TableColumnDep(USERS, "z")]
        columns: Any = event.materialization.metadata["dagster/column_schema"]
        assert {one.name: one.type for one in columns.value.columns} == {"user": "int64", **dict.fromkeys("xyz", "float")}


def test_waiting_for_nothing_and_backwards_is_refused(small: Small) -> None:
    said = small.config.model_dump(mode="json")
    with pytest.raises(ValueError, match=r"waits for nothing: features\.deps names no asset"):
        PipelineConfig.model_validate({**said, "nightly": {"wait_until": "05:00"}})
    with pytest.raises(ValueError, match="wait_until, 01:00, is not after at, 02:30"):
        waiting(small, wait_until="01:00")
    said["features"]["deps"] = ["no key/"]
    with pytest.raises(ValueError, match="should match pattern"):
        PipelineConfig.model_validate(said)
