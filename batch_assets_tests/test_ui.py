"""The real thing: `batch-assets ui` with daemon, webserver and Ray; approvals, a backfill, a check and a kill."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_assets.demo import train as training
from batch_assets.models.registry import Registry
from batch_assets.orchestration.catalog import pipeline
from batch_assets.serving.live import current_log
from batch_assets.storage import LocalStorage
from batch_assets_tests.conftest import Command
from batch_assets_tests.open_ui import Ui, open_ui, until
from batch_assets_tests.small import Quiet

pytestmark = pytest.mark.process

NAME = training.PIPELINE
DAY = training.PARTITION


class DemoUi(Ui):
    """A running UI of the demo."""

    def live(self) -> dict[str, Any]:
        """What is live."""
        entry = current_log(LocalStorage(str(self.command.root)), NAME).latest()
        assert entry is not None
        return entry.body.model_dump(mode="json")


@pytest.fixture
def ui(command: Command, tmp_path: Path) -> Iterator[DemoUi]:
    """v1 is live, v2 is registered."""
    training.train(pipeline(NAME), Registry(LocalStorage(str(command.root))), Quiet(), "v2", seed=7)
    done = command.run("run", NAME, "--partition", DAY, "--engine", "local")
    assert done.returncode == 0, done.stderr
    with open_ui(command, tmp_path / "ui.log") as port:
        yield DemoUi(command, port)


@pytest.mark.long
def test_a_night_with_the_daemon(ui: DemoUi) -> None:
    second = ui.command.run("ui", "--port", "0")
    assert second.returncode == 1
    assert "is open already" in second.stderr
    _approvals_roll_out_once_each(ui)
    _a_backfill_is_a_run_a_day_with_one_version(ui)
    _a_check_can_be_run_by_itself(ui)
    _a_canceled_run_is_canceled_and_can_be_gone_on_with(ui)
    _a_killed_run_is_retried_and_resumes(ui)


def _approvals_roll_out_once_each(ui: DemoUi) -> None:
    sensor = f"{NAME}_approved_model"
    for number, (version, why) in enumerate((("v2", "better"), ("v1", "complaints"), ("v2", "sure now")), start=2):
        done = ui.command.run("models", "approve", NAME, version, "--why", why, "--by", "Ann")
        assert done.returncode == 0, done.stderr
        until(lambda number=number: ui.live()["approval"] == number, f"the roll-out of approval {number}", seconds=60)
        until(lambda: all(run["status"] == "SUCCESS" for run in ui.runs(dagster__sensor_name=sensor)), "the end of the run")
        runs = ui.runs(dagster__sensor_name=sensor)
        assert len(runs) == number - 1, "one run for each approval"
        assert runs[0]["tags"]["batch_assets/model"] == f"{NAME} {version}"
        assert float(runs[0]["tags"]["batch_assets/expected_psi"]) >= 0
        answer = json.loads(ui.command.run("lookup", NAME, "42", "--json").stdout)
        assert answer["record"]["model_version"] == version


def _a_backfill_is_a_run_a_day_with_one_version(ui: DemoUi) -> None:
    launch = """mutation($keys: [AssetKeyInput!]!, $days: [String!]!) {
      launchPartitionBackfill(backfillParams: {assetSelection: $keys, partitionNames: $days}) {
        ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    keys = [{"path": [NAME, asset]} for asset in ("user_features", "predictions", "serving_table")]
    days = ["1998-06-28", "1998-06-29"]
    backfill = ui.ask(launch, keys=keys, days=days)["launchPartitionBackfill"]["backfillId"]
    runs = until(
        lambda: len(found := ui.runs(dagster__backfill=backfill)) == 2 and _over(found) and found, "the backfill", seconds=300
    )
    assert {run["status"] for run in runs} == {"SUCCESS"}
    assert {run["tags"]["dagster/partition"] for run in runs} == set(days)
    assert {run["tags"]["batch_assets/model"] for run in runs} == {f"{NAME} v2"}
    assert ui.live()["partition"] == DAY, "older days get releases and do not replace what is live"


def _over(runs: list[dict[str, Any]]) -> bool:
    return all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs)


def _a_check_can_be_run_by_itself(ui: DemoUi) -> None:
    launch = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    answer = ui.ask(
        launch,
        params={
            "selector": {
                "repositoryName": "__repository__",
                "repositoryLocationName": "batch_assets",
                "jobName": NAME,
                "assetSelection": [],
                "assetCheckSelection": [{"assetKey": {"path": [NAME, "serving_table"]}, "name": "published_matches"}],
            },
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": DAY}]},
        },
    )["launchPipelineExecution"]
    run_id = answer["run"]["runId"]
    until(lambda: ui.client.get_run_status(run_id).value in ("SUCCESS", "FAILURE"), "the check's end")
    assert ui.client.get_run_status(run_id).value == "SUCCESS"


def _pid(ui: DemoUi, run_id: str, day: str) -> int:
    """The process that executes a run, 0 before it has begun."""
    (run,) = [run for run in ui.runs(dagster__partition=day) if run["runId"] == run_id]
    return int(run["tags"].get("batch_assets/pid", 0))


def _a_canceled_run_is_canceled_and_can_be_gone_on_with(ui: DemoUi) -> None:
    day = "1998-06-26"
    run_id = ui.launched(NAME, day)
    until(lambda: _pid(ui, run_id, day), "the run's start")
    ui.ask("mutation($run: String!) { terminateRun(runId: $run) { __typename } }", run=run_id)
    until(lambda: ui.client.get_run_status(run_id).value not in ("STARTED", "CANCELING"), "the end of the run")
    assert ui.client.get_run_status(run_id).value == "CANCELED"
    again = ui.launched(NAME, day)
    until(lambda: ui.client.get_run_status(again).value in ("SUCCESS", "FAILURE"), "the end of the next run")
    assert ui.client.get_run_status(again).value == "SUCCESS"


def _a_killed_run_is_retried_and_resumes(ui: DemoUi) -> None:
    """The run's process is killed outright; its death is noticed, its place freed, and a retry ends the day."""
    day = "1998-06-27"
    run_id = ui.launched(NAME, day)
    os.kill(until(lambda: _pid(ui, run_id, day), "the run's start"), signal.SIGKILL)
    until(lambda: ui.client.get_run_status(run_id).value == "FAILURE", "the notice of its death")
    retries = until(lambda: ui.runs(dagster__parent_run_id=run_id), "the retry")
    until(lambda: ui.client.get_run_status(retries[0]["runId"]).value in ("SUCCESS", "FAILURE"), "the retry's end")
    assert ui.client.get_run_status(retries[0]["runId"]).value == "SUCCESS"
    explained = json.loads(ui.command.run("explain", NAME, "42", "--partition", day, "--json").stdout)
    assert explained["model"]["version"] == "v2"
