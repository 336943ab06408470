"""`ui`: the Dagster UI and daemon, with a Ray that all runs share for as long as they are open."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from batch_assets.cli.apart import apart
from batch_assets.cli.terminal import answered, interrupt, registry, settle
from batch_assets.errors import ConfigError
from batch_assets.process import ending_with_parent

_GRACE_SECONDS = 60.0


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the UI listens; there is no log-in.")
@click.option("--port", default=3000, show_default=True, help="On which port.")
def ui(host: str, port: int) -> None:
    """Open the Dagster UI, and run schedules, sensors and backfills until Ctrl-C.

    One Ray is started for all of them, unless RAY_ADDRESS names one; its workers stay warm between runs.
    """
    # Not by default: a shell that starts this in the background has it ignore Ctrl-C.
    for wish in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wish, interrupt)
    advice = "the UI is closed with it, runs that were at work are tried again when it is opened."
    answer = apart(partial(answered, partial(_open, host, port)), advice)
    settle(answer)
    raise SystemExit(answer.found["status"])


def _open(host: str, port: int) -> dict[str, Any]:
    """Keep the UI open, with a Ray if a pipeline says that it scores there, until it ends; gives its exit status."""
    from batch_assets.operations.rollout import require_fit
    from batch_assets.orchestration.catalog import usable_pipelines
    from batch_assets.orchestration.resources import shared_ray
    from batch_assets.project import find_project

    project = find_project()
    workspace = ["-w", "workspace.yaml"] if (project.root / "workspace.yaml").exists() else []
    program = [str(Path(sys.executable).parent / "dg"), "dev", *workspace, "--host", host, "--port", str(port)]
    program += ["--no-check-yaml"]  # for a mistake in one pipeline it would not open; it shows that pipeline red instead
    home = project.dagster_home()
    configs = usable_pipelines()
    require_fit(configs, registry())
    wanted = any(one.engine.kind == "ray" for one in configs)
    with _only_one(home), shared_ray(wanted=wanted) as environment:
        environment = {**os.environ, **environment, "DAGSTER_HOME": str(home)}
        ready = ending_with_parent(signal.SIGINT)  # it would go on without a Ray to score on
        process = subprocess.Popen(program, env=environment, cwd=project.root, preexec_fn=ready)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            status = max(0, _ended(process))  # ended by the signal, as it was meant to
    return {"status": status if status >= 0 else 128 - status}


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One daemon for one DAGSTER_HOME: two would look for work at the same moment, and start it twice."""
    with (home / ".ui").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"The UI of {home} is open already; its daemon works for every port.") from None
        yield


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end; whoever insists on it meanwhile is told that it is under way, and one that never ends is ended."""
    until = time.monotonic() + _GRACE_SECONDS
    while True:
        try:
            return process.wait(max(0.0, until - time.monotonic()))
        except KeyboardInterrupt:
            print("The UI is being closed.", file=sys.stderr)
        except subprocess.TimeoutExpired:
            process.kill()
            until = time.monotonic() + _GRACE_SECONDS
