"""A pipeline that cannot be used, beside one that can: the first says why wherever it is looked at, the other works."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest

from batch_assets import ports
from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError
from batch_assets.orchestration import catalog
from batch_assets.orchestration.component import ScoringPipeline
from batch_assets.orchestration.runs import step_failures
from batch_assets.serving.store import STORES
from batch_assets.sources.source import SOURCES
from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.made_up_source import MadeUpSource
from batch_assets_tests.small import DAY, Small

pytestmark = pytest.mark.night

GOOD: dict[str, Any] = {
    "name": "good",
    "partitions": {"start": "2024-01-01"},
    "features": {
        "source": {"kind": "parquet", "path": "/data/features"},
        "contract": {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": "x"}]},
    },
    "model": {"name": "good"},
    "answers": {"kind": "binary", "labels": ["no", "yes"]},
}
ADDRESS = "https://hooks.example/T0/sesame"
"""A receiver's, which is as good as a password."""

ALERTS = [{"kind": "slack", "url": ADDRESS}]

WAYS: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong_type": (
        {"partitions": {"start": "soon"}},
        "wrong_type",
        r"attributes\.partitions\.start at .*/wrong_type/defs\.yaml:\d+: Input should be a valid date",
    ),
    "unknown_key": (
        {"modle": 1, "alerts": ALERTS},
        "unknown_key",
        r"attributes\.modle at .*/defs\.yaml:\d+: Extra inputs are not permitted; correct it there\.$",
    ),
    "beside_a_secret": (
        {"alerts": [{**ALERTS[0], "channel": 1}]},
        "beside_a_secret",
        r"attributes\.alerts\.0\.slack\.channel at .*: Extra inputs are not permitted",
    ),
    "no_template": (
        {"description": "{{ nowhere.path }}", "alerts": ALERTS},
        "no_template",
        r"attributes\.description at .*/defs\.yaml:\d+: The template cannot be rendered, as 'nowhere' is undefined",
    ),
    "not_set": (
        {"description": "{{ env('NOT_SET') }}", "alerts": ALERTS},
        "not_set",
        r"attributes\.description at .*: The template cannot be rendered, as Environment variable NOT_SET is not set",
    ),
    "half_a_template": (
        {"alerts": [{"kind": "slack", "url": ADDRESS + "{{ env("}]},
        "half_a_template",
        r"attributes\.alerts\.0\.url at .*: The template cannot be rendered, as unexpected 'end of template'",
    ),
    "not_installed": (
        {"stores": [{"kind": "tapes"}]},
        "not_installed",
        r"attributes at .*/defs\.yaml:\d+: The store tapes needs no_such_library, .*: pip install 'batch-assets\[tapes\]'\.$",
    ),
    "not_for_dagster": (
        {"features": {**GOOD["features"], "source": {"kind": "made up!", "count": 3}}},
        "not_for_dagster",
        r"The pipeline not_for_dagster cannot be used: .*/defs/not_for_dagster: .*made up!",
    ),
    "Odd-Folder": ({"name": "Odd Name"}, "Odd_Folder", r"attributes\.name at .*: String should match pattern"),
    "same_name": ({"name": "good", "modle": 1}, "same_name_0", r"The pipeline good cannot be used: attributes\.modle at .*"),
}
"""By folder: what is said otherwise than of the good pipeline, by which name it is seen, and what it says."""


class Odd(MadeUpSource):
    """A source of a kind that Dagster cannot show."""

    kind: Literal["made up!"] = "made up!"  # type: ignore[assignment]


def write(defs: Path, folder: str, said: dict[str, Any]) -> None:
    (defs / folder).mkdir()
    document = {"type": "batch_assets.ScoringPipeline", "attributes": said}
    (defs / folder / "defs.yaml").write_text(json.dumps(document, indent=1))


@pytest.fixture
def defs(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder of pipelines, one of them broken in each of the ways."""
    (project.parent.parent / "tapes.py").write_text(
        "from batch_assets.ports import extra\nextra('no_such_library', 'tapes', 'The store tapes')\n"
    )
    points = [EntryPoint("tapes", "tapes:Tapes", STORES.group), EntryPoint("made up!", f"{__name__}:Odd", SOURCES.group)]
    monkeypatch.setattr(ports, "entry_points", lambda group: [one for one in points if one.group == group])
    for folder, (otherwise, *_) in WAYS.items():
        write(project, folder, {**GOOD, "name": folder, **otherwise})
    return project


def loaded(defs: Path) -> dg.RepositoryDefinition:
    """The code location, as Dagster loads that of any project."""
    return dg.load_from_defs_folder(path_within_project=defs.parent).get_repository_def()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def test_the_good_one_works(defs: Path, small: Small, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)
    said = small.config.model_dump(mode="json", exclude_unset=True)
    write(defs, "small", {**said, "partitions": GOOD["partitions"], "engine": {"kind": "local"}})
    location = loaded(defs)
    assert {check.asset_key.path[0] for check in location.asset_graph.asset_check_keys} == {"small"}
    assert [schedule.name for schedule in location.schedule_defs] == ["small_nightly"]
    assert {"small_approved_model", "small_dead_runs"} <= {sensor.name for sensor in location.sensor_defs}
    night = location.get_job("small").execute_in_process(instance=instance, partition_key=DAY)
    assert night.success
    assert len(night.get_asset_check_evaluations()) > 10


def test_a_query_that_is_missing_is_told_by_the_night(
    defs: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be there when it is read, so its pipeline is loaded like any other."""
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(tmp_path / "root"))
    source = {"kind": "duckdb", "query": "{{ context.path }}/features.sql", "tables": {"t": "/data/t.parquet"}}
    write(defs, "no_query", {**GOOD, "name": "no_query", "features": {**GOOD["features"], "source": source}})
    run = loaded(defs).get_job("no_query").execute_in_process(instance=instance, partition_key=DAY, raise_on_error=False)
    (failure,) = step_failures(instance, run.run_id)
    assert failure.startswith(f"no_query__user_features: The query {defs}/no_query/features.sql cannot be read")


