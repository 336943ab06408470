"""Who is told when a night goes wrong, and how: one hook for every alert.

A receiver's address is a secret, because whoever knows it can write there: it is never shown, logged or dumped. Whatever a
receiver does, nobody waits for it longer than `LIMIT`.
"""

import hashlib
import http.client
import io
import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from threading import Thread
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from typing_extensions import override

from batch_assets.errors import AlertFailed, ConfigError
from batch_assets.secret import Secret

AlertKind = Literal["failed", "blocked", "at_risk", "missed", "dead_letters"]

LIMIT = 10.0
"""Seconds for a whole delivery: names, connections, handshakes, answers and all tries together."""

_PAUSES = (0.5, 1.5)
_HEADER, _SECTION = 150, 3_000
"""How many characters Slack takes in a header and in a section."""

Pause = Callable[[float], None]


@dataclass(frozen=True)
class Alert:
    """What is told. `partition` is None if it is not about one day.

    `about` is what it is about beside the day, if that can happen again: a Dagster run. An alert that is sent again has the
    same `id`, and a message that may say it in other words.
    """

    kind: AlertKind
    pipeline: str
    partition: str | None
    title: str
    message: str
    about: str = ""

    @property
    def id(self) -> str:
        """The same for the same alert, however often and by whichever process it is sent."""
        told = json.dumps([self.kind, self.pipeline, self.partition, self.about])
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def document(self) -> dict[str, Any]:
        """Everything that it says, in plain values."""
        return {"id": self.id} | {name: value for name, value in asdict(self).items() if name != "about"}


class LogReceiver(BaseModel):
    """Python's logging, under this module's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["log"] = Field(description="An error in the log of the process that notices.")

    def tell(self, alert: Alert, until: float, pause: Pause) -> None:  # noqa: ARG002
        """Write one line."""
        logging.getLogger(__name__).error("%s: %s", alert.title, alert.message)

    @property
    def named(self) -> str:
        """What errors call it."""
        return "The log"


class _HttpReceiver(BaseModel):
    """Somewhere that takes a JSON document by POST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    url: Secret | SecretStr = Field(
        description="{env: NAME}, the environment variable that holds it, for whoever knows it can write there; or the http or "
        "https address itself."
    )

    @field_validator("url")
    @classmethod
    def _can_be_posted_to(cls, url: Secret | SecretStr) -> Secret | SecretStr:
        text = url.get_secret_value() if isinstance(url, SecretStr) else None
        if text is not None and "{{" not in text and not _postable(text):
            raise ValueError("the url must be an address that begins with http:// or https://")
        return url

    def tell(self, alert: Alert, until: float, pause: Pause) -> None:
        """Post the alert, until a moment of `time.monotonic` at the latest. Raises AlertFailed."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": alert.id}
        try:
            fault = _post(self._address(), json.dumps(self.payload(alert)).encode(), headers, until, pause)
        except ConfigError as error:
            fault = f"{str(error)[0].lower()}{str(error)[1:].rstrip('.')}"
        if fault:
            raise AlertFailed(f"{self.named} was not told {alert.title!r}: {fault}.")

    @property
    def named(self) -> str:
        """What errors call it."""
        if isinstance(self.url, Secret):
            return f"The {self.kind} receiver of {self.url.env}"
        return f"The {self.kind} receiver on {urlsplit(self.url.get_secret_value()).hostname}"

    def _address(self) -> str:
        """Where alerts go. Raises ConfigError, which does not show it."""
        if isinstance(self.url, SecretStr):
            return self.url.get_secret_value()
        address = self.url.reveal()
        if not _postable(address):
            raise ConfigError(f"The environment variable {self.url.env} holds no address that begins with http:// or https://.")
        return address

    def payload(self, alert: Alert) -> dict[str, Any]:
        """The document."""
        return alert.document


class WebhookReceiver(_HttpReceiver):
    """Anything that takes JSON: `id`, `kind`, `pipeline`, `partition`, `title` and `message`."""

    kind: Literal["webhook"] = Field(description="The alert itself as JSON.")


class SlackReceiver(_HttpReceiver):
    """A Slack incoming webhook, or whatever is compatible with one."""

    kind: Literal["slack"] = Field(description="The alert as a Slack message.")

    @override
    def payload(self, alert: Alert) -> dict[str, Any]:
        return {
            "text": _escaped(f"{alert.title}: {alert.message}"),
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": alert.title[:_HEADER]}},
                {"type": "section", "text": {"type": "mrkdwn", "text": _escaped(alert.message)[:_SECTION]}},
            ],
        }


Receiver = Annotated[LogReceiver | WebhookReceiver | SlackReceiver, Field(discriminator="kind")]


def send(
    receivers: Sequence[Receiver],
    alert: Alert,
    pause: Pause = time.sleep,
    limit: float = LIMIT,
    wait: float | None = None,
) -> None:
    """Tell every receiver of an alert; see `send_all`.

    Raises:
        AlertFailed: one or more could not be told; names all of these.
    """
    (fault,) = send_all(receivers, [alert], pause, limit, wait)
    if fault:
        raise AlertFailed(fault)


def send_all(
    receivers: Sequence[Receiver],
    alerts: Sequence[Alert],
    pause: Pause = time.sleep,
    limit: float = LIMIT,
    wait: float | None = None,
) -> list[str]:
    """Tell every receiver of every alert, all at the same time.

    Args:
        receivers: who is told.
        alerts: what they are told.
        pause: waits between two tries.
        limit: seconds that a delivery may take.
        wait: seconds after which nobody waits for the deliveries any more, if that is sooner; they go on then.

    Returns:
        For each alert the sentences that say who was not told, or nothing.
    """
    now = time.monotonic()
    until, waited = now + limit, now + min(limit, limit if wait is None else wait)
    sent = [[(receiver, _told(receiver, alert, until, pause)) for receiver in receivers] for alert in alerts]
    faults = []
    for alert, deliveries in zip(alerts, sent, strict=True):
        failures = []
        for receiver, told in deliveries:
            try:
                told.result(max(0.0, waited - time.monotonic()))
            except AlertFailed as failure:
                failures.append(str(failure))
            except TimeoutError:  # it looks a name up, say, which nobody can cut short
                failures.append(f"{receiver.named} was not told {alert.title!r}: {_silent(waited - now)}.")
        faults.append(" ".join(failures))
    return faults


def _told(receiver: Receiver, alert: Alert, until: float, pause: Pause) -> "Future[None]":
    """The end of a delivery that goes on in a thread of its own, which keeps no process from ending."""
    told: Future[None] = Future()

    def tell() -> None:
        try:
            receiver.tell(alert, until, pause)
        except BaseException as error:  # noqa: BLE001  whoever waits for the future gets it
            told.set_exception(error)
        else:
            told.set_result(None)

    Thread(target=tell, name=f"alert to {receiver.kind}", daemon=True).start()
    return told


def _silent(limit: float) -> str:
    return f"it did not answer within {round(limit, 1):g} s"


def _escaped(text: str) -> str:
    """Text as Slack wants it: these three characters would begin a link or an entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its document, and look like a success."""

    @override
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Answer(io.RawIOBase):
    """What a receiver says, read until a moment: a limit for each read would wait for one that drips."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._until))
        return self._connection.recv_into(buffer)


