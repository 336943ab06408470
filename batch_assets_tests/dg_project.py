"""A new project as `create-dagster project` makes it, and commands in it as a person types them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

PYPROJECT = """[project]
name = "theirs"
version = "0.1.0"
requires-python = ">=3.11"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "theirs"
"""
DEFINITIONS = """from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


class DgProject:
    """A folder with the few files of a new project; its programs are those beside a Python."""

    def __init__(self, root: Path, python: str = sys.executable, path: tuple[str, ...] = tuple(sys.path)) -> None:
        self.root, self.defs, self._programs = root, root / "src" / "theirs" / "defs", Path(python).parent
        self.defs.mkdir(parents=True)
        (root / "pyproject.toml").write_text(PYPROJECT)
        (self.defs.parent / "definitions.py").write_text(DEFINITIONS)
        for folder in (self.defs, self.defs.parent):
            (folder / "__init__.py").touch()
        ours = ("DAGSTER_HOME", "BATCH_ASSETS_ROOT", "BATCH_ASSETS_MODELS", "BATCH_ASSETS_PROJECT", "RAY_ADDRESS", "PYTHONPATH")
        self.environment = {name: value for name, value in os.environ.items() if name not in ours}
        self.environment |= {"PYTHONPATH": os.pathsep.join((str(root / "src"), *path))}
        self.environment |= {"VIRTUAL_ENV": str(self._programs.parent), "DAGSTER_DISABLE_TELEMETRY": "1", "COLUMNS": "200"}

    def tried(self, command: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """What came of a command line, whose program is one of the environment's."""
        program, *arguments = shlex.split(command)
        return subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=folder or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def do(self, command: str, folder: Path | None = None) -> str:
        """What a command that succeeds prints."""
        done = self.tried(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, command: str) -> str:
        """What a command that does not succeed says of it."""
        done = self.tried(command)
        assert done.returncode != 0, f"{command}\n{done.stdout}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr
