"""Scoring on Spark: the same work on the same chunks by `mapInArrow`, through which descriptors pass, and never a row.

Each row of the DataFrame is the number of a group of chunks. The Python worker that gets it reads the rows of these chunks
itself and commits them as everywhere, so what Spark does twice (a retry, a speculative task) has one winner. A job has a task
for each slot that there is when it begins; a few jobs are under way at once, so that no slot waits for the last task of a job,
what is done is known before all is, and Spark sees that it could use more executors.
"""

import os
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from batch_assets.engines.engine import IN_HAND, Engine, EngineSettings, Item, Named, Notice, Result, Spent, Workers, WorkTimes
from batch_assets.engines.node import Node
from batch_assets.engines.spark_worker import ANSWERS, Answer, Opening, Part
from batch_assets.errors import EngineError
from batch_assets.ports import extra
from batch_assets.scoring.scorer import Scorer, ScoringTask

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_JOBS = 3
"""Jobs that are under way at once."""

_STARTING = threading.Lock()
"""A process has one Spark: who asks for it while it is started waits."""


class SparkEngine(Engine):
    """Scores in the session that this process has, or in one that it starts; `close` ends only that."""

    def __init__(self, settings: EngineSettings | None = None) -> None:
        self._settings = settings or EngineSettings()
        self._started = ExitStack()

    @override
    @contextmanager
    def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> Iterator[Workers]:
        yield _Executors(task, self._settings, self.connect)

    def close(self) -> None:
        """Stop the session, if this object has started it."""
        self._started.close()

    def connect(self) -> "SparkSession":
        """The session of this process, started if there is none. Raises EngineError, MissingExtra."""
        pyspark = extra("pyspark", "spark", "engine: {kind: spark}")
        from pyspark.sql import SparkSession

        with _STARTING:
            if pyspark.SparkContext._active_spark_context is not None:
                return SparkSession.builder.getOrCreate()
            try:
                with _environment(self._settings.master), _no_word_of_pandas():
                    session = _builder(self._settings).getOrCreate()
            except (pyspark.errors.PySparkException, OSError, _java_error()) as error:
                raise EngineError(f"Spark cannot be started ({_in_short(error)}): it needs Java 17 or newer.") from error
            self._started.callback(session.stop)
            return session


