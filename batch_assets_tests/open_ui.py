"""`batch-assets ui` as a process of its own, for as long as a test looks at it."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_assets_tests.conftest import Command


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """What the condition gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@contextmanager
def open_ui(command: Command, log: Path) -> Iterator[int]:
    """The port of a UI that answers; it must end as it should. If the test fails, what the UI wrote is printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with log.open("w") as output:
        process = subprocess.Popen(
            [command.program, "ui", "--port", str(port)],
            env=command.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            until(lambda: _answers(port) or process.poll() is not None, "the UI's first answer")
            assert process.poll() is None, log.read_text()
            yield port
        except AssertionError:
            print(log.read_text()[-20_000:])
            raise
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert not _answers(port)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
