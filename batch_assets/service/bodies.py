"""What comes in: paths and bodies, bounded, and refused in a sentence if they are not what they must be."""

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from batch_assets.errors import Refused
from batch_assets.service.options import Limits

KeyPart = StrictInt | StrictStr


class BatchGet(BaseModel):
    """Whom somebody asks about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: list[KeyPart | list[KeyPart]] = Field(description="Keys; one of several columns is a list.", min_length=1)


class Score(BaseModel):
    """A row that somebody wants to be scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: dict[str, Any] = Field(description="Every feature of the contract, by its name.")


def key_of(raw_path: bytes) -> tuple[str, ...]:
    """The key in /v1/PIPELINE/KEY, one value for each segment. Raises Refused."""
    said = raw_path.split(b"/", 3)[3]
    segments = said.split(b"/")
    try:
        if len(segments) == 1 and b"%" not in said:
            return (said.decode(),)
        return tuple((unquote_to_bytes(one) if b"%" in one else one).decode() for one in segments)
    except UnicodeDecodeError:
        raise Refused("A key in a path is percent-encoded UTF-8.", 422) from None


async def body_of(request: Request, limits: Limits) -> Any:
    """What a request's JSON says. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("A body is JSON: send it with Content-Type: application/json.", 415)
    try:
        async with asyncio.timeout(limits.body_seconds):
            data = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise Refused(f"The body did not arrive within {limits.body_seconds:g} s.", 408, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused("The body ended before it was complete.", 400, {"Connection": "close"}) from None
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        raise Refused("The body is not JSON.", 422) from None


def understood(body: Any, kind: type[BatchGet] | type[Score]) -> Any:
    """A body as what it must be. Raises Refused, with where it is not."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"][:2])) or "the body"
        raise Refused(f"The body is not understood: {where}: {first['msg']}.", 422) from None


async def _read(request: Request, most: int) -> bytes:
    said = request.headers.get("content-length", "0")
    found, size = list[bytes](), int(said) if said.isdigit() else 0
    too_long = Refused(f"A body has {most:,} bytes at most: ask for fewer at once.", 413, {"Connection": "close"})
    if size > most:
        raise too_long
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_long
        found.append(piece)
    return b"".join(found)
