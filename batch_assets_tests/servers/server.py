"""What all servers of the tests can do: start, answer, be killed, and start again on the same port with the same data."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

import psutil

from batch_assets_tests.servers import launch
from batch_assets_tests.servers.place import Place

MAKE = "run `make servers`"


class ServerMissing(RuntimeError):
    """This machine lacks the server's program: what a test that needs it is skipped with."""


class ServerFailed(RuntimeError):
    """The server ended while it started, or did not answer in time."""


def wait_until_ended(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after at most so long. One that has ended, and that its parent has not asked for, does not."""
    deadline = time.monotonic() + seconds
    while (living := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return living


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server(ABC):
    """A context manager: a server as a process of its own, on 127.0.0.1, in a folder of its own that goes with it.

    It ends when the process that entered it ends, also by SIGKILL.

    Args:
        settings: of the server's own configuration, over those of the tests.
    """

    wants: ClassVar[str]
    """What a machine needs, in the words of the sentence that a skipped test says."""

    patience: ClassVar[float] = 60.0
    """Seconds until it must answer or have ended."""

    stopping: ClassVar[signal.Signals] = signal.SIGTERM
    """What asks it to end in good order."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def missing(cls) -> bool:
        """Whether this machine lacks something of it."""

    @abstractmethod
    def prepare(self) -> None:
        """Write into the new folder what the server finds there when it starts for the first time."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """The program, by its path, and its arguments."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers, as its clients say it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it answers the smallest question of its protocol."""

    @classmethod
    def require(cls) -> None:
        """Raises `ServerMissing` if this machine lacks something of it."""
        if cls.missing():
            raise ServerMissing(f"needs {cls.wants}: {MAKE}")

    @property
    def user(self) -> str:
        """Whom it runs as; "" is who runs the tests."""
        return ""

    @property
    def port(self) -> int:
        return self._place.port

    @property
    def folder(self) -> Path:
        return self._place.folder

    @property
    def log(self) -> str:
        """What it has said until now."""
        return (self.folder / "server.log").read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        if self._process is None or self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def __enter__(self) -> Self:
        self.require()
        self._place = Place()
        # The system counts the thread that starts a process as its parent: this one lives as long as the server may.
        self._starter = ThreadPoolExecutor(1)
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._starter.shutdown()
        self._place.leave()

    def start(self) -> None:
        """Start it, the first time or again, and wait until it answers.

        Raises:
            ServerFailed: it ended, or does not answer in time.
        """
        self._process = self._starter.submit(self._launched, self.command).result()
        deadline = time.monotonic() + self.patience
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"{type(self).__name__} does not answer on port {self.port}:\n{self.log[-4_000:]}")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def stop(self) -> None:
        """Ask it to end in good order, and wait until it has; nothing if it is down."""
        processes = self.processes()
        if processes:
            processes[0].send_signal(self.stopping)
            wait_until_ended(processes, self.patience)
        self.kill()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It and all its children do nothing for the time of the block."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):  # one that goes on may end another
                    process.resume()

    def kill(self) -> None:
        """End it and all its children by SIGKILL, as a machine that fails would; nothing if it is down."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # or the first would start others meanwhile
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if living := wait_until_ended(processes, self.patience):
            raise ServerFailed(f"Processes of {type(self).__name__} outlive SIGKILL: {living}.")
        if self._process is not None:
            self._process.wait()

    def run(self, command: list[str]) -> None:
        """Run a program to its end as the server's user, in the folder.

        Raises:
            ServerFailed: it did not end well.
        """
        process = self._starter.submit(self._launched, command).result()
        if process.wait(self.patience):
            raise ServerFailed(f"{command[0]} ended with {process.returncode}:\n{self.log[-4_000:]}")

    def _launched(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """The program, started; it is its own session, so that Ctrl-C does not reach it."""
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-IS", launch.__file__, str(os.getpid()), self.user, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
