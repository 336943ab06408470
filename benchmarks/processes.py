"""Subjects run in processes of their own: started, timed to the end, watched meanwhile, killed with all they began."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.05
LIMIT_SECONDS = 3_600


class SubjectFailed(Exception):
    """A subject's process ended with an error; the text is the end of what it said."""


@dataclass
class Peaks:
    """What was seen of each process of a subject, sampled every 50 ms: largest USS, and bytes that it asked files for.

    USS is the memory that would be free if the process ended; pages that it shares with others (libraries, Ray's object
    store) are in nobody's.
    """

    driver: int = 0
    workers: dict[int, int] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=dict)

    def sample_memory(self, driver: psutil.Process) -> None:
        """Look at the memory of the driver and of the Ray workers that it has now."""
        self.driver = max(self.driver, driver.memory_full_info().uss)
        for worker in _workers(driver):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                self.workers[worker.pid] = max(self.workers.get(worker.pid, 0), worker.memory_full_info().uss)

    def sample_read(self, driver: psutil.Process) -> None:
        """Look at what the Ray workers have read by now."""
        for worker in _workers(driver):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                self.read[worker.pid] = worker.io_counters().read_chars


@dataclass(frozen=True)
class Finished:
    """A subject that ended by itself: wall seconds of its process and what it printed."""

    seconds: float
    said: dict[str, Any]


def run(arguments: list[str], watch: Callable[[psutil.Process], None] | None = None, packages: Path | None = None) -> Finished:
    """Run `compare.py` with some arguments to its end.

    `watch` is called every 50 ms. The process imports what lies in `packages` before the project's. Raises SubjectFailed.
    """
    started = time.perf_counter()
    with _started(arguments, packages) as (process, errors):
        driver = psutil.Process(process.pid)
        while watch and process.poll() is None and time.perf_counter() < started + LIMIT_SECONDS:
            with suppress(psutil.NoSuchProcess):
                watch(driver)
            time.sleep(SAMPLE_SECONDS)
        try:
            said = process.communicate(timeout=max(0.0, started + LIMIT_SECONDS - time.perf_counter()))[0]
        except subprocess.TimeoutExpired:
            raise SubjectFailed(f"{' '.join(arguments)} did not end within {LIMIT_SECONDS} s.") from None
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SubjectFailed(f"{' '.join(arguments)} failed:\n{errors.read_text(errors='replace')[-3000:]}")
    return Finished(seconds, json.loads(said.splitlines()[-1]))


def run_until(arguments: list[str], reached: Callable[[], bool]) -> float:
    """Run `compare.py` until something is reached, then kill it and every process below it; the wall seconds until then.

    Raises SubjectFailed if it ends before.
    """
    started = time.perf_counter()
    with _started(arguments) as (process, errors):
        while not reached():
            if process.poll() is not None:
                text = errors.read_text(errors="replace")[-3000:]
                raise SubjectFailed(f"{' '.join(arguments)} ended before it could be killed.\n{text}")
            time.sleep(0.005)
        return time.perf_counter() - started


@contextmanager
def _started(arguments: list[str], packages: Path | None = None) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process of `compare.py`; whatever of it and below it still runs at the end is killed."""
    script = Path(__file__).with_name("compare.py")
    path = [str(script.parent), str(packages or ""), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "stderr")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        with errors.open("w") as stderr:
            process = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                start_new_session=True,
            )
        try:
            yield process, errors
        finally:
            _kill(process)


def _workers(driver: psutil.Process) -> Iterator[psutil.Process]:
    """The actors and tasks of Ray below a process: not Ray's agents, and not those that still wait for work."""
    for process in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                yield process


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    driver = psutil.Process(process.pid)
    victims = [driver, *driver.children(recursive=True)]
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait()
    psutil.wait_procs(victims, timeout=30)
