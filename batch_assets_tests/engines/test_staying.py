"""Ray workers that stay for the next run, and leave when there is none."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.engines.ray_worker import Owner, Worker
from batch_assets.process import Process
from batch_assets.runs.chunks import Chunk
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.small import Small, Working, small_model

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("shared_ray")]

Make = Callable[..., Small]


def _pid(scorer: Scorer, chunk: Chunk) -> tuple[int, int]:
    """Who works, and which loaded model it works with."""
    return os.getpid(), id(scorer.predictor)


def _slow_pid(_: Scorer, __: Chunk) -> int:
    time.sleep(3.0)
    return os.getpid()


def _hang(scorer: Scorer) -> None:
    time.sleep(3600)


def workers_of(working: Working, **settings: object) -> set[tuple[int, int]]:
    engine = RayEngine(settings=EngineSettings.model_validate({"workers": 2, **settings}))
    with engine.open(working.task, str) as workers:
        return set(workers.map(_pid, working.run.plan))


def test_the_next_run_finds_them_with_the_model_loaded(small: Small) -> None:
    first = workers_of(Working(small), workers=1)  # of two, one may have begun too late to get a chunk
    assert workers_of(Working(small), workers=1) == first


@pytest.mark.long
def test_another_model_gets_other_workers_and_the_idle_ones_make_room(make_small: Make) -> None:
    one, other = (Working(make_small()) for _ in range(2))
    other.small.register("v2", small_model((3.0, 2.0, 1.0)))
    before = workers_of(one)
    assert len(before) <= 2
    started = time.monotonic()
    after = workers_of(Working(other.small))
    assert not {pid for pid, _ in before} & {pid for pid, _ in after}
    assert time.monotonic() - started < 60, "two CPUs, both held by workers of the first model"


@pytest.mark.long
def test_who_waits_for_a_place_gets_workers_that_another_run_releases(small: Small) -> None:
    """The cluster is full of another run's: their places would not be free before they have been idle for minutes."""
    working, first = Working(small), set[int]()
    engine = RayEngine(settings=EngineSettings(workers=2))
    with ThreadPoolExecutor(1) as pool:
        with engine.open(working.task, str) as workers:
            results = workers.map(_slow_pid, working.run.plan)
            first.add(next(results))
            later = pool.submit(workers_of, Working(small), stall_seconds=60.0)
            first |= set(results)
        assert {pid for pid, _ in later.result(timeout=120)} <= first


@pytest.mark.long
def test_they_leave_when_nobody_comes(small: Small) -> None:
    import ray

    workers_of(Working(small), keep_seconds=0.5)
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ray.available_resources().get("CPU") == 2.0


@pytest.mark.long
def test_they_are_not_kept_where_that_is_not_wanted(small: Small) -> None:
    assert not {pid for pid, _ in workers_of(Working(small), keep_seconds=0)} & {
        pid for pid, _ in workers_of(Working(small), keep_seconds=0)
    }


class TestWhoIsServed:
    """The rules of a worker, without Ray."""

    def test_one_at_a_time(self, small: Small) -> None:
        task = Working(small).task
        me, you = (Owner(Process.current(), crew, "") for crew in ("me", "you"))
        worker = Worker(0.0, me, task)
        assert not worker.engage(you, task)
        assert not worker.leave()
        worker.release(you)
        assert not worker.engage(you, task), "only its owner can release it"
        worker.release(me)
        assert worker.engage(you, task)

    def test_whoever_died_is_served_no_more(self, small: Small) -> None:
        task = Working(small).task
        dead = Owner(Process(Process.current().host, 2**22 - 1, 0.0), "dead", "")
        worker = Worker(0.0, dead, task)
        assert worker.engage(Owner(Process.current(), "me", ""), task)

    def test_whoever_works_for_the_dead_ends_itself(self, small: Small) -> None:
        """Else it would keep its place in the cluster, and the run that is tried again would wait for one."""
        import ray

        dead = Owner(Process(Process.current().host, 2**22 - 1, 0.0), "dead", "")
        worker = ray.remote(num_cpus=0)(Worker).remote(3600.0, dead, Working(small).task)  # others may stay on all of them
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(worker.work.remote(_hang), timeout=240)

    def test_the_model_is_loaded_once(self, small: Small) -> None:
        working = Working(small)
        me, you = (Owner(Process.current(), crew, "") for crew in ("me", "you"))
        worker = Worker(0.0, me, working.task)
        first = worker.work(_pid, working.run.plan[0])
        worker.release(me)
        worker.engage(you, working.task)
        assert worker.work(_pid, working.run.plan[0]) == first
