"""The short way of `make wheel-test`: the wheel is installed, what it needs is borrowed from here, and torch is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.wheel.environments import BorrowedEnvironment, built_wheel
from batch_assets_tests.wheel.walk import begin, first_night, missing, nothing_to_train_with

pytestmark = pytest.mark.process


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the steps saw, printed if one of them fails."""
    sentences: list[str] = []
    yield sentences
    print(*sentences, sep="\n")


@pytest.mark.long
def test_a_night_without_torch(tmp_path: Path, said: list[str]) -> None:
    environment = BorrowedEnvironment(tmp_path / "environment", built_wheel(tmp_path))
    project = DgProject(tmp_path / "project", environment.python, ())
    begin(project, said.append)
    nothing_to_train_with(project, said.append)
    environment.add("lightgbm")
    first_night(project, "churn", "lightgbm", said.append)
    missing(project, tmp_path, said.append)
