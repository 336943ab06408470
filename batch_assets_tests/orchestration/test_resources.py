"""Who connects to Ray, and when."""

import os
import subprocess
import sys

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
