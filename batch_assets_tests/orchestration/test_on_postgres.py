"""Dagster's records in PostgreSQL: the daemon, its queue and retries, and command lines beside it."""

import json
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batch_assets.clock import utc_now
from batch_assets_tests.conftest import PROJECT, Command
from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.open_ui import Ui, open_ui, until
from batch_assets_tests.small import Small

pytestmark = pytest.mark.night

GATE = """import os
import time


def passed(batch):
    while batch.num_rows and os.path.exists(os.environ["THEIRS_GATE"]):
        time.sleep(0.05)
    return batch
"""
"""A function that makes features, while whose gate is there a run is at work."""


class Theirs:
    """A project of two pipelines with different targets, and its command; runs do not end as long as `gate` is there."""

    def __init__(self, folder: Path, small: Small, environment: dict[str, str]) -> None:
        self.gate = folder / "gate"
        project = DgProject(folder / "theirs")
        (project.defs.parent / "gate.py").write_text(GATE)
        self._write(project, small, "one", {"kind": "local"}, {"start": "2024-01-01", "end": "2024-12-31"})
        soon = utc_now() + timedelta(minutes=3)
        yesterday = (soon - timedelta(days=1)).date().isoformat()
        self._write(project, small, "two", {"kind": "local", "pool": "gpu-2"}, {"start": "2024-01-01"}, at=f"{soon:%H:%M}")
        self.yesterday = yesterday
        home = folder / "home"
        home.mkdir()
        shutil.copy(PROJECT / "deploy" / "dagster.yaml", home)
        self.command = Command(Path(small.storage.root), home)
        self.command.environment |= project.environment | environment
        self.command.environment |= {"BATCH_ASSETS_PROJECT": str(project.root), "THEIRS_GATE": str(self.gate)}
        self.command.environment |= {"BATCH_ASSETS_ROOT": small.storage.root, "DAGSTER_HOME": str(home)}

    def _write(
        self, project: DgProject, small: Small, name: str, engine: dict[str, Any], days: dict[str, str], at: str = "02:00"
    ) -> None:
        said = small.config.model_dump(mode="json", exclude_unset=True)
        source = {"kind": "python", "function": "theirs.gate:passed", "workers": 1, "source": said["features"]["source"]}
        said |= {"name": name, "engine": engine, "partitions": days, "nightly": {"at": at}}
        said["features"] |= {"source": source}
        (project.defs / name).mkdir()
        document = {"type": "batch_assets.ScoringPipeline", "attributes": said}
        (project.defs / name / "defs.yaml").write_text(json.dumps(document))


@pytest.fixture
def theirs(tmp_path: Path, small: Small, database: dict[str, str]) -> Theirs:
    return Theirs(tmp_path, small, database)


def events(database: dict[str, str]) -> int:
    """How many events Dagster has written."""
    where = {"host": "127.0.0.1", "port": database["DAGSTER_PG_PORT"], "user": "postgres", "dbname": database["DAGSTER_PG_DB"]}
    with psycopg.connect(" ".join(f"{name}={value}" for name, value in where.items())) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM event_logs").fetchall()
        return int(count)


@pytest.mark.long
def test_two_command_lines_begin_at_once_in_an_empty_database(theirs: Theirs, database: dict[str, str]) -> None:
    started = [theirs.command.start("run", name, "--partition", "2024-03-10", "--json") for name in ("one", "one", "two")]
    for process in started:
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert json.loads(said)["live_release"]
    assert events(database) > 0
    assert not list(theirs.command.home.rglob("*.db")), "nothing is kept in SQLite beside it"
    assert {path.name for path in theirs.command.home.glob(".turn.*")} == {".turn.scoring", ".turn.gpu-2"}


@pytest.mark.long
def test_a_night_with_the_daemon(theirs: Theirs, database: dict[str, str], tmp_path: Path) -> None:
    theirs.gate.touch()
    with open_ui(theirs.command, tmp_path / "ui.log") as port:
        ui = Ui(theirs.command, port)
        first, other = ui.launched("one", "2024-03-10"), ui.launched("two", "2024-03-10")
        until(lambda: _pid(ui, first) and _pid(ui, other), "the start of runs of two targets")
        second = ui.launched("one", "2024-03-11")
        until(lambda: _of(ui, second)["status"] == "QUEUED", "the next of the first target in the queue")
        os.kill(_pid(ui, first), signal.SIGKILL)
        until(lambda: _of(ui, first)["status"] == "FAILURE", "the notice of its death")
        until(lambda: _pid(ui, second), "the start of the one that waited")
        assert _of(ui, other)["status"] == "STARTED", "the run of the other target went on all the time"
        (retry,) = until(lambda: ui.runs(dagster__parent_run_id=first), "the retry")
        theirs.gate.unlink()
        for run in (other, second, retry["runId"]):
            until(lambda run=run: _of(ui, run)["status"] in ("SUCCESS", "FAILURE"), "the end of a run")
            assert _of(ui, run)["status"] == "SUCCESS"
        by_schedule = until(lambda: ui.runs(dagster__schedule_name="two_nightly"), "the schedule's run")
        assert by_schedule[0]["tags"]["dagster/partition"] == theirs.yesterday
        done = theirs.command.run("models", "approve", "small", "v1", "--why", "again", "--by", "Ann")
        assert done.returncode == 0, done.stderr
        for name in ("one", "two"):
            until(lambda name=name: ui.runs(dagster__sensor_name=f"{name}_approved_model"), "the sensor's run")
    assert not list(theirs.command.home.rglob("*.db"))


def _of(ui: Ui, run_id: str) -> dict[str, Any]:
    (run,) = [run for run in ui.runs() if run["runId"] == run_id]
    return run


def _pid(ui: Ui, run_id: str) -> int:
    """The process that executes a run, 0 before it has begun."""
    tags = _of(ui, run_id)["tags"]
    return int(tags["batch_assets/pid"]) if tags.get("batch_assets/run") == run_id else 0
