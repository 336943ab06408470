"""Materialized through Dagster in this process, on the real pipeline and a real instance."""

import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.config import PipelineConfig
from batch_assets.demo import train as training
from batch_assets.engines.engine import EngineName
from batch_assets.errors import BatchAssetsError, Blocked, ConfigError, NoSuchModel
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.freeze import freeze
from batch_assets.orchestration import liveness
from batch_assets.orchestration.catalog import pipeline
from batch_assets.orchestration.launch import Launched, materialize_days, open_instance
from batch_assets.orchestration.launch import materialize as launch_day
from batch_assets.orchestration.liveness import command_line_tags, fail_dead_runs
from batch_assets.orchestration.pools import MACHINE
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.process import Process
from batch_assets.serving.live import current_log
from batch_assets_tests.conftest import PROJECT
from batch_assets_tests.orchestration.location import part_in
from batch_assets_tests.small import Quiet

pytestmark = pytest.mark.process

DAY = "1998-06-30"
SUCCESS = dg.DagsterRunStatus.SUCCESS


@pytest.fixture
def instance(tmp_path: Path, trained_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", home)
    shutil.copytree(trained_root, tmp_path / "root")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(tmp_path / "root"))
    with open_instance() as opened:
        yield opened


@pytest.fixture
def config() -> PipelineConfig:
    return pipeline(training.PIPELINE)


def materialize(
    config: PipelineConfig, day: str, instance: dg.DagsterInstance, progress: Quiet, engine: EngineName
) -> Launched:
    """With the version that is approved now."""
    return launch_day(config, day, instance, progress, model=StorageRoot().registry().resolve(config.model), engine=engine)


def last(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey([training.PIPELINE, asset]))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


class TestWhatTheUiShows:
    def test_all_of_it(self, instance: dg.DagsterInstance, config: PipelineConfig) -> None:
        launched = materialize(config, DAY, instance, Quiet(), engine="local")
        assert launched.resumed_chunks == 0
        assert set(launched.seconds) == {"features", "scoring", "publishing", "checks", "dagster"}

        features, predictions, table = (last(instance, name) for name in ("user_features", "predictions", "serving_table"))
        assert {materialization.partition for materialization in (features, predictions, table)} == {DAY}
        for materialization in (features, predictions, table):
            assert materialization.metadata["dagster/row_count"].value == 23_570
            assert materialization.metadata["rows_per_s"].value > 0
            assert "| stage | seconds |" in materialization.metadata["seconds_per_stage"].value
        shown = predictions.metadata
        assert all(
            stage in shown["seconds_per_stage"].value for stage in ("read", "convert", "forward", "postprocess", "write")
        )
        assert shown["workers_time"].value.startswith("![The workers' time](data:image/svg+xml;base64,")
        assert "of the workers' time is" in shown["what_limits_it"].value
        assert re.fullmatch(r"(\d+) rows scored again, \1 of them bit-equal", shown["audit"].value)
        assert shown["precision"].value == "float32"
        assert shown["who_moved"].value == "No earlier day has an accepted run."
        observed = (
            instance.fetch_observations(dg.AssetKey([training.PIPELINE, "predictions"]), limit=1).records[0].asset_observation
        )
        assert observed is not None
        assert observed.partition == DAY
        assert (observed.metadata["rows_done"].value, observed.metadata["rows"].value) == (23_570, 23_570)
        assert shown["psi_baseline"].value > 0
        assert str(shown["psi_trailing"].value).startswith("not_compared")
        assert shown["scores"].value.startswith(
            "![Scores of 1998-06-30 against the baseline of 1998-05-31](data:image/svg+xml;base64,"
        )
        for materialization in (predictions, table):
            assert materialization.metadata["run_id"].value == shown["run_id"].value
            assert materialization.metadata["model_version"].value == "customer_propensity v1"
            assert len(materialization.metadata["model_sha256"].value) == 64
        assert predictions.tags["dagster/data_version"] == shown["run_id"].value

        run = instance.get_run_by_id(launched.dagster_run_id)
        assert run is not None
        assert run.tags["batch_assets/model"] == "customer_propensity v1"
        assert run.run_config["ops"]["customer_propensity__predictions"]["config"]["approval"] == 1
        evaluations = [
            record.event_log_entry.asset_check_evaluation
            for record in instance.get_records_for_run(
                launched.dagster_run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            ).records
        ]
        assert {(e.check_name, e.partition) for e in evaluations} == {
            (name, DAY)
            for name in (
                *(
                    "contract",
                    "sources",
                    "expectations",
                    "changes",
                    "feature_drift",
                    "complete",
                    "dead_letters",
                    "one_model",
                    "audit",
                ),
                *("scores", "drift", "ranks", "previous_model", "baseline", "feature_baseline", "published_matches"),
            )
        }
        assert {e.check_name for e in evaluations if not e.passed} <= {"baseline", "feature_baseline"}

    @pytest.mark.long
    def test_a_later_day_is_compared_with_the_days_before(self, instance: dg.DagsterInstance, config: PipelineConfig) -> None:
        materialize(config, "1998-06-29", instance, Quiet(), engine="local")
        materialize(config, DAY, instance, Quiet(), engine="local")
        shown = last(instance, "predictions").metadata
        assert 0 <= shown["psi_trailing"].value < 0.01
        assert shown["who_moved"].value == f"`batch-assets diff {training.PIPELINE} 1998-06-29 {DAY}`"


