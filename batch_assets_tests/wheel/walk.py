"""What somebody does with the wheel and a new project, step by step; each step says what it saw."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.orchestration.test_scaffolding import SCAFFOLD, told
from batch_assets_tests.small import Small, rows, small_model
from batch_assets_tests.wheel.environments import Environment

Say = Callable[[str], None]

THEIR_STORE = "import their_client\n"
"""A store of somebody else's package, whose library is not installed."""

RESOURCES = {f"batch_assets_{name}" for name in ("engines", "nights", "progress", "root")}
"""What all pipelines share, however many there are."""


def begin(project: DgProject, say: Say) -> None:
    """A component that is found, and a pipeline of it in one command."""
    assert "No module named 'torch'" in project.tried("python -c 'import torch'").stderr
    say("torch is not installed")
    (shown,) = [one for one in _json(project, "dg list components --json")["items"] if one["key"].startswith("batch_assets.")]
    assert shown["key"] == "batch_assets.ScoringPipeline"
    assert shown["summary"].startswith("The nightly batch inference job of one model")
    say(f"dg list components: {shown['key']}: {shown['summary']}")
    project.do(f"{SCAFFOLD} churn")
    say(f"dg scaffold defs: {', '.join(sorted(path.name for path in (project.defs / 'churn').iterdir()))}")


def look(project: DgProject, say: Say) -> None:
    """What dg says of a scaffolded pipeline: that it is right, and that all it needs came along without wiring."""
    inspected = project.do("dg utils inspect-component batch_assets.ScoringPipeline")
    assert "The last day, included; without it every day until yesterday." in inspected
    say(f"dg utils inspect-component: a description and a schema of {len(inspected):,} characters")
    say("dg check yaml: " + project.do("dg check yaml").strip().splitlines()[-1])
    say("dg check defs: " + project.do("dg check defs").strip().splitlines()[-1])
    found = _json(project, "dg list defs --json")
    assert len(found["assets"]) == 3
    assert {one["name"] for one in found["resources"]} == RESOURCES
    assert "churn_dead_runs" in {one["name"] for one in found["sensors"]}
    say("dg list defs: " + ", ".join(f"{len(many)} {kind}" for kind, many in found.items() if many))


def first_night(project: DgProject, pipeline: str, library: str, say: Say) -> None:
    """By the commands that stand in the scaffold's defs.yaml."""
    train, register, approve, run, lookup = told(project.defs / pipeline)
    trained = project.do(train).strip()
    assert trained.startswith(f"{library}: ")
    say(f"train.py: {trained}")
    project.do(register)
    project.do(approve)
    night = _json(project, f"{run} --json")
    assert [check for check in night["checks"] if check["severity"] != "info" and not check["passed"]] == []
    say(f"run: {night['scored_rows']:,} rows scored, release {night['live_release']}, {night['seconds']['total']:.1f} s")
    record = _json(project, f"{lookup} --json")["record"]
    assert record["user_id"] == 42
    say(f"lookup: {record}")


def questions(project: DgProject, say: Say) -> None:
    """What is asked of a night."""
    explained = _json(project, "batch-assets explain churn 42 --json")
    say(f"explain: {', '.join(explained)}")
    day = told(project.defs / "churn")[3].split()[-1]
    verdict = _json(project, f"batch-assets verdict churn --partition {day} --json")
    say(f"verdict: {', '.join(verdict)}")
    assert [one["version"] for one in _json(project, "batch-assets models list --json")["models"]] == ["v1"]
    assert "first model" in project.do("batch-assets models show churn")
    say("models: v1, approved as the first model")


def second(project: DgProject, library: str, say: Say) -> None:
    """Another pipeline beside the first, which goes on answering."""
    project.do(f"{SCAFFOLD} winback")
    first_night(project, "winback", library, say)
    project.do("dg check defs")
    found = _json(project, "dg list defs --json")
    assert {"churn", "winback"} <= {one["name"] for one in found["jobs"]}
    assert {one["name"] for one in found["resources"]} == RESOURCES
    assert _json(project, "batch-assets lookup churn 42 --json")["lineage"]["pipeline"] == "churn"
    say("two pipelines: " + ", ".join(f"{len(many)} {kind}" for kind, many in found.items() if many))


def missing(project: DgProject, folder: Path, say: Say) -> None:
    """What is said where a library is not installed: one sentence each."""
    small = Small(folder, rows(100), small_model())
    for name in ("model.pt2", "card.json"):
        (project.root / name).write_bytes(small.registry.storage.read(f"models/small/v1/{name}"))
    said = project.refused("batch-assets models register other v1 --model model.pt2 --card card.json")
    assert "needs torch, which is not installed: pip install 'batch-assets[torch]'." in said
    say(f"a torch model: {said.strip()}")
    project.environment["BATCH_ASSETS_MODELS"] = "s3://bucket/models"
    said = project.refused("batch-assets models list")
    del project.environment["BATCH_ASSETS_MODELS"]
    assert "pip install 'batch-assets[s3]'" in said
    say(f"models on S3: {said.strip()}")
    source, text = project.root / "src", (project.defs / "churn" / "defs.yaml").read_text()
    (source / "their_store.py").write_text(THEIR_STORE)
    (source / "their_store-1.0.dist-info").mkdir()
    (source / "their_store-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their-store\nVersion: 1.0\n")
    (source / "their_store-1.0.dist-info" / "entry_points.txt").write_text("[batch_assets.stores]\nreels = their_store:Reels\n")
    (project.defs / "other").mkdir()
    for old, new, sentence in (
        (
            "engine:",
            "stores:\n    - kind: reels\n  engine:",
            "The store reels of their-store cannot be imported (No module named 'their_client')",
        ),
        (
            "engine:",
            "stores:\n    - kind: tapes\n  engine:",
            "There is no store of the kind 'tapes'; there is arrow, redis, postgres, cassandra, reels",
        ),
        ("kind: duckdb", "kind: pigeons", "There is no source of the kind 'pigeons'; there is duckdb, parquet"),
    ):
        changed = re.sub(
            r"^(\s*)" + re.escape(old), rf"\g<1>{new}", text.replace("name: churn", "name: other"), flags=re.MULTILINE
        )
        (project.defs / "other" / "defs.yaml").write_text(changed)
        said = project.refused("batch-assets run other --partition 2026-01-01")
        assert sentence in said, said
        say(f"{new.split(' engine')[0].strip()}: {said.strip()}")
    checked = project.tried("dg check defs --no-check-yaml")
    assert checked.returncode == 1
    assert sentence in checked.stdout + checked.stderr
    served = {one["asset_key"]: one["description"] for one in _json(project, "dg list defs --json")["assets"]}
    assert "churn/serving_table" in served
    assert sentence in served["other/serving_table"]
    say(f"dg list defs: {served['other/serving_table']}")
    (project.defs / "other" / "defs.yaml").unlink()


def nothing_to_train_with(project: DgProject, say: Say) -> None:
    """Neither torch nor LightGBM."""
    said = project.refused(told(project.defs / "churn")[0]).strip()
    assert said == "Neither torch nor LightGBM is installed: pip install 'batch-assets[torch]', or [lightgbm]."
    say(f"train.py: {said}")


def better(project: DgProject, say: Say) -> None:
    """A torch model takes over from the trees."""
    train, register, approve, run, lookup = told(project.defs / "churn")
    say(f"train.py: {project.do(train).strip()}")
    project.do(register.replace(" v1 ", " v2 "))
    differs = project.do("batch-assets models diff churn v1 v2")
    assert "torch" in differs
    project.do(approve.replace(" v1 ", " v2 "))
    project.do(run)
    record = _json(project, f"{lookup} --json")["record"]
    assert record["model_version"] == "v2"
    say(f"lookup: {record}")
    assert _json(project, "batch-assets lookup winback 42 --json")["record"]["model_version"] == "v1"


def whole(environment: Environment, folder: Path, say: Say, measured: Callable[[], str]) -> None:
    """Everything, first without torch."""
    project = DgProject(folder / "project", environment.python, ())
    begin(project, say)
    look(project, say)
    nothing_to_train_with(project, say)
    environment.add("lightgbm")
    say(f"the environment without torch: {measured()}")
    first_night(project, "churn", "lightgbm", say)
    questions(project, say)
    second(project, "lightgbm", say)
    missing(project, folder, say)
    environment.add("torch")
    say(f"the environment with torch: {measured()}")
    better(project, say)


def _json(project: DgProject, command: str) -> Any:
    return json.loads(project.do(command))
