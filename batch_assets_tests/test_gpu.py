"""The kit that checks a GPU, tried on a CPU: it needs no Dagster and no Ray, and claims nothing about a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import batch_assets

pytestmark = pytest.mark.process

KIT = Path(batch_assets.__file__).parent.parent / "benchmarks" / "gpu.py"

BARE = '''
import sys

class Bare:
    """Finds what a finder finds, but for some packages: as if they were not installed."""

    missing = {
        "click", "dagster", "dagster_shared", "duckdb", "great_expectations", "lmdb", "matplotlib", "pandas", "psutil", "ray",
        "rich", "safetensors", "scipy", "yaml",
    }

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
'''


def kit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the kit does where only torch, numpy, pydantic and pyarrow are installed, in its processes too."""
    (folder / "sitecustomize.py").write_text(BARE)
    environment = {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(KIT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.long
def test_every_check_that_a_cpu_can_run_passes_and_the_others_say_that_they_were_not_run(tmp_path: Path) -> None:
    done = kit(tmp_path, "--device", "cpu", "--quick", "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["note"] == "These are results of a CPU: they say nothing about a GPU."
    assert report["note"] in done.stdout
    assert report["machine"]["device"] == "cpu"
    assert "gpu" not in report["machine"]
    results = {line["check"]: line["result"] for line in report["checks"]}
    for name in ("bits, transformer", "bfloat16, mlp", "sweep", "poison", "an assertion in a kernel"):
        assert results.pop(name) == "pass"
    for name in ("tf32, mlp", "out of memory in a night", "copies beside work", "peak memory, mlp", "onnxruntime on a GPU"):
        assert results.pop(name) == "not run"
    assert results["two workers on one device"] == results["rates, mlp"] == "measured"
    table = done.stdout.splitlines()[2:]
    assert len(table) == 1 + len(report["checks"])
    assert len({len(line) for line in table}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_without_a_gpu_nothing_is_claimed(tmp_path: Path) -> None:
    done = kit(tmp_path)
    assert (done.returncode, done.stdout) == (2, "There is no GPU here that torch can use, so nothing was checked.\n")
