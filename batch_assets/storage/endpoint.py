"""Where the environment says that S3 answers, and to whom plain http may be spoken."""

import os
from urllib.parse import urlsplit

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def s3_endpoint() -> str:
    """The address of the server that speaks S3, as the environment says it; empty for Amazon's own."""
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


def plain_http_allowed(url: str) -> bool:
    """Whether an address may be spoken to without TLS: it is on this machine, or AWS_ALLOW_HTTP says so."""
    local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return local or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
