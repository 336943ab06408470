"""Who is told when a night goes wrong, and how: one hook for every alert.

A receiver's address is a secret, because whoever knows it can write there: it is never shown, logged or dumped.
"""

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, SerializationInfo, field_serializer, field_validator
from typing_extensions import override

from batch_assets.errors import AlertFailed

AlertKind = Literal["failed", "blocked", "at_risk", "missed", "dead_letters"]

REVEALED = {"secrets": "revealed"}
"""The context of a dump that is read back at once, in the same process; every other dump masks secrets."""

_TIMEOUT = 5.0
"""Seconds. The five runs of one of Dagster's ticks take well less than a minute, which is all that a tick may take."""

_PAUSES = (0.5, 1.5)
_SILENT = f"it did not answer within {_TIMEOUT:.0f} s"
_HEADER, _SECTION = 150, 3_000
"""How many characters Slack takes in a header and in a section."""

Pause = Callable[[float], None]


@dataclass(frozen=True)
class Alert:
    """What is told. `partition` is None if it is not about one day."""

    kind: AlertKind
    pipeline: str
    partition: str | None
    title: str
    message: str


class LogReceiver(BaseModel):
    """Python's logging, under this module's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["log"] = Field(description="An error in the log of the process that notices.")

    def tell(self, alert: Alert, pause: Pause) -> None:  # noqa: ARG002
        """Write one line."""
        logging.getLogger(__name__).error("%s: %s", alert.title, alert.message)


class _HttpReceiver(BaseModel):
    """Somewhere that takes a JSON document by POST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    url: SecretStr = Field(description="http or https; best as \"{{ env('NAME') }}\", for whoever knows it can write there.")

    @field_validator("url")
    @classmethod
    def _can_be_posted_to(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if "{{" not in text and not _postable(text):
            raise ValueError("the url must be an address that begins with http:// or https://")
        return url

    @field_serializer("url", when_used="json")
    def _masked(self, url: SecretStr, info: SerializationInfo) -> str:
        return url.get_secret_value() if info.context == REVEALED else str(url)

    def tell(self, alert: Alert, pause: Pause) -> None:
        """Post the alert. Raises AlertFailed."""
        url = self.url.get_secret_value()
        fault = _post(url, json.dumps(self.payload(alert)).encode(), pause)
        if fault:
            raise AlertFailed(f"The {self.kind} receiver on {urlsplit(url).hostname} was not told {alert.title!r}: {fault}.")

    def payload(self, alert: Alert) -> dict[str, Any]:
        """The document."""
        return asdict(alert)


class WebhookReceiver(_HttpReceiver):
    """Anything that takes JSON: `kind`, `pipeline`, `partition`, `title` and `message`."""

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


def send(receivers: Sequence[LogReceiver | WebhookReceiver | SlackReceiver], alert: Alert, pause: Pause = time.sleep) -> None:
    """Tell every receiver, all at the same time, so that a slow one keeps nobody waiting.

    Raises:
        AlertFailed: one or more could not be told; names all of these.
    """
    with ThreadPoolExecutor(max(1, len(receivers))) as pool:
        told = [pool.submit(receiver.tell, alert, pause) for receiver in receivers]
    failures = []
    for one in told:
        try:
            one.result()
        except AlertFailed as failure:
            failures.append(str(failure))
    if failures:
        raise AlertFailed(" ".join(failures))


def _escaped(text: str) -> str:
    """Text as Slack wants it: these three characters would begin a link or an entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its document, and look like a success."""

    @override
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _post(url: str, document: bytes, pause: Pause) -> str:
    """Try three times while the fault may pass by itself; what the last fault was, or nothing."""
    fault, passing = _attempt(url, document)
    for seconds in _PAUSES:
        if not (fault and passing):
            break
        pause(seconds)
        fault, passing = _attempt(url, document)
    return fault


def _attempt(url: str, document: bytes) -> tuple[str, bool]:
    """What went wrong, if anything, and whether it may pass by itself. An error's own text could hold the address."""
    request = urllib.request.Request(url, document, {"Content-Type": "application/json"})  # noqa: S310  http(s), see _postable
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT):
            return "", False
    except urllib.error.HTTPError as error:
        with error:
            return f"it answered HTTP {error.code}", error.code >= 500 or error.code == 429
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            return _SILENT, False
        return f"it cannot be reached ({type(reason).__name__ if isinstance(reason, OSError) else 'URLError'})", True
    except TimeoutError:
        return _SILENT, False
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