class _Executors(Workers):
    """The Python workers of Spark's executors, for one task."""

    def __init__(self, task: ScoringTask, settings: EngineSettings, connect: "Callable[[], SparkSession]") -> None:
        self._opened = time.time()
        self._task, self._settings, self._connect = task, settings, connect
        self._opening: Opening | None = None
        self._workers: dict[str, tuple[Spent, float]] = {}

    @override
    def map(self, work: Callable[[Scorer, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        waiting: list[Named] = list(items)
        if not waiting:
            return
        session = self._connect()
        opening = self._opening = self._opening or _opening(session, self._task)
        name = f"batch-assets {opening.name}"
        running: set[Future[Sequence[Answer]]] = set()
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="spark") as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < _JOBS:
                        job = Part(opening, work, self._groups(session, waiting))
                        running.add(pool.submit(_done, _frame(session, job), job, name))
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from self._results(done)
            finally:
                if running:
                    session.sparkContext.cancelJobGroup(name)

    def _groups(self, session: "SparkSession", waiting: list[Named]) -> Sequence[Sequence[Named]]:
        """Take what one job does: a group for each slot. Executors may come and go meanwhile, so their number is asked anew."""
        slots = self._settings.workers or session.sparkContext.defaultParallelism
        in_hand = max(1, min(IN_HAND, len(waiting) // (2 * slots)))
        taken, waiting[:] = waiting[: slots * in_hand], waiting[slots * in_hand :]
        return [taken[first : first + in_hand] for first in range(0, len(taken), in_hand)]

    def _results(self, jobs: Iterable[Future[Sequence[Answer]]]) -> Iterator[Any]:
        for answer in (answer for job in jobs for answer in job.result()):
            self._workers[answer.worker] = (answer.spent, time.time())
            answer.node.require_time(self._opened)  # first: a bucket refuses who has a wrong clock
            if answer.error is not None:
                raise answer.error
            yield answer.result

    @override
    def times(self) -> WorkTimes:
        """Of each Python worker until its last answer; then it waits."""
        now, seconds = time.time(), dict[str, float]()
        for spent, last in self._workers.values():
            outside = {"start-up": max(0.0, spent.since - self._opened), "waiting": now - last}
            for stage, one in (*spent.seconds.items(), *outside.items()):
                seconds[stage] = seconds.get(stage, 0.0) + one
        count, wall = len(self._workers), now - self._opened
        received = sum(spent.received for spent, _ in self._workers.values())
        return WorkTimes(count, wall, count * wall, seconds, received, "Python workers of Spark")


def _opening(session: "SparkSession", task: ScoringTask) -> Opening:
    """The task goes to each executor once, however many jobs it takes."""
    return Opening(uuid.uuid4().hex, session.sparkContext.broadcast(task), Node.here(task))


def _frame(session: "SparkSession", job: Part) -> "DataFrame":
    """The answers of a job, to be collected."""
    count = len(job.groups)
    with _no_word_of_pandas():
        return session.range(0, count, 1, count).mapInArrow(job, ANSWERS)


def _done(frame: "DataFrame", job: Part, name: str) -> Sequence[Answer]:
    """One job, to its end. Raises EngineError."""
    import pickle

    from pyspark.errors import PySparkException

    frame.sparkSession.sparkContext.setJobGroup(name, "batch-assets", interruptOnCancel=True)
    try:
        rows = frame.collect()
    except (PySparkException, _java_error()) as error:
        raise EngineError(_why(error, [item for group in job.groups for item in group])) from error
    return [pickle.loads(row.answer) for row in rows]  # noqa: S301 - of our own workers, which run what we send them


def _why(error: Exception, items: Sequence[Named]) -> str:
    """The sentence about a job that Spark gave up."""
    if "Python worker exited unexpectedly" in str(error):
        return (
            f"Spark's Python workers died at one of {items[0].name} to {items[-1].name}, each time they were tried: if a row "
            "kills them, `--engine ray` finds it and goes on without it; else is there enough memory?"
        )
    return f"Spark could not score: {_in_short(error)}."


def _in_short(error: Exception) -> str:
    """The cause of an error of Spark's, without the traces in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line or "Exception: " in line]
    return (causes or lines or [type(error).__name__])[-1].rstrip(".")[:300]


@contextmanager
def _no_word_of_pandas() -> Iterator[None]:
    """Without PySpark's warning that pandas is newer than it knows; nothing of pandas is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _java_error() -> type[Exception]:
    from py4j.protocol import Py4JError

    return Py4JError  # type: ignore[no-any-return]


def _builder(settings: EngineSettings) -> Any:
    """What is said to Spark: of one on this machine that it is nobody else's, and what the pipeline says, which wins."""
    from pyspark.sql import SparkSession

    master = settings.master or f"local[{settings.workers or '*'}]"
    if master.startswith("local["):  # where it would try once
        master = f"{master.rstrip(']')},{settings.max_attempts}]"
    said = {"spark.app.name": "batch-assets", "spark.log.level": "FATAL", "spark.ui.showConsoleProgress": "false"}
    said["spark.task.maxFailures"] = str(settings.max_attempts)
    if master.startswith("local"):
        said |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
    builder: Any = SparkSession.builder
    for name, value in {**said, **settings.conf}.items():
        builder = builder.config(name, value)
    return builder.master(master)


@contextmanager
def _environment(master: str | None) -> Iterator[None]:
    """What Spark asks the environment for, while a session starts: executors of this machine listen on loopback only.

    They run this Python; on other machines, what PYSPARK_PYTHON says.
    """
    here = master is None or master.startswith("local")
    said = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable} if here else {}
    said = {name: value for name, value in said.items() if name not in os.environ}
    os.environ.update(said)
    try:
        yield
    finally:
        for name in said:
            del os.environ[name]
