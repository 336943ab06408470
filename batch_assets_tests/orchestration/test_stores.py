"""A store that was down when a day was published: the run says so, and a sensor lets it catch up."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg

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
        assert "Every store has what is live" in str(tick(small, instance).skip_message)
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
        assert "Every store has what is live" in str(tick(small, instance).skip_message)
    reader = Reader.of_store(small.config.stores[1], "small")
    assert reader.lookup(7) == Reader.open("small", small.storage).lookup(7)


def test_one_store_has_no_sensor(small: Small) -> None:
    assert build_store_sensors(small.config) == []