def test_a_blocking_check_stops_the_night_with_a_sentence(
    instance: dg.DagsterInstance, config: PipelineConfig, tmp_path: Path
) -> None:
    """The query forgets a column."""
    query = tmp_path / "features.sql"
    query.write_text(Path(config.features.source.query).read_text().replace("AS orders_90d", "AS recent_orders"))
    source = config.features.source.model_copy(update={"query": str(query)})
    broken = config.model_copy(update={"features": config.features.model_copy(update={"source": source})})
    with pytest.raises(Blocked, match="check contract: orders_90d seems to be renamed to recent_orders"):
        materialize(broken, DAY, instance, Quiet(), engine="local")
    assert not (tmp_path / "root" / training.PIPELINE / "predictions" / f"date={DAY}" / "_current").exists()
    assert not list((tmp_path / "root").glob("**/chunk-*.parquet"))
    assert not (tmp_path / "root" / training.PIPELINE / "serving").exists()


def test_no_model_is_a_sentence(instance: dg.DagsterInstance, config: PipelineConfig, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "root" / "models" / training.PIPELINE / "aliases")
    with pytest.raises(NoSuchModel, match="carries the alias batch"):
        materialize(config, DAY, instance, Quiet(), engine="local")


def test_a_run_of_a_dead_process_is_buried_and_its_slot_freed(instance: dg.DagsterInstance, config: PipelineConfig) -> None:
    me = Process.current()
    slots = instance.event_log_storage
    slots.set_concurrency_slots(MACHINE, 1)
    runs = {}
    for name, pid, host in (
        ("dead", 2**22 - 1, me.host),
        ("alive", me.pid, me.host),
        ("elsewhere", 1, "another-host"),
        ("retry", 2**22 - 1, me.host),
    ):
        started = me.started if name == "alive" else 0.0
        run_id = str(uuid.uuid4())
        owner = runs["dead"].run_id if name == "retry" else run_id
        tags = {
            f"batch_assets/{key}": str(value)
            for key, value in {"host": host, "pid": pid, "started": started, "run": owner}.items()
        }
        runs[name] = instance.add_run(
            dg.DagsterRun(run_id=run_id, job_name="customer_propensity", status=dg.DagsterRunStatus.STARTED, tags=tags)
        )
    slots.claim_concurrency_slot(MACHINE, runs["dead"].run_id, "step")
    assert slots.get_concurrency_info(MACHINE).claimed_slots
    assert fail_dead_runs(instance, config) == [runs["dead"].run_id]
    assert not slots.get_concurrency_info(MACHINE).claimed_slots
    for ended in ("canceled", "succeeded"):
        run_id = str(uuid.uuid4())
        fields = {"host": me.host, "pid": 2**22 - 1, "started": 0.0, "run": run_id}
        tags = {f"batch_assets/{key}": str(value) for key, value in fields.items()}
        status = dg.DagsterRunStatus.CANCELING if ended == "canceled" else dg.DagsterRunStatus.SUCCESS
        runs[ended] = instance.add_run(dg.DagsterRun(run_id=run_id, job_name=config.name, tags=tags, status=status))
    assert fail_dead_runs(instance, config) == [runs["canceled"].run_id]
    slots.claim_concurrency_slot(MACHINE, "a run that nobody knows any more", "step")
    assert fail_dead_runs(instance, config) == []
    assert not slots.get_concurrency_info(MACHINE).claimed_slots
    statuses = {name: instance.get_run_by_id(run.run_id).status for name, run in runs.items()}
    assert statuses == {
        "dead": dg.DagsterRunStatus.FAILURE,
        "alive": dg.DagsterRunStatus.STARTED,
        "elsewhere": dg.DagsterRunStatus.STARTED,
        "retry": dg.DagsterRunStatus.STARTED,
        "canceled": dg.DagsterRunStatus.CANCELED,
        "succeeded": SUCCESS,
    }


