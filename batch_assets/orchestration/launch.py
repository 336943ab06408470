"""Materialize a day through the Dagster instance, in this process, so that the UI shows what the command line did."""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineName
from batch_assets.errors import BatchAssetsError, Blocked, ConfigError
from batch_assets.orchestration.assets import asset_key, pinned_approval
from batch_assets.orchestration.catalog import code_location, project_root
from batch_assets.orchestration.liveness import COMMAND_LINE, POOL, bury_dead_runs, process_tags, scoring_elsewhere
from batch_assets.orchestration.resources import default_root
from batch_assets.pipeline.presence import presence
from batch_assets.pipeline.watch import Watch
from batch_assets.process import Process
from batch_assets.scoring.commit import day_folder
from batch_assets.storage import open_storage


@dataclass(frozen=True)
class Launched:
    """A Dagster run that succeeded: its id, the approval it pinned, seconds per asset, and chunks that were there before."""

    dagster_run_id: str
    approval: int | None
    seconds: dict[str, float]
    resumed_chunks: int


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The persistent instance: DAGSTER_HOME, or the project's own.

    Two processes that make the instance's databases in the same moment trip over each other, so one waits for the other.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or project_root() / ".dagster_home").absolute()
    if not home.is_dir():
        raise ConfigError(f"DAGSTER_HOME names {home}, which is not a folder.")
    os.environ["DAGSTER_HOME"] = str(home)
    with ExitStack() as stack:
        with (home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                instance = stack.enter_context(dg.DagsterInstance.get())
                instance.get_runs(limit=1)
                instance.event_log_storage.get_maximum_record_id()
            except Exception as error:  # Dagster, YAML and SQLAlchemy each have their own; all of them mean the same here
                raise ConfigError(f"The Dagster instance in {home} cannot be opened: {str(error).splitlines()[0]}") from error
        yield instance


def materialize(
    config: PipelineConfig,
    day: str,
    instance: dg.DagsterInstance,
    watch: Watch,
    *,
    engine: EngineName | None = None,
    refresh: bool = False,
) -> Launched:
    """Materialize the three assets of a day with their checks.

    Raises:
        Blocked: a blocking check failed.
        BatchAssetsError: the sentence that a step raised.
        KeyboardInterrupt: the run was interrupted; it is recorded as such, and the same call resumes it.
    """
    started = time.perf_counter()
    with presence(open_storage(default_root()), day_folder(config.name, day)) as others:
        for other in others:
            watch.say(f"Another run of {config.name} {day} is active ({other}); they take turns or share the work.")
        with _own_turn(instance, watch):
            result = _execute(config, day, instance, watch, engine, refresh)
    steps = {stats.step_key: stats for stats in instance.get_run_step_stats(result.run_id)}
    stages = {"features": "user_features", "scoring": "predictions", "publishing": "serving_table"}
    seconds = {name: _duration(steps.get(_op(config, asset))) for name, asset in stages.items()}
    seconds["total"] = round(time.perf_counter() - started, 3)
    approval = pinned_approval(instance, result.run_id, config.name)
    return Launched(result.run_id, approval, seconds, _resumed(config, result))


@contextmanager
def _own_turn(instance: dg.DagsterInstance, watch: Watch) -> Iterator[None]:
    """Wait until no other run on this instance scores.

    Dagster would wait too, at the pool, but spinning and deaf to Ctrl-C. Command lines take turns by a file lock, which the
    system drops when its holder dies; for runs of the UI this looks at the pool's slots, after those of the dead were freed.
    """
    with (Path(instance.root_directory) / ".turn").open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            watch.say(f"Another command line is at work on this Dagster instance ({lock.read().strip()}); waiting for it.")
        while not _locked(lock):
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(str(Process.current()))
        lock.flush()
        told: set[str] = set()
        while True:
            for buried in bury_dead_runs(instance, command_lines_are_dead=True):
                watch.say(f"Dagster run {buried} was left by a dead process; it is marked as failed now.")
            holders = set(scoring_elsewhere(instance))
            if not holders:
                break
            for holder in sorted(holders - told):
                watch.say(
                    f"Dagster run {holder} holds the pool {POOL!r}; this run waits for it. If it is dead, terminate it in the "
                    "UI, or free its slot there under Deployment > Concurrency."
                )
            told |= holders
            time.sleep(0.5)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _execute(
    config: PipelineConfig,
    day: str,
    instance: dg.DagsterInstance,
    watch: Watch,
    engine: EngineName | None,
    refresh: bool,
) -> dg.ExecuteInProcessResult:
    """Run the pipeline's job here; what goes wrong comes out as a sentence."""
    job, run_id = code_location().resolve_job_def(config.name), str(uuid.uuid4())
    options = {
        _op(config, "user_features"): {"config": {"refresh": refresh}},
        _op(config, "predictions"): {"config": {"engine": engine} if engine else {}},
    }
    try:
        return job.execute_in_process(
            run_config={"ops": options, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            partition_key=day,
            tags={**process_tags(run_id), COMMAND_LINE: run_id},
            resources={**job.resource_defs, "watch": watch},
            run_id=run_id,
        )
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except dg.DagsterExecutionStepExecutionError as error:
        if isinstance(error.__cause__, BatchAssetsError):
            raise error.__cause__ from None
        raise
    except dg.DagsterError:
        findings = _blocking_findings(instance, run_id)
        if not findings:
            raise
        hint = "" if refresh else " (If the query or its tables were corrected since, run with --refresh.)"
        raise Blocked(f"{config.name} {day} is blocked by {'; '.join(findings)}{hint}") from None


def _blocking_findings(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What the failed blocking checks of a run say."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    evaluations = [record.event_log_entry.asset_check_evaluation for record in records]
    return [
        f"the check {evaluation.check_name}: {evaluation.metadata['message'].value}"
        for evaluation in evaluations
        if evaluation and not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
    ]


def _op(config: PipelineConfig, asset: str) -> str:
    return f"{config.name}__{asset}"


def _duration(stats: Any) -> float:
    return round(stats.end_time - stats.start_time, 3) if stats and stats.end_time and stats.start_time else 0.0


def _resumed(config: PipelineConfig, result: dg.ExecuteInProcessResult) -> int:
    for event in result.asset_materializations_for_node(_op(config, "predictions")):
        if event.asset_key == asset_key(config, "predictions"):
            return int(event.metadata["resumed_chunks"].value)  # type: ignore[arg-type]
    return 0
