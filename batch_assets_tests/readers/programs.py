"""Programs of others that read what a night has made: node with two packages, and Feast in an environment of its own.

`make servers` brings them; a test whose program is missing is skipped with a sentence.
"""

import shutil
from pathlib import Path
from typing import ClassVar

from batch_assets_tests.servers import ServerMissing
from batch_assets_tests.servers.server import MAKE

HERE = Path(__file__).parent
BROUGHT = HERE.parent.parent / ".servers"


class Node:
    """node, and what package-lock.json names: Arrow's JavaScript, and a client of Redis."""

    packages: ClassVar[Path] = BROUGHT / "node"

    @classmethod
    def missing(cls) -> bool:
        """Whether this machine lacks node, or has other packages than are locked."""
        there, locked = cls.packages / "package-lock.json", HERE / "package-lock.json"
        same = there.exists() and there.read_bytes() == locked.read_bytes()
        return shutil.which("node") is None or not same or not (cls.packages / "node_modules").exists()

    @classmethod
    def require(cls) -> None:
        """Raises `ServerMissing` if this machine lacks something of it."""
        if cls.missing():
            raise ServerMissing(f"needs node 20 or newer, and packages for it: {MAKE}")


class Feast:
    """Feast, whose pins do not allow our pandas."""

    version: ClassVar[str] = "0.67.0"
    environment: ClassVar[Path] = BROUGHT / "feast"

    @classmethod
    def missing(cls) -> bool:
        """Whether this machine lacks it, or has another version."""
        return not list(cls.environment.glob(f"lib/python*/site-packages/feast-{cls.version}.dist-info"))

    @classmethod
    def require(cls) -> None:
        """Raises `ServerMissing` if this machine lacks it."""
        if cls.missing():
            raise ServerMissing(f"needs Feast {cls.version}: {MAKE}")
