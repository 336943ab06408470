"""What the package offers by name, what that costs, and that its own example is true."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import batch_assets
from batch_assets_tests.small import Small

NAMES = [
    "AsyncReader",
    "BatchAssetsError",
    "Binary",
    "Classes",
    "Head",
    "Reader",
    "Runtime",
    "ScoringPipeline",
    "Source",
    "Store",
    "Value",
    "explain",
    "export_model",
    "make_card",
    "open_storage",
    "pipeline",
    "predict_scores",
]
HEAVY = {"dagster", "ray", "torch", "pandas", "duckdb", "great_expectations", "scipy", "matplotlib"}


def loaded(program: str, **environment: str) -> set[str]:
    """What is imported by whoever runs a program."""
    program = f"{program}\nimport sys; print('modules', *sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return set(done.stdout.splitlines()[-1].split())


def test_the_names_are_these_and_each_is_what_it_says() -> None:
    assert batch_assets.__all__ == NAMES
    assert set(NAMES) < set(dir(batch_assets))
    for name in NAMES:
        assert getattr(batch_assets, name).__name__ == name
    told = re.findall(r"^\| (`.*?`) \|", batch_assets.__doc__ or "", flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(told))) == NAMES
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        batch_assets.Nothing  # noqa: B018


@pytest.mark.process
def test_nothing_is_imported_before_it_is_needed() -> None:
    bare = loaded("")
    new = loaded("import batch_assets") - bare
    assert {name for name in new if name.startswith("batch_assets")} == {"batch_assets"}
    assert not new & {*HEAVY, "numpy", "pyarrow", "pydantic"}
    light = [name for name in NAMES if name != "ScoringPipeline"]
    assert not loaded(f"from batch_assets import {', '.join(light)}") & HEAVY


@pytest.mark.night
def test_its_example_is_true(
    make_small: Callable[..., Small], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_small(name="churn")
    small.night()
    (tmp_path / "data").symlink_to(small.storage.root)
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^ {4}(.*)$", batch_assets.__doc__ or "", flags=re.MULTILINE)
    exec("\n".join(lines), {})
    assert 0 < float(capsys.readouterr().out) < 1


@pytest.mark.process
def test_a_look_up_waits_for_no_more_than_it_needs(make_small: Callable[..., Small]) -> None:
    """Under half a second is for the interpreter, click, numpy, Arrow and pydantic; all else would be on top."""
    small = make_small()
    small.night()
    program = "from batch_assets.cli import main; main(['lookup', 'small', '42', '--json'], standalone_mode=False)"
    found = loaded(program, BATCH_ASSETS_ROOT=small.storage.root)
    assert "batch_assets.serving.arrow_table" in found
    assert not found & {*HEAVY, "pyarrow.compute", "pyarrow.parquet", "jinja2", "rich.console", "batch_assets.config"}
