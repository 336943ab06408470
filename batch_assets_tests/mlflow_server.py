"""An MLflow server on this machine: the real one, on SQLite, with its artifacts in a folder."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

NEEDS = ("mlflow", "flask", "flask_cors", "aiohttp", "sqlalchemy", "alembic")
"""What the server imports; the client alone needs less."""

PATIENCE = 120.0
"""Seconds until it must answer."""


class MlflowServer:
    """A context manager: a process of its own, on a port that was free."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in NEEDS if find_spec(name) is None]
        if missing:
            raise RuntimeError(f"The MLflow server of the tests needs {', '.join(missing)}: run `make install`.")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url, self.artifacts, self._log = f"http://127.0.0.1:{port}", folder / "artifacts", folder / "server.log"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(self.artifacts)),
        ]

    def __enter__(self) -> Self:
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self._log.parent
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"The MLflow server does not answer:\n{self._log.read_text()[-2_000:]}")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
