"""Servers that Java runs, from jars that Maven brings: `<name>.pom.xml` asks for them, `<name>.sha256` says what must come."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import ClassVar

from batch_assets_tests.servers.server import Server

HERE = Path(__file__).parent

QUICK = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
)
"""What a server needs that lives for a minute: the quick compiler and the small collector cost it a third less to start."""


class JarServer(Server):
    """A server of jars: what all of them share is where those are, and Java."""

    jars: ClassVar[str]
    """What its two files here and the folder of its jars are called."""

    @classmethod
    def missing(cls) -> bool:
        return java() is None or not cls.brought().exists()

    @classmethod
    def pom(cls) -> Path:
        """What Maven is asked for."""
        return HERE / f"{cls.jars}.pom.xml"

    @classmethod
    def brought(cls) -> Path:
        """The folder where `fetch.py` puts the jars."""
        return HERE.parent.parent / ".servers" / cls.jars

    @classmethod
    def listed(cls) -> dict[str, str]:
        """The jars that there have to be: SHA-256 by name."""
        lines = (HERE / f"{cls.jars}.sha256").read_text().splitlines()
        return {name: digest for digest, name in map(str.split, lines)}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by name of what is in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def java() -> str | None:
    """The program of the environment's JAVA_HOME, or else of the PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
