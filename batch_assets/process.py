"""Which process works on something, whether it still lives, and the memory that this one has and may have.

A process is its host, its number and its start time: numbers are used again, the three together are not. A process of
another host cannot be asked; it counts as alive, because taking work away from the living is the worse mistake. Where it
holds a lease under the storage root, that tells more.
"""

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

_TOLERANCE = 120.0
"""Seconds by which a start time may move: it is counted from the boot time, which moves when the clock is set."""

_PR_SET_PDEATHSIG = 1


def ending_with_parent(number: signal.Signals) -> Callable[[], None]:
    """What a child of this process calls first, to get a signal when this process ends, however that ends.

    The system counts the thread that starts the child as its parent.
    """
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up before the fork, after which little is safe

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), number)

    return ask


def parent_seconds() -> float:
    """How long the parent of this process has been running, to a hundredth.

    Counted since the boot, as the system counts it: the boot time, by which a start becomes a time of day, is in whole seconds.
    """
    fields = Path(f"/proc/{os.getppid()}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


class MemoryWatch:
    """The most memory of its own that this program has while a block runs: `peak`, in bytes, looked at 20 times a second.

    Pages of files that it has mapped are not its own where the system tells them apart (Linux): it takes them back when it
    needs them. What is held more briefly than between two looks may be missed.

    Example::

        with MemoryWatch() as memory:
            held = bytearray(1 << 20)
        print(memory.peak)
    """

    _EACH_SECONDS = 0.05

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._most = 0

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()
        self._most = max(self._most, self._now())

    @property
    def peak(self) -> int:
        """The most of the block until now."""
        return self._most if self._over.is_set() else max(self._most, self._now())

    def _now(self) -> int:
        found = self._process.memory_info()
        return int(found.rss - getattr(found, "shared", 0))

    def _watch(self) -> None:
        while not self._over.wait(self._EACH_SECONDS):
            self._most = max(self._most, self._now())


def peak_memory() -> int:
    """The most memory this program has held, in bytes. What getrusage says may be that of the process that started it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def memory_there(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How much memory processes may have here, in bytes: the machine's, or less where a container has a limit (cgroup v2)."""
    import psutil

    machine = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # none, or `max`
        return min(machine, int((cgroup / "memory.max").read_text()))
    return machine


@dataclass(frozen=True)
class Process:
    """One process on one host; `started` is its start time in seconds since the epoch, as the system reports it."""

    host: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> "Process":
        """The process that calls."""
        import psutil

        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def from_mapping(cls, fields: Mapping[str, object]) -> "Process":
        """The inverse of `as_mapping`; numbers may come as strings, as Dagster's tags do."""
        return cls(str(fields["host"]), int(str(fields["pid"])), float(str(fields["started"])))

    def as_mapping(self) -> dict[str, object]:
        """Plain values, for JSON and tags."""
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it is one of this host."""
        return self.host == socket.gethostname()

    def alive(self) -> bool:
        """False only if the process is known to have ended."""
        import psutil

        if not self.is_here:
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < _TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"
