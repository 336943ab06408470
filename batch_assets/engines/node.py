"""What a node scores with. All that work on one run see the same storage root, have the same code and libraries, and one time.

A node that differs would not fail: it would write to a root that nobody reads, or give other values. So each is asked before
its first chunk (of Spark's, what time it is there after it), and what differs is one sentence.
"""

import hashlib
import io
import pickle
import platform
import socket
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from batch_assets.errors import EngineError, StorageError
from batch_assets.ports import Adapter
from batch_assets.scoring.scorer import ScoringTask
from batch_assets.storage import Storage
from batch_assets.storage.port import root_id

CLOCK_SECONDS = 60.0
"""By so much clocks may differ: S3 refuses requests that are dated otherwise, and records of a run say when."""


@dataclass(frozen=True)
class Node:
    """What a process on one machine has: its host, digests of the sources of packages, versions, its time.

    `root` is the name of the storage root that it sees; if it sees none, `unseen` may say why.
    """

    host: str
    code: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]
    root: str
    unseen: str
    clock: float

    @classmethod
    def here(cls, task: ScoringTask) -> "Node":
        """Of the calling process, as far as it matters for a task."""
        names = ("batch-assets", "numpy", "pyarrow", task.library.rpartition("-")[0])
        python = ".".join(platform.python_version_tuple()[:2])
        packages = (("Python", python), *((name, _public_version(name)) for name in names))
        root = unseen = ""
        try:
            root = root_id(task.storage)
        except StorageError as error:
            unseen = str(error).rstrip(".")
        return cls(socket.gethostname(), code_digests(task), packages, root, unseen, time.time())

    def require_same(self, other: "Node", storage: Storage) -> None:
        """Raise EngineError, with all that differs on the other node, unless it has what this one has."""
        if other.root != self.root:
            seen = "sees another one there" if other.root else f"does not see it{f' ({other.unseen})' if other.unseen else ''}"
            raise EngineError(
                f"Node {other.host} cannot score: this machine keeps everything under {storage.location}, and the node {seen}; "
                "set BATCH_ASSETS_ROOT to a bucket, or to a folder that all machines share."
            )
        theirs = dict(other.packages)
        differ = [
            f"{name} {theirs[name] or 'missing'} instead of {ours}" for name, ours in self.packages if theirs[name] != ours
        ]
        if not differ:
            code = dict(other.code)
            differ = [f"another state of the code of {name}" for name, ours in self.code if code.get(name) != ours]
        if differ:
            raise EngineError(
                f"Node {other.host} cannot score, as it has {', '.join(differ)}: install there what this machine has."
            )

    def require_time(self, began: float) -> None:
        """Raise EngineError unless the node's clock, read after `began` and before now, says so too, give or take a minute."""
        early, late = began - self.clock, self.clock - time.time()
        if max(early, late) > CLOCK_SECONDS:
            how = f"{max(early, late):,.0f} s {'behind' if early > late else 'ahead of'}"
            raise EngineError(f"The clock of node {self.host} is at least {how} this machine's: set both by NTP.")


def code_digests(task: ScoringTask) -> tuple[tuple[str, str], ...]:
    """The sha256, in hex, of the sources of this package and of others whose adapters the task names, like a head of theirs."""
    packages = {"batch_assets", *map(_package_of, _Adapters(task).modules)} - {"__main__"}
    return tuple((name, _sources(name)) for name in sorted(packages))


class _Adapters(pickle.Pickler):
    """The modules of the adapters that a value is pickled with, as those come from who plugs them in."""

    def __init__(self, value: object) -> None:
        super().__init__(io.BytesIO())
        self.modules = set[str]()
        self.dump(value)

    def reducer_override(self, value: object) -> Any:
        """Called with each thing that is pickled; leaves all of them as they are."""
        if isinstance(value, type) and issubclass(value, Adapter):
            self.modules.add(value.__module__)
        return NotImplemented


def _package_of(module: str) -> str:
    """The topmost package of a module that is one: a namespace is shared with others, who may be elsewhere."""
    parts = module.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next(name for name in above if getattr(sys.modules[name], "__file__", None) or name == module)


def _sources(package: str) -> str:
    module = sys.modules[package]
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    files = [file for folder in folders for file in folder.rglob("*.py")] or [Path(module.__file__ or "")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _public_version(package: str) -> str:
    """A version without what tells builds of it apart: a node with a GPU may have another one. Empty if it is missing."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""
