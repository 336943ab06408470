import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A Dagster project with an importable name of its own; gives its defs folder."""
    name = f"project_{abs(hash(request.node.nodeid))}"
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\ncode_location_name = "{name}"\n'
    )
    defs = tmp_path / name / "defs"
    defs.mkdir(parents=True)
    for folder in (defs, defs.parent):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BATCH_ASSETS_PROJECT", str(tmp_path))
    yield defs
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]