class _Response(http.client.HTTPResponse):
    """A response of which every byte is read before a moment."""

    def __init__(self, sock: socket.socket, *args: Any, until: float, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_Answer(sock, until))


class _Http(urllib.request.HTTPHandler):
    """Plain connections whose answers are read before a moment."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self._until = until

    @override
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._until), request)


class _Https(urllib.request.HTTPSHandler):
    """Encrypted connections whose answers are read before a moment."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self._until = until

    @override
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._until), request)


def _connection(kind: type[http.client.HTTPConnection], until: float, host: str, **settings: Any) -> http.client.HTTPConnection:
    made = kind(host, **settings)
    made.response_class = partial(_Response, until=until)  # type: ignore[assignment]
    return made


def _left(until: float) -> float:
    """The seconds that are left. Raises TimeoutError if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _post(url: str, document: bytes, headers: dict[str, str], until: float, pause: Pause) -> str:
    """Try three times while there is time and the fault may pass by itself; what the last fault was, or nothing."""
    silent = _silent(until - time.monotonic())
    fault, passing = _attempt(url, document, headers, until, silent)
    for seconds in _PAUSES:
        if not (fault and passing) or time.monotonic() + seconds >= until:
            break
        pause(seconds)
        fault, passing = _attempt(url, document, headers, until, silent)
    return fault


def _attempt(url: str, document: bytes, headers: dict[str, str], until: float, silent: str) -> tuple[str, bool]:
    """What went wrong, if anything, and whether it may pass by itself. An error's own text could hold the address."""
    request = urllib.request.Request(url, document, headers)  # noqa: S310  http(s), see _postable
    try:
        opener = urllib.request.build_opener(_NoRedirects, _Http(until), _Https(until))
        with opener.open(request, timeout=_left(until)):
            return "", False
    except urllib.error.HTTPError as error:
        with error:
            return f"it answered HTTP {error.code}", error.code >= 500 or error.code == 429
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            return silent, False
        return f"it cannot be reached ({type(reason).__name__ if isinstance(reason, OSError) else 'URLError'})", True
    except TimeoutError:
        return silent, False
    except UnicodeError:  # an empty label in the name, say, or one of more than 63 characters
        return "no host can have this name", False
    except (OSError, http.client.HTTPException) as error:
        return f"the connection broke ({type(error).__name__})", True


def _postable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises if it is not a number
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain
