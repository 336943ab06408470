"""Between a client and an S3 server: answers late, cut, or not at all, and 503 in place of one."""

import random
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

FAULTS = ("refused", "lost", "cut", "late")
"""Told 503 before the server is asked; the answer dropped after it was; half of its body; and half a second of waiting."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that was killed says no farewell."""


class FaultyProxy:
    """A context manager: it forwards requests to a server, and does something to a share of them.

    Args:
        url: of the server.
        share: of the requests that something is done to.
        seed: of the choice.
    """

    def __init__(self, url: str, share: float, seed: int = 1) -> None:
        self.share, self.done = share, dict.fromkeys(FAULTS, 0)
        self._random, self._turn, self._upstream = random.Random(seed), threading.Lock(), urlsplit(url)
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _fault(self) -> str:
        """What is done to a request; "" is nothing."""
        with self._turn:
            if self._random.random() >= self.share:
                return ""
            fault = self._random.choice(FAULTS)
            self.done[fault] += 1
            return fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy._fault()
                if fault == "refused":
                    self._say(503, [], b"")
                    return
                if fault == "late":
                    time.sleep(0.5)
                upstream = HTTPConnection(str(proxy._upstream.hostname), proxy._upstream.port, timeout=60)
                try:
                    answer, found = self._asked(upstream, body)
                except (OSError, HTTPException):
                    self.close_connection = True  # the server is down
                    return
                finally:
                    upstream.close()
                if fault == "lost" or (fault == "cut" and not found):
                    self.close_connection = True
                    return
                headers = [one for one in answer.getheaders() if one[0].lower() not in ("transfer-encoding", "connection")]
                self._say(answer.status, headers, found, cut=fault == "cut")

            def _asked(self, upstream: HTTPConnection, body: bytes) -> tuple[HTTPResponse, bytes]:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                return answer, answer.read()

            def _say(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection |= cut

            def log_message(self, *_: Any) -> None:
                pass

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward  # noqa: N815 - names of the standard library

        return Handler
