"""What goes out: JSON, and of each error its status and its sentence."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from batch_assets.errors import (
    BatchAssetsError,
    Closed,
    ContractBroken,
    DeadlinePassed,
    MissingExtra,
    ModelError,
    NoPrediction,
    NoSuchPipeline,
    NotScored,
    Overloaded,
    Refused,
    ReleaseBroken,
    StorageError,
    StoreUnavailable,
)

_STATUS: dict[type[BatchAssetsError], int] = {
    NoPrediction: 404,
    NoSuchPipeline: 404,
    NotScored: 422,
    Overloaded: 503,
    StoreUnavailable: 503,
    ReleaseBroken: 503,
    ModelError: 503,
    ContractBroken: 503,
    MissingExtra: 503,
    StorageError: 503,
    Closed: 503,
    DeadlinePassed: 504,
}

_HEADERS = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class JsonAnswer(Response):
    """Plain values as JSON; NaN and infinity, which it cannot say, as text."""

    def __init__(self, found: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code, self.background, self.body = status, None, to_json(found, inf_nan_mode="strings")
        more = [(name.lower().encode(), value.encode()) for name, value in headers.items()] if headers else []
        self.raw_headers = [*_HEADERS, (b"content-length", b"%d" % len(self.body)), *more]


def refusal(error: BatchAssetsError) -> JsonAnswer:
    """The answer to a request that could not be answered otherwise."""
    if isinstance(error, Refused):
        return JsonAnswer({"error": str(error), "kind": "Refused"}, error.status, error.headers)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return JsonAnswer(
        {"error": str(error), "kind": type(error).__name__}, status, {"Retry-After": "1"} if status == 503 else None
    )
