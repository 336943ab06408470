"""A store that was down when a day was published: the run says so, and a sensor lets it catch up."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.sensors import build_store_sensors
from batch_assets.serving.reader import Reader
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.small import DAY, Small, rows

Make = Callable[..., Small]
Start = Callable[[RedisServer], RedisServer]


def tick(small: Small, instance: dg.DagsterInstance, hour: int = 1) -> Any:
    (sensor,) = build_store_sensors(small.config, lambda: datetime(2024, 3, 11, hour, tzinfo=UTC))
    context = dg.build_sensor_context(instance=instance, resources={"batch_assets_root": StorageRoot(root=small.storage.root)})
    return sensor(context)


def test_it_catches_up_by_itself(make_small: Make, start_server: Start) -> None:
    server = start_server(RedisServer())
    stores = [{"kind": "arrow"}, {"kind": "redis", "host": "127.0.0.1", "port": server.port, "timeout_s": 2}]
    small = make_small(rows(300), stores=stores)
    location = repository(small)
    with dg.instance_for_test() as instance:
        assert "Every store and table has what is live" in str(tick(small, instance).skip_message)
        server.kill()
        failed = instance.get_run_by_id(run(location, instance, DAY))
        assert failed is not None
        (check,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(["small", "serving_table"]), "published_matches"), limit=5
        )
        evaluation: Any = check.evaluation
        assert not evaluation.passed
        assert "redis lags" in str(evaluation.metadata["message"].value)
        assert Reader.open("small", small.storage).get(7) is not None
        assert "does not answer" in str(tick(small, instance).skip_message)
        server.start()
        (request,) = tick(small, instance).run_requests
        (again,) = tick(small, instance).run_requests
        (later,) = tick(small, instance, hour=2).run_requests
        assert request.run_key == again.run_key != later.run_key
        assert request.partition_key == DAY
        done = location.get_job("small").execute_in_process(
            instance=instance,
            partition_key=DAY,
            asset_selection=request.asset_selection,
            tags=request.tags,
        )
        assert done.success
        assert [str(event.asset_key) for event in done.get_asset_materialization_events()] != []
        assert {event.check_name for event in done.get_asset_check_evaluations()} == {"published_matches"}
        assert "Every store and table has what is live" in str(tick(small, instance).skip_message)
    reader = Reader.of_store(small.config.stores[1], "small")
    assert reader.lookup(7) == Reader.open("small", small.storage).lookup(7)


@pytest.mark.long
def test_so_does_a_table_with_every_day_that_it_lacks(make_small: Make, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    small = make_small(rows(300), tables=[{"kind": "delta", "path": str(lake)}])
    lake.write_text("no folder")
    location, days = repository(small), [DAY, "2024-03-11", "2024-03-12"]
    with dg.instance_for_test() as instance:
        for day in days:
            assert run(location, instance, day)
        said = str(tick(small, instance).skip_message)
        assert f"tables have not got {', '.join(days)}; delta: The Delta table {lake} cannot be read" in said
        lake.unlink()
        (request,) = tick(small, instance).run_requests
        done = location.get_job("small").execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            asset_selection=request.asset_selection,
            tags=request.tags,
        )
        assert done.success
        assert "Every store and table has what is live" in str(tick(small, instance).skip_message)
    assert dict(pl.read_delta(str(lake))["partition"].value_counts().iter_rows()) == dict.fromkeys(
        map(date.fromisoformat, days), 300
    )


def test_one_store_has_no_sensor(small: Small) -> None:
    assert build_store_sensors(small.config) == []
