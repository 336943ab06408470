"""What stands before every request: whose host, which token, how much, how long; and what it took."""

import base64
import binascii
import logging
import time
import traceback
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.errors import BatchAssetsError, Refused
from batch_assets.service.answers import refusal
from batch_assets.service.metrics import Requests
from batch_assets.service.options import Limits, ServiceOptions, Token

_LOG = logging.getLogger(__name__)

OPEN = ("/healthz", "/readyz")
"""What is answered without a token: whoever starts and stops services asks it, and it tells nothing of anybody."""


class Guard:
    """An ASGI application before another one. No key of anybody is in what it logs or counts."""

    def __init__(
        self, app: ASGIApp, options: ServiceOptions, requests: Requests, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app, self._limits, self._requests, self._clock = app, options.limits, requests, clock
        self._hosts, self._token = options.hosts, Token(options)
        self._rate = Rate(options.limits, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, receive, noted)
        except BatchAssetsError as error:
            if status:
                raise
            await refusal(error)(scope, receive, noted)
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("A request failed with %s (its message may have a key in it):\n%s", type(error).__name__, where)
            if status:
                raise
            sentence = f"This request failed within the service ({type(error).__name__}): its log says where."
            await refusal(Refused(sentence, 500))(scope, receive, noted)
        finally:
            self._requests.note(scope, status, self._clock() - began)

    def _admit(self, scope: Scope) -> None:
        """Raises Refused."""
        headers = dict(scope["headers"])
        host = _without_port(headers.get(b"host", b"").decode("latin-1").lower())
        if host not in self._hosts:
            raise Refused("This service is not called that: ask it by its address, or start it with --name.", 421)
        if len(scope["raw_path"]) + len(scope["query_string"]) > self._limits.url_bytes:
            raise Refused(f"A path and query have {self._limits.url_bytes:,} bytes at most: use batchGet.", 414)
        if (
            self._token.needed
            and scope["path"] not in OPEN
            and not self._token.fits(_borne(headers.get(b"authorization", b"")))
        ):
            raise Refused(
                "This service asks for a token: send it as Authorization: Bearer TOKEN.",
                401,
                {"WWW-Authenticate": 'Basic realm="batch-assets", charset="UTF-8"'},
            )
        self._rate.take()


class Rate:
    """So many requests a second, a second's worth of them at once."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._per_second, self._clock = limits.per_second, clock
        self._left, self._seen = limits.per_second or 0.0, clock()

    def take(self) -> None:
        """One more. Raises Refused if that is too many."""
        if self._per_second is None:
            return
        now = self._clock()
        self._left = min(max(self._per_second, 1.0), self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1:
            raise Refused(f"More than {self._per_second:g} requests a second: ask again later.", 429, {"Retry-After": "1"})
        self._left -= 1


def _borne(header: bytes) -> bytes:
    """The token that a request bears: of a browser, it is the password."""
    scheme, _, given = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return given.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
