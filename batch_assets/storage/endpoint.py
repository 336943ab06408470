"""Where the environment says that S3 answers, to whom plain http may be spoken, and what an answer means that is a refusal."""

import os
import re
from urllib.parse import urlsplit

_CODE = re.compile(r"<Code>(\w+)</Code>")
_CREDENTIALS = "the server does not take these credentials: look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_MEANINGS = {
    "NoSuchBucket": "there is no such bucket: make it, or look at AWS_ENDPOINT_URL",
    "AccessDenied": "the account may not do that: give it the right to, or look at its credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
}

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def s3_endpoint() -> str:
    """The address of the server that speaks S3, as the environment says it; empty for Amazon's own."""
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


def plain_http_allowed(url: str) -> bool:
    """Whether an address may be spoken to without TLS: it is on this machine, or AWS_ALLOW_HTTP says so."""
    local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return local or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")


def said_by_server(error: BaseException) -> str:
    """What a server's answer, which an error repeats, means for whoever reads it; nothing if there is no such answer in it."""
    found = _CODE.search(str(error))
    return _MEANINGS.get(found[1], f"the server says {found[1]}") if found else ""
