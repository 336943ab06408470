"""A server on this machine that speaks S3: moto, answering one request at a time.

moto honours `If-None-Match: *` of a put, but looks and writes in two steps, so that two puts at once could both win. S3 itself
decides such a race; here a lock does.
"""

import threading
import urllib.request
import uuid
from collections.abc import Iterable
from typing import Any, Self

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


class S3Server:
    """A context manager: the server runs in a thread of this process, on a port that was free."""

    def __init__(self) -> None:
        self._moto, self._turn = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self.asked: list[str] = []
        """Method and path of each request, as they came."""
        self.answers_to_lose = 0
        """So many of the next puts take place, and who asked is told that the server failed."""
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def _answer(self, environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        with self._turn:
            self.asked.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
            if environment["REQUEST_METHOD"] != "PUT" or not self.answers_to_lose:
                return [b"".join(self._moto(environment, start))]
            self.answers_to_lose -= 1
            b"".join(self._moto(environment, lambda *_: None))
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def new_bucket(self) -> str:
        """The `s3://` root of a bucket that nobody else uses."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            return f"s3://{name}"
