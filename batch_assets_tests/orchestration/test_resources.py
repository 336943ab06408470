"""Who connects to Ray, and when."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets_tests.conftest import PROJECT

pytestmark = pytest.mark.process

AHEAD = """
import ray
from batch_assets.demo.train import PIPELINE
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.errors import EngineError
from batch_assets.orchestration.catalog import pipeline
from batch_assets.orchestration.resources import connecting

with connecting(pipeline(PIPELINE), "ENGINE"):
    try:
        print("made here:", bool(RayEngine(ADDRESS).connect()))
    except EngineError as error:
        print(error)
print("left:", ray.is_initialized())
"""


def said(engine: str, address: str = "") -> list[str]:
    """What a process says that scores while Ray is begun, or not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    code = AHEAD.replace("ENGINE", engine, 1).replace("ADDRESS", repr(address))
    environment |= {"RAY_ADDRESS": address} if address else {}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


def test_who_scores_waits_for_the_ray_that_was_begun_before() -> None:
    assert said("ray") == ["made here: False", "left: False"]


def test_none_is_begun_where_threads_may_do() -> None:
    assert said("auto")[0] == "made here: True"


def test_who_scores_is_told_why_none_can_be_had() -> None:
    told, left = said("auto", "127.0.0.1:9")
    assert told.startswith("Ray cannot be reached at 127.0.0.1:9: ") or "Nobody answers at the Ray address 127.0.0.1:9" in told
    assert left == "left: False"


def test_the_client_mode_of_ray_is_refused_in_a_sentence() -> None:
    told, left = said("ray", "ray://127.0.0.1:10001")
    assert told.startswith("ray://127.0.0.1:10001 is the address of Ray's client mode, through which workers can be neither ")
    assert left == "left: False"


THEIRS = """
import sys
from pathlib import Path
from pathlib import Path

import dagster as dg
import ray
from dagster_ray import LocalRay

from batch_assets.orchestration.component import definitions
from batch_assets_tests.small import DAY, Small, rows, small_model

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    small = Small(folder, rows(600), small_model(), engine={"kind": "ray", "resource": "their_ray"})
    ours = definitions(small.config)
    theirs = dg.Definitions.merge(ours, dg.Definitions(resources={"their_ray": LocalRay()}))
    done = theirs.resolve_job_def("small").execute_in_process(partition_key=DAY, instance=dg.DagsterInstance.ephemeral())
    (made,) = done.asset_materializations_for_node("small__predictions")
    print("engine:", made.metadata["engine"].value, "rows:", made.metadata["input_rows"].value)
"""


@pytest.mark.long
def test_a_resource_of_the_projects_own_connects_ray(tmp_path: Path) -> None:
    """dagster-ray's LocalRay, as its users have it."""
    script = tmp_path / "theirs.py"
    script.write_text(THEIRS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"BATCH_ASSETS_ROOT": str(tmp_path / "root"), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert "engine: workers of Ray rows: 600" in done.stdout, done.stderr[-3_000:]
