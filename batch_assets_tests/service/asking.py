"""Asks the service: in this process, or as the processes that `batch-assets serve` starts."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from batch_assets.service.app import service
from batch_assets.service.options import ServiceOptions
from batch_assets_tests.small import Small

PROGRAM = """
import sys
from batch_assets.service.options import ServiceOptions
from batch_assets.service.server import serve
serve(ServiceOptions.model_validate_json(sys.stdin.read()), print)
"""


def options(*smalls: Small, **said: Any) -> ServiceOptions:
    """The options of a service of small pipelines."""
    root = smalls[0].storage.location
    return ServiceOptions(root=root, models=root, pipelines=tuple(one.config for one in smalls), **said)


class InProcess:
    """A service in an event loop of this process, from its start-up to its end, as a server has it; or another app, asked."""

    def __init__(self, said: ServiceOptions, app: Any = None) -> None:
        self._app: Any = app or service(said)
        self._lives = app is None
        self._runner = asyncio.Runner()
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def __enter__(self) -> "InProcess":
        if self._lives:
            self._runner.run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._lives:
                self._runner.run(self._pass_on("shutdown"))
        finally:
            self._runner.close()

    async def _begin(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._life = asyncio.create_task(self._app(scope, self._events.get, self._answers.put))
        await self._pass_on("startup")

    async def _pass_on(self, event: str) -> None:
        await self._events.put({"type": f"lifespan.{event}"})
        answer = await asyncio.wait_for(self._answers.get(), timeout=60)
        assert answer["type"] == f"lifespan.{event}.complete", answer

    def ask(self, method: str, path: str, **said: Any) -> httpx.Response:
        """One request and its answer."""
        return self.ask_all([(method, path, said)])[0]

    def ask_all(self, requests: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """Requests at the same time, and their answers in their order."""

        async def asked() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return list(await asyncio.gather(*(client.request(how, path, **said) for how, path, said in requests)))

        return self._runner.run(asked())

    def get(self, path: str, **said: Any) -> httpx.Response:
        return self.ask("GET", path, **said)

    def post(self, path: str, body: Any, **said: Any) -> httpx.Response:
        return self.ask("POST", path, json=body, **said)


class Running:
    """A service in processes of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait(self) -> None:
        """Until a worker answers."""
        until = time.monotonic() + 60
        while True:
            try:
                self.client.get("/healthz")
                return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < until, self.log()

    def log(self) -> str:
        return self._log.read_text()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(said: ServiceOptions, folder: Path, **environment: str) -> Iterator[Running]:
    """A service on a port of its own, until the end of the block."""
    port = free_port()
    log = folder / f"service-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            env={**os.environ, **environment},
        )
    found = Running(process, port, log)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps({**json.loads(said.model_dump_json()), "port": port}))
        process.stdin.close()
        found.wait()
        yield found
    finally:
        found.client.close()
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
