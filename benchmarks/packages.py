"""Packages of a subject that cannot be installed beside the project's: a folder of their own, which its process alone sees."""

import subprocess
import sys
import tempfile
from pathlib import Path

OWN = {"daft": ("daft==0.7.26", "pyarrow==25.0.1", "tqdm==4.67.3")}
"""Daft asks for a pyarrow and a tqdm that are older than the project's. What else it needs is the project's, torch included."""


def of(subject: str, data: Path) -> Path | None:
    """The folder of a subject's own packages in the data folder, where pip puts them at first; None if it has none."""
    if subject not in OWN:
        return None
    own = OWN[subject]
    folder = data / "-".join(["packages", *own, "python", *map(str, sys.version_info[:2])])
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=data) as scratch:
            target = Path(scratch, "packages")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*pip, *own], check=True)  # noqa: S603 - our own pins
            target.rename(folder)
    return folder
