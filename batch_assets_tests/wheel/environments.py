"""Environments with the wheel: a real one, which takes minutes to install, and one that borrows what is installed here."""

import os
import shutil
import subprocess
import sys
import sysconfig
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from batch_assets_tests.conftest import PROJECT

EXTRAS = {
    "torch": ("torch", "torchgen", "functorch", "safetensors", "triton", "nvidia"),
    "lightgbm": ("lightgbm",),
    "s3": ("obstore",),
}
"""What each of some extras brings, as it lies in an environment."""


def built_wheel(folder: Path) -> Path:
    """The wheel of this very source."""
    isolated = [] if find_spec("hatchling") is None else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolated, "--wheel-dir", str(folder)]
    subprocess.run([*command, str(PROJECT)], check=True)
    (wheel,) = folder.glob("batch_assets-*.whl")
    return wheel


class Environment(ABC):
    """A virtual environment in a folder, with the wheel and what it always needs."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.wheel, self.python = folder, wheel, str(folder / "bin" / "python")

    @abstractmethod
    def add(self, extra: str) -> None:
        """Install one of `EXTRAS`."""


class RealEnvironment(Environment):
    """All of it from the package index, as `pip install batch-assets` does, in the versions of constraints.txt."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        super().__init__(folder, wheel)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self._install(str(wheel))

    @override
    def add(self, extra: str) -> None:
        self._install(f"{self.wheel}[{extra}]")

    def size(self) -> str:
        """What it takes on disk."""
        return subprocess.run(["du", "-sh", str(self.folder)], check=True, capture_output=True, text=True).stdout.split()[0]

    def _install(self, what: str) -> None:
        constraints = str(PROJECT / "constraints.txt")
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", "--constraint", constraints, what], check=True)


class BorrowedEnvironment(Environment):
    """The wheel, really installed; everything else is linked from the environment of this process, the extras when asked for.

    It replaces the download: what is not linked is as absent as if it had never been installed. It does not notice a library
    that is used but not among the wheel's requirements, as all that is here is linked; the real environment does.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        super().__init__(folder, wheel)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self._lent = Path(sysconfig.get_path("purelib"))
        self._ours = folder / self._lent.relative_to(sys.prefix)
        for path in self._lent.iterdir():
            if self._extra_of(path.name) is None and path.suffix != ".pth" and not path.name.startswith(("batch_assets", "__")):
                (self._ours / path.name).symlink_to(path)
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel)], check=True)
        program = Path(sys.executable).with_name("dg").read_text().split("\n", 1)[1]
        (folder / "bin" / "dg").write_text(f"#!{self.python}\n{program}")
        shutil.copymode(Path(sys.executable).with_name("dg"), folder / "bin" / "dg")

    @override
    def add(self, extra: str) -> None:
        for path in self._lent.iterdir():
            if self._extra_of(path.name) == extra:
                (self._ours / path.name).symlink_to(path)

    @staticmethod
    def _extra_of(name: str) -> str | None:
        package = os.path.normcase(name).partition("-")[0].partition(".")[0]
        brought = (extra for extra, names in EXTRAS.items() if package in names or package.startswith(f"{names[0]}_"))
        return next(brought, None) if not package.startswith("nvidia") else "torch"
