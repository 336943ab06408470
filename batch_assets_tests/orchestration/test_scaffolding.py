"""What the scaffold writes runs as it stands, by the commands that stand in it."""

import json
import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from batch_assets.clock import today, utc_now
from batch_assets.orchestration.scaffolding.scaffolder import made_up_visits
from batch_assets_tests.dg_project import DgProject

SCAFFOLD = "dg scaffold defs batch_assets.ScoringPipeline"


def told(folder: Path) -> list[str]:
    """The commands in the head of a scaffolded defs.yaml."""
    return re.findall(r"^#   (\S.*)$", (folder / "defs.yaml").read_text(), flags=re.MULTILINE)


@pytest.mark.process
@pytest.mark.long
def test_its_first_night_is_walked_through(tmp_path: Path) -> None:
    project = DgProject(tmp_path / "new")
    project.do(f"{SCAFFOLD} some/churn")
    folder, yesterday = project.defs / "some" / "churn", today(utc_now(), "UTC") - timedelta(days=1)
    assert sorted(path.name for path in folder.iterdir()) == ["defs.yaml", "features.sql", "train.py", "visits.parquet"]
    assert all("your_pipeline" not in path.read_text() for path in folder.iterdir() if path.suffix != ".parquet")
    train, register, approve, run, lookup = told(folder)
    assert re.search(r"torch: .* AUC on \d{4}-\d\d-\d\d: 0\.[89]", project.do(train))
    project.do(register)
    project.do(approve)
    night = json.loads(project.do(f"{run} --json"))
    assert night["partition"] == yesterday.isoformat()
    assert night["scored_rows"] > 1_000
    assert [check["name"] for check in night["checks"] if check["severity"] != "info" and not check["passed"]] == []
    assert json.loads(project.do(f"{lookup} --json"))["record"]["user_id"] == 42
    project.do("dg check yaml")
    project.do("dg check defs")


@pytest.mark.process
def test_what_cannot_be_a_pipeline_is_refused_in_a_sentence(tmp_path: Path) -> None:
    project = DgProject(tmp_path / "new")
    said = project.refused(f"{SCAFFOLD} Big-Churn")
    assert "Big-Churn cannot be the name of a pipeline" in said
    assert "is declared in YAML" in project.refused(f"{SCAFFOLD} churn --format python")


def test_the_rows_of_a_day_are_always_the_same_and_go_on_for_a_while() -> None:
    day = date(2026, 1, 31)
    visits = made_up_visits(day)
    assert visits.equals(made_up_visits(day))
    of_day, per_day = np.unique(visits["day"].to_numpy(), return_counts=True)
    assert (of_day[0], of_day[-1]) == (np.datetime64("2025-11-15"), np.datetime64("2026-03-01"))
    assert per_day.min() > 0.8 * per_day.max()
    some = set(visits["day"].to_numpy()[visits["user_id"].to_numpy() == 42])
    assert all(
        some & set(np.arange(one - 27, one + 1)) for one in np.arange(np.datetime64(day) - 35, np.datetime64(day) + 30)
    ), "user 42 is scored on every one of these days"