def test_a_run_that_died_before_it_said_who_it_is_is_buried_too(
    instance: dg.DagsterInstance, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = instance.add_run(
        dg.DagsterRun(job_name=config.name, status=dg.DagsterRunStatus.STARTING, run_op_concurrency=part_in(MACHINE))
    )
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, config.name), run.run_id)
    assert fail_dead_runs(instance, config) == [], "it has just begun"
    monkeypatch.setattr(liveness, "_SILENT_SECONDS", -60.0)
    assert fail_dead_runs(instance, config) == [run.run_id]


def test_launched_by_dagster_it_is_the_same_night(instance: dg.DagsterInstance, config: PipelineConfig) -> None:
    """`dg launch` loads the code location in a process of its own, as a run from the UI does, and scores on Ray."""
    program = [str(Path(sys.executable).parent / "dg"), "launch", "--job", config.name, "--partition", DAY]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert run.tags["batch_assets/run"] == run.run_id
    by_dagster = last(instance, "predictions").metadata["digest"].value
    again = materialize(config, DAY, instance, Quiet(), engine="local")
    assert again.resumed_chunks == 24
    assert last(instance, "predictions").metadata["digest"].value == by_dagster


def test_command_lines_of_a_former_host_are_dead_for_whoever_holds_their_lock(
    instance: dg.DagsterInstance, config: PipelineConfig
) -> None:
    """A container was killed and replaced by one with another host name; the Dagster home was kept."""
    instance.event_log_storage.set_concurrency_slots(MACHINE, 1)
    run_id = str(uuid.uuid4())
    fields = {"host": "old-container", "pid": 1, "started": 0.0, "run": run_id}
    tags = command_line_tags(instance, run_id) | {f"batch_assets/{name}": str(value) for name, value in fields.items()}
    status, part = dg.DagsterRunStatus.STARTED, part_in(MACHINE)
    instance.add_run(dg.DagsterRun(run_id=run_id, job_name=config.name, status=status, tags=tags, run_op_concurrency=part))
    instance.event_log_storage.claim_concurrency_slot(MACHINE, run_id, "step")
    progress = Quiet()
    materialize(config, DAY, instance, progress, engine="local")
    assert f"Dagster run {run_id} was left by a dead process" in progress.said[0]


