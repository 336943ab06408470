"""Ray workers that die, hang or kill themselves on a row: nothing is lost, and the row is found."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batch_assets.engines import ray_crew, ray_hand
from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.errors import EngineError, ModelFails
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import ChunkCommit
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.engines import driver
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import Small, Working, rows, with_values

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("shared_ray")]

Make = Callable[..., Small]
POISON = 77.0


@pytest.fixture
def poisoned(make_small: Make) -> Working:
    """Row 700, in chunk 2, has a value at which the faulty models stumble."""
    return Working(make_small(with_values(rows(2_000), "x", {700: POISON})))


SMALL_CHUNKS = {"scoring": {"chunk_rows": 16, "batch_size": 64}}
"""Each halving of a chunk costs a worker, and a worker some seconds."""


def score(working: Working, **settings: Any) -> tuple[dict[int, ChunkCommit], list[str]]:
    said: list[str] = []
    engine = RayEngine(settings=EngineSettings(**{"workers": 2, **settings}))
    with engine.open(working.task, said.append) as workers:
        return {commit.number: commit for commit in workers.map(Scorer.score, working.run.plan)}, said


def with_fault(working: Working, fault: str, flag: Path | None = None) -> Working:
    if flag:
        flag.touch()
    working.task = replace(working.task, load=Faulty(working.task.load, fault, POISON, str(flag or "")))
    return working


def everybody(working: Working) -> list[dict[str, Any]]:
    names = [working.path(chunk.number) for chunk in working.run.plan]
    return [row for path in names for row in pq.read_table(path, columns=["user", "probability"]).to_pylist()]


def test_what_a_dead_worker_had_in_hand_is_scored_by_another(poisoned: Working, tmp_path: Path, make_small: Make) -> None:
    healthy = Working(make_small(with_values(rows(2_000), "x", {700: POISON})))
    healthy.score_all()
    commits, said = score(with_fault(poisoned, "kill once", tmp_path / "flag"))
    assert len(commits) == 8
    assert any("A worker was lost with " in line for line in said)
    assert (commits[2].attempt, min(commit.attempt for commit in commits.values())) == (2, 1)
    assert everybody(poisoned) == everybody(healthy)
    assert poisoned.prove().rows == 2_000


@pytest.mark.long
def test_a_worker_that_hangs_is_replaced(poisoned: Working, tmp_path: Path) -> None:
    commits, said = score(with_fault(poisoned, "stop once", tmp_path / "flag"), stall_seconds=2.0)
    assert len(commits) == 8
    assert any("made no progress" in line for line in said)
    assert poisoned.prove().rows == 2_000


@pytest.mark.parametrize("fault", ["kill", pytest.param("lose the device", marks=pytest.mark.long)])
def test_a_row_that_kills_its_worker_is_found_and_dead_lettered(make_small: Make, fault: str) -> None:
    poisoned, healthy = (Working(make_small(with_values(rows(125), "x", {40: POISON}), **SMALL_CHUNKS)) for _ in range(2))
    healthy.score_all()
    commits, said = score(with_fault(poisoned, fault))
    assert len(commits) == 8
    assert commits[2].attempt > 2
    (letter,) = poisoned.rejects()
    assert (letter["user"], letter["row"], letter["kind"]) == (41, 40, "dead_letter")
    assert letter["reason"] == "the row kills or hangs the worker that scores it"
    assert any(f"Row {40 - 32} of chunk-00002 kills" in line for line in said)
    assert everybody(poisoned) == [row for row in everybody(healthy) if row["user"] != 41]
    assert poisoned.prove().rows == 125


@pytest.mark.long
def test_several_rows_of_a_chunk_that_kill_are_all_found(make_small: Make) -> None:
    working = Working(make_small(with_values(rows(40), "x", {3: POISON, 5: POISON, 13: POISON}), **SMALL_CHUNKS))
    commits, _ = score(with_fault(working, "kill"))
    assert [commit.dead_lettered for _, commit in sorted(commits.items())] == [3, 0, 0]
    assert {letter["row"] for letter in working.rejects()} == {3, 5, 13}


@pytest.mark.long
def test_a_row_that_hangs_its_worker_is_found_like_one_that_kills_it(make_small: Make) -> None:
    poisoned = Working(make_small(with_values(rows(125), "x", {40: POISON}), **SMALL_CHUNKS))
    commits, _ = score(with_fault(poisoned, "stop"), stall_seconds=4.0)
    assert len(commits) == 8
    assert [letter["row"] for letter in poisoned.rejects()] == [40]


@pytest.mark.long
def test_a_worker_that_was_idle_for_long_is_not_stalled(poisoned: Working) -> None:
    said: list[str] = []
    with RayEngine(settings=EngineSettings(workers=2, stall_seconds=1.5)).open(poisoned.task, said.append) as workers:
        assert len(list(workers.map(Scorer.score, poisoned.run.plan[:4]))) == 4
        time.sleep(2.0)
        assert len(list(workers.map(Scorer.score, poisoned.run.plan[4:]))) == 4
    assert said == []


@pytest.mark.long
def test_workers_that_die_while_they_load_the_model_say_so(poisoned: Working) -> None:
    with pytest.raises(EngineError, match="5 workers were lost before they had loaded the model"):
        score(with_fault(poisoned, "kill at load"))


@pytest.mark.long
def test_a_worker_that_never_ends_to_load_the_model_is_replaced(
    poisoned: Working, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_hand, "_START_SECONDS", 0.0)
    commits, said = score(with_fault(poisoned, "stop at load once", tmp_path / "flag"), workers=1, stall_seconds=10.0)
    assert len(commits) == 8
    assert any(line.startswith("A worker has been loading the model for ") for line in said)


@pytest.mark.long
def test_a_model_that_kills_whatever_it_is_given_is_not_looked_for_row_by_row(make_small: Make) -> None:
    working = Working(make_small(rows(100_000), scoring={"chunk_rows": 65_536, "batch_size": 64}))
    sentence = r"^Rows 0, 1, 2, 3, 4 of chunk-\d+ kill the worker .*, and so does the first one of its last batch: it is the"
    with pytest.raises(EngineError, match=sentence):
        score(with_fault(working, "kill whatever it is"))


@pytest.mark.long
def test_workers_that_rays_memory_monitor_ends_are_lost_ones(poisoned: Working, tmp_path: Path) -> None:
    """Here it ends all of them, as for it the machine is full."""
    path = tmp_path / "task.pickle"
    path.write_bytes(pickle.dumps((poisoned.task, poisoned.run.plan)))
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100", "RAY_ADDRESS": ""}
    command = [sys.executable, driver.__file__, str(path), '{"kind": "ray", "max_attempts": 2}']
    done = subprocess.run(command, env={**os.environ, **full}, capture_output=True, text=True, timeout=240, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert "workers were lost before they had loaded the model: is there enough memory for it" in found["error"], found
    assert any(line.startswith("A worker was lost with ") for line in found["said"])


@pytest.mark.long
def test_a_chunk_that_loses_every_worker_is_named_in_the_end(poisoned: Working) -> None:
    with pytest.raises(EngineError, match=r"chunk-.* was given up after 2 attempts"):
        score(with_fault(poisoned, "kill"), max_attempts=2)
    assert 2 not in poisoned.commits()


def test_what_the_model_says_comes_out_as_itself(make_small: Make) -> None:
    working = Working(make_small(with_values(rows(600), "x", dict.fromkeys(range(256), POISON))))
    with pytest.raises(ModelFails, match="whole first batch of chunk-00000"):
        score(with_fault(working, "broken weights"))


@pytest.mark.long
def test_idle_workers_are_let_go_while_others_work(poisoned: Working, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow chunk: the worker without work leaves, so that its place in the cluster is free."""
    import ray

    monkeypatch.setattr(ray_crew, "_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(ray_crew, "_TICK_SECONDS", 0.1)
    slow: list[Chunk] = [poisoned.run.plan[2], poisoned.run.plan[3]]
    with RayEngine(settings=EngineSettings(workers=2, keep_seconds=0)).open(poisoned.task, str) as workers:
        free = set()
        for _ in workers.map(_slowly, slow):
            free.add(ray.available_resources().get("CPU", 0.0))
        assert 1.0 in free


def _slowly(scorer: Scorer, chunk: Chunk) -> int:
    time.sleep(4.0 if chunk.number == 2 else 0.0)
    return chunk.number
