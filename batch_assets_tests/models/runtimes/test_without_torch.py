"""Torch is one runtime of several: where it is not installed, the nights of the others go on."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from batch_assets_tests.models.runtimes import night

pytestmark = pytest.mark.process

BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


@pytest.mark.long
@pytest.mark.parametrize(("kind", "library"), [("lightgbm", "lightgbm"), ("onnx", "onnxruntime")])
def test_a_whole_night_without_torch(kind: str, library: str, tmp_path: Path) -> None:
    """Its workers and the process apart have no torch either."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", night.__name__, kind, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["bit_equal"] == night.ROWS, found
    assert found["audited"] > 0
    assert found["replayed"]
    assert found["torch"] == []
    assert found["versions"][library] == version(library)
    assert "torch" not in found["versions"]
    assert found["swept"] == f"{library}-{version(library)}"
    assert found["refused"] == [
        f"{name} needs torch, which is not installed: pip install 'batch-assets[torch]'." for name in ("the model", "night v2")
    ]
