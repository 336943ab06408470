"""Materialize a day through the Dagster instance, in this process, so that the UI shows what the command line did."""

import fcntl
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import dagster as dg

from batch_assets import errors
from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineName
from batch_assets.errors import BatchAssetsError, Blocked, ConfigError, RunFailed
from batch_assets.features.snapshot import current_log
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.publish import published_matches
from batch_assets.orchestration.assets import asset_key
from batch_assets.orchestration.component import definitions
from batch_assets.orchestration.liveness import command_line_tags
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.pools import as_asked
from batch_assets.orchestration.resources import connected, connecting
from batch_assets.orchestration.runs import blocking_findings, first_error
from batch_assets.orchestration.turns import own_turn
from batch_assets.project import find_project
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.commit import day_folder
from batch_assets.storage import default_root, open_storage
from batch_assets.storage.lease import lease

_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Launched:
    """A Dagster run that succeeded: its id, its night, and how many chunks were there before.

    `matches` is what the check on its release found. `seconds` are those of the three assets, of the checks, and of Dagster
    between them.
    """

    dagster_run_id: str
    night: Night
    matches: CheckOutcome
    seconds: dict[str, float]
    resumed_chunks: int


@dataclass(frozen=True)
class Day:
    """What became of one day of several: a run that succeeded, or the sentence that says why there is none."""

    day: str
    launched: Launched | None
    error: str = ""


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The persistent instance: DAGSTER_HOME, or the project's own.

    Two processes that make the instance's databases in the same moment trip over each other, so one waits for the other.
    """
    home = find_project().dagster_home()
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
    progress: Progress,
    *,
    model: ModelVersion,
    engine: EngineName | None = None,
    refresh: bool = False,
) -> Launched:
    """Materialize the three assets of a day with their checks, scored by one model version.

    Raises:
        Blocked: a blocking check failed.
        BatchAssetsError: the sentence that a step raised.
        KeyboardInterrupt: the run was interrupted; it is recorded as such, and the same call resumes it.
    """
    config = as_asked(config, engine)
    launcher = _Launcher(config, [model], instance, progress, engine, refresh)
    with own_turn(instance, config, progress):
        to_freeze = refresh or not current_log(open_storage(default_root()), config.name, day).latest()
        with connecting(config, engine) if to_freeze else nullcontext():
            return launcher.materialize(day, model)


def materialize_days(
    config: PipelineConfig,
    models: Mapping[str, ModelVersion | BatchAssetsError],
    instance: dg.DagsterInstance,
    progress: Progress,
    *,
    engine: EngineName | None = None,
    refresh: bool = False,
) -> Iterator[Day]:
    """Materialize days one after the other, each as a Dagster run of its own, so that a bad day fails alone.

    They share this process and its warm workers, which go while another run has its turn. `models` says which version scores
    which day, or why none does; days come in its order.

    Raises:
        KeyboardInterrupt: it was interrupted; the days that are done stay done.
    """
    config = as_asked(config, engine)
    known = [model for model in models.values() if not isinstance(model, BatchAssetsError)]
    launcher = _Launcher(config, known, instance, progress, engine, refresh)
    with ExitStack() as kept:
        for day, model in models.items():
            if isinstance(model, BatchAssetsError):
                yield Day(day, None, str(model))
                continue
            try:
                with own_turn(
                    instance, config, progress, take=lambda: kept.enter_context(connected(config, engine)), let_go=kept.close
                ):
                    done = Day(day, launcher.materialize(day, model))
            except BatchAssetsError as error:
                done = Day(day, None, str(error))
            yield done


@contextmanager
def _interruptible(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Interrupt this process, as Ctrl-C would, when somebody cancels its run in the UI; Dagster itself only marks the run."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
                os.kill(os.getpid(), signal.SIGINT)
                return

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield
    finally:
        over.set()
        looker.join()


class _Launcher:
    """Executes runs of one pipeline in this process."""

    def __init__(
        self,
        config: PipelineConfig,
        models: Iterable[ModelVersion],
        instance: dg.DagsterInstance,
        progress: Progress,
        engine: EngineName | None,
        refresh: bool,
    ) -> None:
        self._config, self._instance, self._progress = config, instance, progress
        self._engine, self._refresh = engine, refresh
        self._nights = Nights(*{model.approval: model for model in models}.values())
        resources: dict[str, Any] = {"batch_assets_progress": progress, "batch_assets_nights": self._nights}
        if config.engine.resource:  # which only the project's own definitions have
            resources[config.engine.resource] = dg.ResourceDefinition.none_resource()
        self._job = definitions(config, resources).resolve_job_def(config.name)

    def materialize(self, day: str, model: ModelVersion) -> Launched:
        """One day; what goes wrong comes out as a sentence."""
        started, config = time.perf_counter(), self._config
        with lease(open_storage(default_root()), day_folder(config.name, day)) as others:
            for other in others.alive:
                self._progress.say(
                    f"Another run of {config.name} {day} is active ({other}); they take turns or share the work."
                )
            result = self._execute(day, model)
        steps = {stats.step_key: stats for stats in self._instance.get_run_step_stats(result.run_id)}
        stages = {"features": "user_features", "scoring": "predictions", "publishing": "serving_table"}
        seconds = {name: _duration(steps.pop(_op(config, asset), None)) for name, asset in stages.items()}
        seconds["checks"] = round(sum(map(_duration, steps.values())), 3)
        night = self._nights.night(config, open_storage(default_root()), day, model)
        matches = self._nights.matches.pop((config.name, day), None) or published_matches(night)
        seconds["dagster"] = round(time.perf_counter() - started - sum(seconds.values()), 3)
        return Launched(result.run_id, night, matches, seconds, _resumed(config, result))

    def _execute(self, day: str, model: ModelVersion) -> dg.ExecuteInProcessResult:
        config, instance, run_id = self._config, self._instance, str(uuid.uuid4())
        scoring: dict[str, object] = {"approval": model.approval, **({"engine": self._engine} if self._engine else {})}
        options = {
            _op(config, "user_features"): {"config": {"refresh": self._refresh}},
            _op(config, "predictions"): {"config": scoring},
        }
        try:
            with _interruptible(instance, run_id):
                result = self._job.execute_in_process(
                    run_config={"ops": options, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                    instance=instance,
                    partition_key=day,
                    tags=command_line_tags(instance, run_id),
                    run_id=run_id,
                    raise_on_error=False,  # so that every check is made, also those after one that blocks
                )
        except dg.DagsterExecutionInterruptedError:  # before or between the steps
            raise KeyboardInterrupt from None
        except Exception as error:  # of Dagster, before or between the steps; whatever it is, it is this day's
            raise RunFailed(self._failed(day, run_id, type(error).__name__, str(error))) from error
        if result.success:
            return result
        if _interrupted(result):
            raise KeyboardInterrupt
        raise self._why(day, run_id)

    def _why(self, day: str, run_id: str) -> BatchAssetsError:
        """What went wrong in a run that failed; the run's log in the UI has the traceback."""
        findings = blocking_findings(self._config, self._instance, run_id)
        if findings:
            hint = "" if self._refresh else " (If the query or its tables were corrected since, run with --refresh.)"
            return Blocked(f"{self._config.name} {day} is blocked by {'; '.join(findings)}{hint}")
        kind, sentence = first_error(self._instance, run_id)
        ours = getattr(errors, kind, None)
        if isinstance(ours, type) and issubclass(ours, BatchAssetsError):
            return ours(sentence)
        return RunFailed(self._failed(day, run_id, kind, sentence))

    def _failed(self, day: str, run_id: str, kind: str, message: str) -> str:
        reason = message.strip().partition("\n")[0] or "no reason given"
        return f"{self._config.name} {day} failed with {kind}: {reason} (Dagster run {run_id})"


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run ended because somebody cancelled or interrupted it."""
    for event in result.all_events:
        if event.event_type is dg.DagsterEventType.RUN_CANCELED:
            return True
        if event.event_type is dg.DagsterEventType.RUN_FAILURE and event.job_failure_data.error:
            return str(event.job_failure_data.error.cls_name) in ("KeyboardInterrupt", "DagsterExecutionInterruptedError")
    return False


def _op(config: PipelineConfig, asset: str) -> str:
    return f"{config.name}__{asset}"


def _duration(stats: Any) -> float:
    return round(stats.end_time - stats.start_time, 3) if stats and stats.end_time and stats.start_time else 0.0


def _resumed(config: PipelineConfig, result: dg.ExecuteInProcessResult) -> int:
    for event in result.asset_materializations_for_node(_op(config, "predictions")):
        if event.asset_key == asset_key(config, "predictions"):
            return int(event.metadata["resumed_chunks"].value)  # type: ignore[arg-type]
    return 0
