import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.errors import ConfigError, NoSuchPipeline
from batch_assets.orchestration.catalog import code_location, pipeline, pipelines
from batch_assets.orchestration.component import ScoringPipeline
from batch_assets.orchestration.resources import shared_resources
from batch_assets.runs.commit import day_folder
from batch_assets.storage.lease import at_work
from batch_assets_tests.conftest import PROJECT
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.small import DAY, Quiet, Small

ATTRIBUTES = {
    "name": "another",
    "partitions": {"start": "2024-01-01"},
    "features": {
        "source": {
            "kind": "duckdb",
            "query": "{{ context.project_root }}/query.sql",
            "tables": {"t": "/data/{{ env('TABLE', 'rows') }}.parquet"},
        },
        "contract": {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": "x"}]},
    },
    "model": {"name": "another"},
    "answers": {"kind": "binary", "labels": ["no", "yes"]},
}


BLOCKING = (
    *("contract", "sources", "expectations", "changes", "feature_drift"),
    *("complete", "one_model", "audit", "scores", "drift", "ranks", "previous_model"),
    "published_matches",
)
WARNING = ("baseline", "feature_baseline", "dead_letters")


def test_what_the_code_location_holds() -> None:
    """Names that users, dashboards and stored history know; change them with care."""
    repository = code_location().get_repository_def()
    graph = repository.asset_graph
    assert sorted(key.to_user_string() for key in graph.get_all_asset_keys()) == [
        "customer_propensity/predictions",
        "customer_propensity/serving_table",
        "customer_propensity/user_features",
    ]
    assert sorted(key.name for key in graph.asset_check_keys) == sorted(
        [*BLOCKING, "baseline", "feature_baseline", "dead_letters"]
    )
    assert [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")] == ["customer_propensity"]
    assert repository.schedule_defs == [], "a pipeline with an end needs no schedule"
    sensors = {sensor.name for sensor in repository.sensor_defs}
    assert not [name for name in sensors if name.endswith(("_sla", "alerts"))], "it has no SLA, and tells nobody"


def test_what_an_open_ended_pipeline_adds() -> None:
    attributes = {**ATTRIBUTES, "sla": {"published_by": "06:00"}, "alerts": [{"kind": "log"}]}
    component = ScoringPipeline.from_attributes_dict(attributes=attributes)
    repository = dg.component_defs(component=component, resources=shared_resources()).get_repository_def()
    assert [schedule.name for schedule in repository.schedule_defs] == ["another_nightly"]
    sensors = {sensor.name for sensor in repository.sensor_defs}
    assert {"another_alerts", "another_dead_letter_alerts", "another_sla"} <= sensors
    graph = repository.asset_graph
    sla = next(key for key in graph.asset_check_keys if key.name == "sla")
    assert sla.asset_key == dg.AssetKey(["another", "serving_table"])
    assert not graph.get_check_spec(sla).blocking


def test_partitions_are_every_day_of_the_data() -> None:
    graph = code_location().get_repository_def().asset_graph
    keys = graph.get(dg.AssetKey(["customer_propensity", "predictions"])).partitions_def.get_partition_keys()
    assert (keys[0], keys[-1], len(keys)) == ("1997-01-01", "1998-06-30", 546)


def test_blocking_checks_block() -> None:
    graph = code_location().get_repository_def().asset_graph
    found = {key.name: graph.get_check_spec(key).blocking for key in graph.asset_check_keys}
    assert found == {**dict.fromkeys(BLOCKING, True), **dict.fromkeys(WARNING, False)}


def test_a_full_scan_is_a_check_where_somebody_asked_for_it() -> None:
    attributes = {**ATTRIBUTES, "quality": {"expectations": {"full_scan": True}}}
    component = ScoringPipeline.from_attributes_dict(attributes=attributes)
    graph = dg.component_defs(component=component, resources=shared_resources()).get_repository_def().asset_graph
    assert "full_scan" in {key.name for key in graph.asset_check_keys}


def test_a_pipeline_is_found_by_its_name() -> None:
    assert list(pipelines()) == ["customer_propensity"]
    assert pipeline("customer_propensity").features.contract.identity == ("customer_id",)
    with pytest.raises(NoSuchPipeline, match="there is customer_propensity"):
        pipeline("nobody")


def test_a_component_is_made_from_yaml_with_templates_resolved() -> None:
    component = ScoringPipeline.from_attributes_dict(attributes=ATTRIBUTES)
    assert component.config.features.source.tables["t"].path == "/data/rows.parquet"
    assert component.config.features.source.query.startswith("/")
    defs = dg.component_defs(component=component, resources=shared_resources())
    assert {key.path[0] for key in defs.resolve_asset_graph().get_all_asset_keys()} == {"another"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["nmae"], "x", "nmae"),
        (["name"], "Bad Name", "name"),
        (["name"], "models", "registry"),
        (["engine"], {"kind": "spork"}, "'auto', 'ray', 'local' or 'spark'"),
        (["scoring"], {"batch_size": 100}, "multiple of 64"),
        (["scoring"], {"exclude": [{"reason": "r", "column": "nope", "op": "<", "value": 1}]}, "nope"),
        (["partitions"], {"start": "2024-02-01", "end": "2024-01-01"}, "before the first day"),
        (["partitions"], {"start": "2024-02-01", "timezone": "Europe/Berln"}, "no time zone Europe/Berln"),
        (["nightly"], {"at": 750}, "nightly.at"),
        (["sla"], {"published_by": "6am"}, "published_by"),
        (["alerts"], [{"kind": "slack", "url": "hooks.example/1"}], "begins with http:// or https://"),
        (["features", "contract"], {"key": {"name": "u", "dtype": "int64"}, "columns": []}, "columns"),
    ],
)
def test_a_mistake_in_yaml_is_named(path: list[str], value: object, message: str) -> None:
    changed = {**ATTRIBUTES, "features": dict(ATTRIBUTES["features"])}
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        ScoringPipeline.from_attributes_dict(attributes=changed).usable()


