"""The engine on Spark: the same values, whatever becomes of executors and however often Spark does a task."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pyspark
import pytest

from batch_assets.digest import Digest
from batch_assets.engines.engine import Engine, EngineSettings
from batch_assets.engines.spark_engine import SparkEngine
from batch_assets.errors import EngineError
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.score import score
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.engines import driver
from batch_assets_tests.engines.test_engines import EngineBehaviour, EngineDetails
from batch_assets_tests.faulty import Counted, Faulty
from batch_assets_tests.small import DAY, Small, Working, rows, with_values

pytestmark = pytest.mark.process

Make = Callable[..., Small]
SMALL_CHUNKS = {"scoring": {"chunk_rows": 64, "batch_size": 64}}
POISON = 77.0


@pytest.fixture(scope="module")
def shared_spark() -> Iterator[None]:
    """One session on this machine for many tests, that is there before an engine is asked."""
    engine = SparkEngine(EngineSettings(workers=2))
    engine.connect()
    yield
    engine.close()


class TestSparkEngine(EngineBehaviour):
    @pytest.fixture
    def engine(self, shared_spark: None) -> Engine:
        return SparkEngine(EngineSettings(kind="spark"))

    def test_the_model_is_loaded_once_in_each_worker(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        loads = small.storage.local_path("loads")
        run = small.opened(DAY)
        task = replace(run.task(), load=Counted(run.task().load, str(loads)))
        with engine.open(task, small.progress.say) as workers:
            assert len(list(workers.map(Scorer.score, run.plan[:4]))) == 4
            assert len(list(workers.map(Scorer.score, run.plan[4:]))) == 4
            assert workers.times().workers == len(loads.read_text().split()) <= 2

    def test_a_session_that_was_there_stays(self, engine: SparkEngine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        score(small.opened(DAY), engine, small.progress)
        engine.close()
        assert pyspark.SparkContext._active_spark_context is not None

    def test_a_row_that_kills_its_worker_ends_the_run_with_a_sentence(self, engine: Engine, make_small: Make) -> None:
        poisoned = Working(make_small(with_values(rows(256), "x", {200: POISON})))
        task = replace(poisoned.task, load=Faulty(poisoned.task.load, "kill", POISON))
        with (
            pytest.raises(EngineError, match=r"workers died at one of chunk-00000 .* `--engine ray` finds it"),
            engine.open(task, print) as workers,
        ):
            list(workers.map(Scorer.score, poisoned.run.plan))


@pytest.mark.long
class TestSparkEngineInDetail(EngineDetails):
    @pytest.fixture
    def engine(self, shared_spark: None) -> Engine:
        return SparkEngine(EngineSettings(kind="spark"))


def executors(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    found = []
    for one in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended, and nobody has asked for it yet
            found += [one] if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in one.cmdline() else []
    return found


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment in which Spark can start executors of this machine."""
    (tmp_path / "spark").mkdir()
    for name in ("bin", "jars"):
        (tmp_path / "spark" / name).symlink_to(Path(pyspark.__file__).parent / name)
    return {**os.environ, "SPARK_HOME": str(tmp_path / "spark")}


@pytest.mark.long
def test_slots_that_come_after_the_first_job_are_used(tmp_path: Path, home: dict[str, str], make_small: Make) -> None:
    """A session is there before its executors are, and says then that it has two slots."""
    table = with_values(rows(12_800), "x", dict.fromkeys(range(0, 12_800, 64), 0.0))
    there = Working(make_small(table, **SMALL_CHUNKS))
    (tmp_path / "slow").touch()
    work = tmp_path / "task"
    slow = replace(there.task, load=Faulty(there.task.load, "slow", 0.0, str(tmp_path / "slow")))
    work.write_bytes(pickle.dumps((slow, there.run.plan)))
    said = json.dumps({"kind": "spark", "master": "local-cluster[1,8,1024]"})
    command = [sys.executable, driver.__file__, str(work), said]
    done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=240, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["chunks"] == 200
    assert found["workers"] >= 8


@pytest.mark.long
def test_a_killed_executor_and_speculative_tasks_change_nothing(tmp_path: Path, home: dict[str, str], make_small: Make) -> None:
    """On two executors of this machine, each a process with one core."""
    table = with_values(rows(12_800), "x", dict.fromkeys(range(0, 12_800, 64), 0.0))
    there, alone = Working(make_small(table, **SMALL_CHUNKS)), Working(make_small(table, **SMALL_CHUNKS))
    slow = tmp_path / "slow"
    slow.touch()
    work = tmp_path / "task"
    work.write_bytes(pickle.dumps((replace(there.task, load=Faulty(there.task.load, "slow", 0.0, str(slow))), there.run.plan)))
    conf = {"spark.speculation": "true", "spark.speculation.multiplier": "1.01", "spark.speculation.quantile": "0.1"}
    said = json.dumps({"kind": "spark", "master": "local-cluster[2,1,1024]", "conf": conf})
    command = [sys.executable, driver.__file__, str(work), said]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=home) as process:
        while len(there.commits()) < 20 and process.poll() is None:
            time.sleep(0.05)
        victim = executors(process)[0]
        victim.kill()
        slow.unlink()
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr[-3_000:]
    found = json.loads(stdout.strip().splitlines()[-1])
    assert found["chunks"] == len(there.run.plan) == 200
    assert there.prove().rows == 12_800
    assert found["digest"] == sum((commit.values for commit in alone.score_all().values()), Digest()).hex()


@pytest.mark.long
def test_spark_listens_on_loopback_and_ends_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from batch_assets.engines.spark_engine import SparkEngine\n"
        "SparkEngine().connect()\n"
        "print('there', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "there\n"
        family = psutil.Process(driver.pid).children(recursive=True)
        listening = [one.laddr.ip for child in family for one in child.net_connections("inet") if one.status == "LISTEN"]
        driver.kill()
        _, living = psutil.wait_procs(family, timeout=30)
    assert living == []
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_without_java_it_is_a_sentence(tmp_path: Path) -> None:
    code = "from batch_assets.engines.spark_engine import SparkEngine\nSparkEngine().connect()"
    environment = {**os.environ, "PATH": str(tmp_path), "JAVA_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert "EngineError: Spark cannot be started (" in found.stderr.splitlines()[-1]
    assert found.stderr.splitlines()[-1].endswith("): it needs Java 17 or newer.")
