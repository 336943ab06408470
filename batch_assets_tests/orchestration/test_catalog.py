"""Pipelines from YAML, in a project of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets.errors import ConfigError
from batch_assets.orchestration import catalog

YAML = """type: batch_assets.ScoringPipeline
attributes:
  name: nightly
  partitions: {start: "2024-01-01"}
  features:
    source: {kind: duckdb, query: "{{ context.project_root }}/query.sql", tables: {t: /data/t.parquet}}
    contract:
      key: {name: user, dtype: int64}
      columns: [{name: x}]
  model: {name: nightly}
  answers: {kind: binary, labels: [no, yes]}
"""


def write(defs: Path, folder: str, text: str) -> None:
    (defs / folder).mkdir()
    (defs / folder / "defs.yaml").write_text(text)


def test_every_folder_is_a_pipeline(project: Path) -> None:
    write(project, "one", YAML)
    write(project, "two", YAML.replace("name: nightly\n  part", "name: weekly\n  part"))
    assert sorted(catalog.pipelines()) == ["nightly", "weekly"]
    assert catalog.pipeline("weekly").features.source.query == f"{project.parent.parent}/query.sql"


def test_two_pipelines_cannot_have_one_name(project: Path) -> None:
    write(project, "one", YAML)
    write(project, "two", YAML)
    with pytest.raises(ConfigError, match="Two pipelines are called nightly"):
        catalog.pipelines()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("start: ", "strat: ", r"partitions\.start.*defs\.yaml:\d+: Field required"),
        ('"2024-01-01"', "soon", r"attributes\.partitions\.start at .*defs\.yaml:4: Input should be a valid date"),
        ("  model: {name: nightly}\n", "", r"attributes\.model at .*defs\.yaml:\d+: Field required"),
        ("name: nightly\n", "name: Nightly Job\n", r"attributes\.name at .*defs\.yaml:3: String should match"),
        ("  model:", "  nightly: {at: 12:30}\n  model:", r"nightly\.at.*defs\.yaml:\d+: Input should be a valid string"),
        ("name: user", "name: label", "the key cannot be called label"),
        ("type: batch_assets.ScoringPipeline", "type: batch_assets.Nothing", "no attribute `Nothing`"),
        ("  features:", "   features:", r"defs\.yaml.*line 5"),
        (YAML, "", "defs"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(project: Path, old: str, new: str, message: str) -> None:
    assert old in YAML
    write(project, "one", YAML.replace(old, new))
    with pytest.raises(ConfigError, match=message) as raised:
        catalog.pipelines()
    assert "\n" not in str(raised.value)


def test_another_file_that_cannot_be_used_is_in_nobodys_way(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(project, "one", YAML)
    write(project, "two", YAML.replace("start: ", "strat: "))
    assert catalog.pipeline("nightly").name == "nightly"
    assert f"{project}/two/defs.yaml cannot be read without Dagster" in caplog.text
    with pytest.raises(ConfigError, match=r"partitions\.start.*two/defs\.yaml:\d+: Field required"):
        catalog.pipeline("weekly")


@pytest.mark.parametrize(
    "text",
    [
        YAML,
        YAML.replace(
            "name: nightly\n", 'name: nightly\n  description: \'{{ env("WHAT") }}, {{ env.WHAT }}, {{ env("NO", "-") }}\'\n'
        ),
        YAML.replace("/data/t.parquet", "\"/data/{{ env('NO', 'none') }}.parquet\""),
        YAML.replace('"2024-01-01"', "2024-01-01"),
        f'{YAML}  alerts: [{{kind: slack, url: "https://a.example"}}, {{kind: slack, url: "https://{{{{ env.WHERE }}}}"}}]\n',
        f"{YAML}  alerts: [{{kind: webhook, url: {{env: NOT_SET}}}}]\n",
        YAML.replace(
            '{kind: duckdb, query: "{{ context.project_root }}/query.sql", tables: {t: /data/t.parquet}}',
            '{kind: parquet, path: "{{ context.project_root }}/features", day: day, columns: [user, x]}',
        ),
        YAML.replace("context.project_root", "context.path"),
        f"type: dagster.DefsFolderComponent\n---\n{YAML}",
        f"{YAML}---\n{YAML.replace('name: nightly', 'name: weekly', 1)}",
        f"{YAML}post_processing:\n  assets:\n    - {{target: '*', attributes: {{group_name: other}}}}\n",
    ],
)
def test_it_reads_what_dagster_reads(project: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHAT", "all of it")
    monkeypatch.setenv("WHERE", "hooks.example")
    write(project, "one", text)
    found = catalog.pipelines()
    assert found
    assert "context.path" not in text or found["nightly"].features.source.query == f"{project}/one/query.sql"
    assert list(found.values()) == catalog._loaded_by_dagster()


def test_below_a_pipeline_there_is_none(project: Path) -> None:
    """As Dagster has it."""
    write(project, "one", YAML)
    write(project / "one", "old", YAML.replace("name: nightly\n", "name: old\n", 1))
    assert list(catalog.pipelines()) == [config.name for config in catalog._loaded_by_dagster()] == ["nightly"]


def test_a_component_in_python_is_found_by_dagster(project: Path) -> None:
    write(project, "one", YAML)
    (project / "two").mkdir()
    (project / "two" / "component.py").write_text(
        "import dagster as dg\n"
        "from batch_assets import ScoringPipeline\n"
        "from batch_assets.orchestration import catalog\n"
        "@dg.component_instance\n"
        "def two(context: dg.ComponentLoadContext) -> ScoringPipeline:\n"
        "    config, = catalog._declared()[0]\n"
        "    return ScoringPipeline(config.model_copy(update={'name': 'weekly'}))\n"
    )
    assert catalog.pipeline("weekly").name == "weekly"
    write(project, "broken", YAML.replace("start: ", "strat: ").replace("name: nightly\n", "name: broken\n", 1))
    assert catalog.pipeline("weekly").name == "weekly"


def test_nobody_who_looks_up_waits_for_dagster() -> None:
    program = (
        "import sys; from batch_assets.orchestration.catalog import pipelines; from batch_assets.cli import main, terminal\n"
        "from batch_assets.serving.reader import Reader\n"
        "terminal.storage(), terminal.registry(), pipelines(); assert not {'dagster', 'ray', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
