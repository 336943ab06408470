"""Real HTTP servers on the loopback: one remembers what it was told and answers as it is asked to, one answers for ever."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Condition, Event, Thread
from typing import Any


class Listener:
    """Answers with the statuses that are listed, then with 200."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/services/T0/top-secret"
        self.heard: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []
        self.hears = Condition()

    def wait_for(self, count: int) -> None:
        """Wait until so many were heard; a minute at most."""
        with self.hears:
            assert self.hears.wait_for(lambda: len(self.heard) >= count, timeout=60)


@contextmanager
def listening() -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            listener.keys.append(self.headers["Idempotency-Key"])
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with listener.hears:
                listener.heard.append(document)
                listener.hears.notify_all()
            self.send_response(listener.statuses.pop(0) if listener.statuses else 200)
            self.send_header("Location", listener.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            raise AssertionError("an alert is never a GET")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        listener = Listener(server.server_port)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield listener
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def dripping(first: bytes = b"") -> Iterator[int]:
    """The port of a server that answers with `first`, and then with another byte twenty times a second, for ever."""
    over = Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # whoever was told has had enough
            connection.sendall(first)
            while not over.wait(0.05):
                connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):  # the server is closed
            while True:
                Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