def test_a_re_execution_from_the_ui_inherits_tags_and_is_left_alone(
    instance: dg.DagsterInstance, config: PipelineConfig
) -> None:
    parent, run_id = str(uuid.uuid4()), str(uuid.uuid4())
    fields = {**Process.current().as_mapping(), "run": run_id, "command_line": parent}
    tags = {f"batch_assets/{name}": str(value) for name, value in fields.items()}
    instance.add_run(dg.DagsterRun(run_id=run_id, job_name="job", status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert fail_dead_runs(instance, config, turn=True) == []
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("content", [None, "concurrency: [", "nonsense: true"])
def test_an_instance_that_cannot_be_opened_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    if content is not None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "dagster.yaml").write_text(content)
    with pytest.raises(ConfigError, match="home"), open_instance():
        pass


def test_a_run_that_waits_for_the_pool_says_so_and_can_be_interrupted(
    instance: dg.DagsterInstance, config: PipelineConfig
) -> None:
    """The pool is held by a run of another host, which cannot be asked whether it lives."""
    run_id = str(uuid.uuid4())
    fields = {"host": "another-host", "pid": 1, "started": 0.0, "run": run_id}
    tags = {f"batch_assets/{name}": str(value) for name, value in fields.items()}
    status, part = dg.DagsterRunStatus.STARTED, part_in(MACHINE)
    instance.add_run(dg.DagsterRun(run_id=run_id, job_name=config.name, status=status, tags=tags, run_op_concurrency=part))

    class Impatient(Quiet):
        def say(self, message: str) -> None:
            super().say(message)
            if "another-host" in message:
                raise KeyboardInterrupt

    progress = Impatient()
    with pytest.raises(KeyboardInterrupt):
        materialize(config, DAY, instance, progress, engine="local")
    assert "at work in the pool" in progress.said[-1]
    assert len(instance.get_runs()) == 1, "nothing was begun"


def test_of_several_days_a_bad_one_fails_alone(instance: dg.DagsterInstance, config: PipelineConfig, tmp_path: Path) -> None:
    """The features of the second day are damaged on disk after they were frozen."""
    days = ["1998-06-27", "1998-06-28", "1998-06-29"]
    model = StorageRoot().registry().resolve(config.model)
    frozen = freeze(config, StorageRoot().storage(), days[1], Quiet())
    path = StorageRoot().storage().local_path(f"{frozen.folder}/part-00000.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    done = list(materialize_days(config, dict.fromkeys(days, model), instance, Quiet(), engine="local"))
    assert [(day.day, day.launched is not None) for day in done] == [(days[0], True), (days[1], False), (days[2], True)]
    assert "bytes instead of the frozen" in done[1].error
    statuses = {run.tags["dagster/partition"]: run.status for run in instance.get_runs()}
    assert statuses == {days[0]: SUCCESS, days[1]: dg.DagsterRunStatus.FAILURE, days[2]: SUCCESS}
    releases = sorted(release.name[:10] for release in (tmp_path / "root" / training.PIPELINE / "serving/releases").iterdir())
    assert releases == [days[0], days[2]]
    live = current_log(StorageRoot().storage(), training.PIPELINE).latest()
    assert live is not None
    assert live.body.partition == days[2]


def test_each_of_several_days_takes_its_turn(instance: dg.DagsterInstance, config: PipelineConfig) -> None:
    """A run of the UI, on another host, takes the place between two days."""

    class Impatient(Quiet):
        def say(self, message: str) -> None:
            super().say(message)
            if "this run waits" in message:
                raise KeyboardInterrupt

    model, progress = StorageRoot().registry().resolve(config.model), Impatient()
    days = materialize_days(config, dict.fromkeys(["1998-06-29", DAY], model), instance, progress, engine="local")
    assert next(days).launched is not None
    run = dg.DagsterRun(job_name="another", status=dg.DagsterRunStatus.STARTED, run_op_concurrency=part_in(MACHINE))
    instance.add_run(run)
    with pytest.raises(KeyboardInterrupt):
        next(days)
    assert run.run_id in progress.said[-1]
    assert len(instance.get_runs()) == 2, "the second day was not begun"


def test_whatever_goes_wrong_with_a_day_the_next_is_scored(instance: dg.DagsterInstance, config: PipelineConfig) -> None:
    days = ["1998-06-28", "1998-06-29", "1998-06-30"]
    for day in days:
        freeze(config, StorageRoot().storage(), day, Quiet())

    class Faulty(Quiet):
        def say(self, message: str) -> None:
            super().say(message)
            if days[1] in message:
                raise RuntimeError("a disk went away\nand nobody knows why")

    model = StorageRoot().registry().resolve(config.model)
    models: dict[str, ModelVersion | BatchAssetsError] = {
        days[0]: NoSuchModel("none was approved"),
        days[1]: model,
        days[2]: model,
    }
    done = list(materialize_days(config, models, instance, Faulty(), engine="local"))
    assert [day.error.partition(" (Dagster run")[0] for day in done] == [
        "none was approved",
        f"{config.name} {days[1]} failed with RuntimeError: a disk went away",
        "",
    ]
    assert done[2].launched is not None


def test_cancelled_in_the_ui_it_ends_and_resumes(instance: dg.DagsterInstance, config: PipelineConfig) -> None:
    class Cancelling(Quiet):
        def at(self, stage: str, done: int, total: int | None) -> None:
            super().at(stage, done, total)
            (run,) = instance.get_runs()
            instance.report_run_canceling(run)
            time.sleep(60)  # until this process is interrupted

    with pytest.raises(KeyboardInterrupt):
        materialize(config, DAY, instance, Cancelling(), engine="local")
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert materialize(config, DAY, instance, Quiet(), engine="local").dagster_run_id
