"""What somebody can do to a numbered log who may write to the storage root."""

import hashlib
import json
from typing import Any

from pydantic import RootModel

from batch_assets.logs import NumberedLog


class Anything(RootModel[dict[str, Any]]):
    """A body of which nothing is known."""


def numbered(log: NumberedLog[Any], number: int) -> str:
    """Where an entry lies."""
    return f"{log.folder}/{number:06d}.json"


def witnesses(log: NumberedLog[Any]) -> list[str]:
    """What vouches for the entries, oldest first."""
    parent, _, name = log.folder.rpartition("/")
    folder = f"{parent}/_witness/{name}" if parent else f"_witness/{name}"
    return [f"{folder}/{one}" for one in sorted(log.storage.names(folder)) if one[:6].isdigit()]


def forge(log: NumberedLog[Any], number: int, **changes: Any) -> None:
    """Write an entry anew, as if it had always said something else: its own sha256 is right."""
    document = json.loads(log.storage.read(numbered(log, number))) | changes | {"sha256": None}
    sha256 = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    log.storage.delete(numbered(log, number))
    log.storage.create(numbered(log, number), json.dumps(document | {"sha256": sha256}).encode())


def delete_newest(log: NumberedLog[Any], *, vouched: bool = False) -> int:
    """Delete the newest entry; `vouched`: with what vouches for it. Returns its number."""
    number = max(log.numbers())
    log.storage.delete(numbered(log, number))
    if vouched:
        log.storage.delete(witnesses(log)[-1])
    return number
