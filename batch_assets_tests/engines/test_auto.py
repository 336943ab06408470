"""The engine of a night for which nobody says one: what it takes, when it changes its mind, and a process that dies."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from batch_assets.config import PipelineConfig
from batch_assets.engines import auto_engine
from batch_assets.engines.auto_engine import AutoEngine
from batch_assets.engines.engine import Engine, EngineSettings
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import Scored, score
from batch_assets.scoring.scorer import ScoringTask
from batch_assets.storage import open_storage
from batch_assets_tests.engines.test_engines import EngineBehaviour, Make
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import DAY, Quiet, Small, rows, with_values

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("shared_ray")]

POISON = 77.0


def auto(*, cluster: bool = False) -> AutoEngine:
    return AutoEngine(LocalEngine(2), RayEngine(settings=EngineSettings(workers=2)), cluster=cluster)


class TestAutoEngine(EngineBehaviour):
    @pytest.fixture
    def engine(self) -> Engine:
        return auto()


@pytest.mark.long
class TestAutoEngineWithACluster(EngineBehaviour):
    @pytest.fixture
    def engine(self) -> Engine:
        return auto(cluster=True)


def scored(small: Small, engine: Engine) -> Scored:
    freeze(small.config, small.storage, DAY, small.progress)
    return score(small.opened(DAY), engine, small.progress)


def test_short_work_is_done_by_threads(small: Small) -> None:
    assert scored(small, auto()).manifest.work.engine == "threads of one process, because the work is short"


@pytest.mark.long
def test_a_cluster_that_is_named_is_taken(small: Small) -> None:
    assert scored(small, auto(cluster=True)).manifest.work.engine == "workers of Ray, because a cluster is named"


@pytest.mark.long
def test_ray_takes_over_what_would_take_threads_long(make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"scoring": {"chunk_rows": 64, "batch_size": 64}}
    small, other = make_small(**many), make_small(**many)
    expected = scored(other, LocalEngine()).manifest
    monkeypatch.setattr(auto_engine, "LONG_SECONDS", 0.0)
    found = scored(small, auto()).manifest
    assert found.values == expected.values
    assert found.work.engine.startswith("threads of one process, then workers of Ray, because the rest would take ")
    assert any(said.startswith("Ray scores from now on, because the rest would take ") for said in small.progress.said)
    done = [done for stage, done, _ in small.progress.seen if stage == "scoring"]
    assert (done[0], done[-1]) == (0, 2_000)
    assert done == sorted(done)


@contextmanager
def poisoned() -> Iterator[None]:
    """For the time of the block the row with the value POISON kills the process that scores it."""

    real = Night.task

    def task(night: Night) -> ScoringTask:
        whole = real(night)
        return replace(whole, load=Faulty(whole.load, "kill", POISON))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Night, "task", task)
        yield


def score_poisoned(config: PipelineConfig, root: str) -> Scored:
    storage = open_storage(root)
    with poisoned():
        return score(Night.open(config, storage, DAY, Registry(storage).resolve(config.model)), auto(), Quiet())


@pytest.mark.long
def test_a_row_that_kills_the_process_is_found_by_the_run_that_resumes(make_small: Make) -> None:
    settings = {"scoring": {"chunk_rows": 4, "batch_size": 64}}
    table = with_values(rows(40), "x", {10: POISON})
    small, healthy = make_small(table, **settings), make_small(table, **settings)
    expected = scored(healthy, LocalEngine())
    freeze(small.config, small.storage, DAY, small.progress)
    asked = (small.config, str(small.storage.root))
    process = multiprocessing.get_context("spawn").Process(target=score_poisoned, args=asked)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = score_poisoned(*asked)
    assert found.manifest.work.engine == "workers of Ray, because a process died while it scored this run"
    assert (found.manifest.run_id, found.manifest.rows) == (expected.manifest.run_id, 40)
    assert (found.manifest.scored, found.manifest.dead_lettered) == (39, 1)
