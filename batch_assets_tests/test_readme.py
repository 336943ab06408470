"""The README is followed to the letter: what it shows is run, in a copy of the project."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets_tests.conftest import PROJECT

pytestmark = pytest.mark.process

README = (PROJECT / "README.md").read_text()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project without its data, whose package is imported instead of the installed one."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "batch_assets", copy / "batch_assets", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", copy)
    (copy / ".dagster_home").mkdir()
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", copy / ".dagster_home")
    (copy / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return copy


def blocks(section: str, language: str) -> list[str]:
    """The fenced blocks of a section in one language; "" for those without."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    found, fence = [], None
    for line in text.splitlines():
        if fence is None and line.startswith("```"):
            fence, lines = line.removeprefix("```"), []
        elif line == "```":
            if fence == language:
                found.append("\n".join(lines) + "\n")
            fence = None
        elif fence is not None:
            lines.append(line)
    return found


def test_your_own_data(project: Path) -> None:
    for program in blocks("Your own data", "python"):
        name = program.splitlines()[0].removeprefix("# ")
        (project / name).write_text(program)
    folder = project / "batch_assets" / "defs" / "churn"
    folder.mkdir()
    (folder / "features.sql").write_text(*blocks("Your own data", "sql"))
    (folder / "defs.yaml").write_text(*blocks("Your own data", "yaml"))
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "BATCH_ASSETS_ROOT")}
    environment["PYTHONPATH"] = str(project)
    (commands,) = blocks("Your own data", "")
    outputs = []
    for line in commands.strip().splitlines():
        done = subprocess.run(shlex.split(line), cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stderr
        outputs.append(done.stdout)
    assert "churn v1 is registered" in outputs[2]
    assert "Approval 1: churn v1 for batch." in outputs[3]
    assert "5,000 in = 5,000 scored" in outputs[4]
    assert "FAIL" not in outputs[4]
    assert "churn v1" in outputs[4]
    assert "user_id" in outputs[5]
    assert (project / "data" / "churn" / "serving" / "_current" / "000001.json").exists()


def test_the_summary_has_the_lines_that_are_explained() -> None:
    (shown,) = (block for block in blocks("What the summary means", "") if "published_matches" in block)
    names = re.findall(r"^ check (\w+)", shown, flags=re.MULTILINE)
    explained = re.findall(r"^\| (\w+) \|", README.split("## What the summary means")[1], flags=re.MULTILINE)
    assert set(names) <= set(explained)


def test_every_command_that_is_named_exists() -> None:
    verbs = set(re.findall(r"bin/batch-assets ([a-z-]+(?: list| show| replay| diff| approve| register)?)", README))
    for verb in verbs:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "batch-assets"), *verb.split(), "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0, verb
    targets = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)) | set(re.findall(r"`make (\w+)`", README))
    makefile = (PROJECT / "Makefile").read_text()
    assert all(f"\n{target}: " in makefile for target in targets)