@pytest.mark.parametrize("url", ["https://hooks.example/top-secret", "{{ env('HOOK') }}"])
def test_a_secret_comes_through_and_is_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example/top-secret")
    attributes = {**ATTRIBUTES, "alerts": [{"kind": "log"}, {"kind": "slack", "url": url}]}
    config = ScoringPipeline.from_attributes_dict(attributes=attributes).config
    assert config.alerts[1].url.get_secret_value() == "https://hooks.example/top-secret"
    assert "secret" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


def test_one_of_the_environment_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    alerts = [{"kind": "slack", "url": {"env": "HOOK"}}]
    config = ScoringPipeline.from_attributes_dict(attributes={**ATTRIBUTES, "alerts": alerts}).config
    assert config.model_dump(mode="json")["alerts"] == alerts
    monkeypatch.setenv("HOOK", "https://hooks.example/top-secret")
    assert config.alerts[0].url.reveal() == "https://hooks.example/top-secret"
    assert "secret" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


@pytest.mark.parametrize("alert", [{"kind": "slack"}, {"kind": "slak"}, {"kind": "slack", "chanel": "x"}])
def test_nor_is_it_in_an_error(alert: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "ftp://top-secret")
    attributes = {**ATTRIBUTES, "alerts": [{**alert, "url": "{{ env('HOOK') }}"}]}
    with pytest.raises(ConfigError, match="alerts") as raised:
        ScoringPipeline.from_attributes_dict(attributes=attributes).usable()
    error: BaseException | None = raised.value
    while error is not None:
        assert "secret" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("batch_assets", ["dagster", "torch", "ray", "pyarrow"]),
        ("batch_assets.scoring.scorer", ["dagster", "torch", "ray", "pandas", "great_expectations", "duckdb"]),
        ("batch_assets.models.predictor", ["dagster", "torch", "ray", "pandas"]),
        ("batch_assets.models.registry", ["dagster", "torch", "onnx", "onnxruntime", "lightgbm", "ray", "pandas"]),
        ("batch_assets.engines.ray_engine", ["dagster", "torch", "ray", "pandas"]),
        ("batch_assets.definitions", ["torch", "ray", "pandas", "great_expectations", "matplotlib", "duckdb"]),
    ],
)
def test_importing_is_light(module: str, unwanted: list[str]) -> None:
    program = f"import sys, {module}; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Looking(Quiet):
    """Progress that looks who is announced on the day whenever something happens."""

    def __init__(self, small: Small) -> None:
        super().__init__()
        self._small = small
        self.found: dict[str, int] = {}

    def at(self, stage: str, done: int, total: int | None) -> None:
        self.found[stage] = len(at_work(self._small.storage, day_folder("small", DAY)))


def test_who_works_on_a_day_is_announced_all_the_time(small: Small) -> None:
    """So that `prune` leaves it alone, also while nothing is scored."""
    progress = Looking(small)
    with dg.DagsterInstance.ephemeral() as instance:
        run(repository(small, {"batch_assets_progress": dg.ResourceDefinition.hardcoded_resource(progress)}), instance, DAY)
    assert progress.found == {"freezing features": 1, "scoring": 1, "publishing": 1}
    assert at_work(small.storage, day_folder("small", DAY)) == []


@pytest.mark.process
def test_dg_knows_the_component() -> None:
    dg_command = Path(sys.executable).with_name("dg")
    listed = subprocess.run(
        [dg_command, "list", "components", "--json"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    (found,) = [one for one in json.loads(listed.stdout)["items"] if one["key"] == "batch_assets.ScoringPipeline"]
    assert found["summary"].startswith("The nightly batch inference job")