def test_documents_of_one_folder_are_told_apart(project: Path) -> None:
    write(project, "both", {**GOOD, "name": 1})
    (project / "both" / "defs.yaml").write_text("\n---\n".join([(project / "both" / "defs.yaml").read_text()] * 2))
    keys = loaded(project).asset_graph.get_all_asset_keys()
    assert {key.path[0] for key in keys} == {"both_0", "both_1"}


@pytest.mark.parametrize("folder", WAYS)
def test_a_broken_one_is_seen_and_is_red(defs: Path, instance: dg.DagsterInstance, folder: str) -> None:
    write(defs, "good", GOOD)
    location = loaded(defs)
    _, name, says = WAYS[folder]
    sensor, job = location.get_sensor_def(f"{name}_cannot_be_used"), location.get_job(name)
    sentence = job.description or ""
    assert re.search(says, sentence), sentence
    assert sentence.startswith("The pipeline ")
    assert "\n" not in sentence
    assert "sesame" not in sentence
    assets = {dg.AssetKey([name, asset]) for asset in ("user_features", "predictions", "serving_table")}
    assert {key for key in location.asset_graph.get_all_asset_keys() if key.path[0] == name} == assets
    assert {location.asset_graph.get(key).description for key in assets} == {sentence}
    for asset in ("user_features", "serving_table"):
        asked = [dg.AssetKey([name, asset])]
        run = job.execute_in_process(instance=instance, asset_selection=asked, raise_on_error=False)
        assert step_failures(instance, run.run_id) == [f"{name}__{asset}: {sentence}"]
    assert (sensor.description, sensor.default_status) == (sentence, dg.DefaultSensorStatus.RUNNING)
    with dg.build_sensor_context(instance, repository_def=location) as context, pytest.raises(ConfigError) as raised:
        sensor.evaluate_tick(context)
    assert str(raised.value) == sentence


def test_the_command_line_works_with_the_others_and_says_the_same(defs: Path) -> None:
    write(defs, "good", GOOD)
    assert [config.name for config in catalog.usable_pipelines()] == ["good", "not_for_dagster"]
    assert catalog.pipeline("good").name == "good"
    with pytest.raises(ConfigError, match=r"^The pipeline unknown_key cannot be used: attributes\.modle at "):
        catalog.pipeline("unknown_key")
    with pytest.raises(ConfigError, match=r"^The pipeline \w+ cannot be used: attributes"):
        catalog.pipelines()


def test_the_schema_is_that_of_the_settings() -> None:
    assert ScoringPipeline.get_model_cls().model_json_schema() == PipelineConfig.model_json_schema()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (["features", "source"], {"kind": "duckdb", "query": "/q.sql", "tables": {"rows": "/data/rows.parquet"}}),
        (["features", "source"], {"kind": "duckdb", "query": "/q.sql", "tables": {"rows": {"path": "/data/rows.parquet"}}}),
        (["features", "source"], {"kind": "duckdb", "query": "/q.sql", "tables": {"rows": {"kind": "delta", "path": "/rows"}}}),
        (["features", "deps"], ["warehouse/orders", {"asset": "warehouse/users", "table": "people"}]),
        (["features", "contract", "key"], [{"name": "user", "dtype": "int64"}]),
        (["stores"], [{"kind": "arrow"}, {"kind": "redis", "host": "cache", "password": {"env": "PASSWORD"}}]),
        (["tables"], [{"kind": "delta", "path": "/lake/predictions"}]),
        (["nightly"], {"at": "02:00"}),
    ],
)
def test_what_is_taken_fits_the_schema_by_which_yaml_is_checked(where: list[str], said: Any) -> None:
    from jsonschema import Draft202012Validator

    *folders, last = where
    whole = json.loads(json.dumps(GOOD))
    within = whole
    for name in folders:
        within = within[name]
    within[last] = said
    PipelineConfig.model_validate(whole)
    assert [error.message for error in Draft202012Validator(PipelineConfig.model_json_schema()).iter_errors(whole)] == []


@pytest.mark.process
@pytest.mark.long
def test_dg_checks_it_as_if_it_were_alone(tmp_path: Path) -> None:
    """`dg check yaml` by the schema, `dg check defs` by what is served; who serves it is not stopped."""
    project = DgProject(tmp_path)
    write(project.defs, "wrong", {**GOOD, "name": "wrong", "partitions": {"strat": "2024-01-01"}})
    said = project.refused("dg check yaml")
    assert re.search(r"wrong/defs\.yaml:6 - batch_assets\.ScoringPipeline attributes\.partitions\.strat ", said), said
    assert "'strat' was unexpected" in said
    write(project.defs, "good", GOOD)
    checked = project.tried("dg check defs --no-check-yaml")
    assert checked.returncode == 1
    sentence = r"The pipeline wrong cannot be used: attributes\.partitions\.start at .*defs\.yaml:\d+: Field required"
    assert re.search(sentence, checked.stdout + checked.stderr)
    served = json.loads(project.do("dg list defs --json"))
    assert {"good/user_features", "wrong/serving_table"} <= {asset["asset_key"] for asset in served["assets"]}
