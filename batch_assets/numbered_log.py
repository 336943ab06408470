"""Numbered logs: a pointer is its own history.

Manifests, verdicts, accepted runs, aliases and the live release are each a folder of entries 000001.json, 000002.json, …;
the highest integer is in force. A move creates the next number exclusively, so of two that move at once one has to look
again and decide again.
"""

import getpass
import hashlib
import json
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batch_assets.errors import AlreadyExists, LostRace, TornEntry
from batch_assets.storage import Storage


@dataclass(frozen=True)
class LogEntry:
    """One entry of a numbered log: who wrote what, when and why."""

    number: int
    who: str
    when: str
    why: str
    body: dict[str, Any]


@dataclass(frozen=True)
class NumberedLog:
    """A pointer that is its own history: files 000001.json, 000002.json, …; the highest integer is the truth.

    An entry carries its own sha256. A torn highest entry is an error that names it; its number is never used again.
    """

    storage: Storage
    folder: str

    def latest(self) -> LogEntry | None:
        """The entry in force, or None if nothing was ever written. Raises TornEntry."""
        numbers = self.numbers()
        return self.entry(numbers[-1]) if numbers else None

    def numbers(self) -> list[int]:
        """Every number there is, ascending."""
        return sorted(
            int(name.removesuffix(".json"))
            for name in self.storage.names(self.folder)
            if name.endswith(".json") and name.removesuffix(".json").isdigit()
        )

    def entry(self, number: int) -> LogEntry:
        """One entry by its number. Raises NotFound, TornEntry."""
        path = self._path(number)
        try:
            document = json.loads(self.storage.read(path))
            digest = document.pop("sha256")
        except (ValueError, KeyError, AttributeError, TypeError):
            digest, document = None, None
        if document is None or digest != _sha256_of(document) or document["number"] != number:
            raise TornEntry(
                f"{path} under {self.storage.location} is torn: it does not match its own sha256 or number; restore it "
                "from a copy."
            )
        return LogEntry(**document)

    def append(self, body: dict[str, Any], *, after: int, why: str) -> LogEntry:
        """Write the entry that follows number `after` (0 for the first).

        Raises:
            LostRace: somebody else wrote that number first; read again and decide again.
        """
        entry = {
            "number": after + 1,
            "who": f"{user_name()}@{socket.gethostname()}",
            "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "why": why,
            "body": body,
        }
        document = json.dumps({**entry, "sha256": _sha256_of(entry)}, indent=1).encode()
        try:
            self.storage.create(self._path(after + 1), document)
        except AlreadyExists:
            raise LostRace(f"{self._path(after + 1)} was written by somebody else in the same moment.") from None
        return self.entry(after + 1)

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.json"


def user_name() -> str:
    """Who this process belongs to."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return f"uid{os.getuid()}"


def _sha256_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
