"""Numbered logs: a pointer is its own history, and an entry that was written cannot go away unnoticed.

Manifests, verdicts, accepted runs, aliases and the live release are each a folder of entries 000001.json, 000002.json, …;
the highest integer is in force. A move creates the next number exclusively, so of two that move at once one has to look
again and decide again: that is `update`. Only who must be told that another one came first takes `append`.

Three things tell that history is not what was written. Each entry carries the sha256 of the one before it. Each entry, once
it is there, is witnessed beside the log: an empty file whose name is its number and sha256. And an entry names the newest
numbers of the logs that it was made from. A process that is killed between an entry and its witness leaves an entry that
nobody vouches for, never one that seems to be missing.
"""

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Generic, TypeVar, final

from pydantic import BaseModel, ValidationError

from batch_assets.errors import AlreadyExists, LostEntry, LostRace, NotFound, TornEntry, UnreadableEntry
from batch_assets.storage import Storage

Body = TypeVar("Body", bound=BaseModel)
"""What the entries of one log say: a frozen model, named by the function that opens the log."""

Standing = TypeVar("Standing", bound="LogEntry[Any] | None")
"""The entry that is left as it is, or None where there is none and none is needed."""


@final
@dataclass(frozen=True)
class LogEntry(Generic[Body]):
    """One entry of a numbered log: who wrote what, when and why.

    `before` is the sha256 of the entry before it (nothing for the first), `seen` the newest number that each log had from
    which it was made, by the log's folder; `sha256` is its own. `written` is its body as it stands in the file `path`.
    """

    number: int
    who: str
    when: str
    why: str
    written: dict[str, Any] = field(repr=False)
    before: str
    seen: dict[str, int]
    sha256: str
    path: str
    kind: type[Body]

    @cached_property
    def body(self) -> Body:
        """What it says. Raises UnreadableEntry if that is not what entries of this log say in this release."""
        try:
            return self.kind.model_validate(self.written)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise UnreadableEntry(
                f"{self.path} cannot be read as {self.kind.__name__} ({where or 'the body'}: {problem['msg']}): use the "
                "release of batch-assets that wrote it, or restore it from a copy."
            ) from error

    def says(self, body: Body) -> bool:
        """Whether it says the same as a body, also where it cannot be read."""
        return self.written == body.model_dump(mode="json")


@final
@dataclass(frozen=True)
class Change(Generic[Body]):
    """What is to be appended to a log: a body, the reason, and the logs from which it was made."""

    body: Body
    why: str
    seen: "Sequence[NumberedLog[Any]]" = ()


@dataclass(frozen=True)
class NumberedLog(Generic[Body]):
    """A pointer that is its own history: files 000001.json, 000002.json, …; the highest integer is the truth.

    An entry carries its own sha256 and that of the one before it. An entry that is torn, lost or another one than was written
    is an error that names it; its number is never used again. `kind` is the model of the entries' bodies.
    """

    storage: Storage
    folder: str
    kind: type[Body]

    def update(self, decide: Callable[[LogEntry[Body] | None], Change[Body] | Standing]) -> LogEntry[Body] | Standing:
        """Decide on what is in force now, and append what was decided; returns the entry that is in force then.

        Args:
            decide: is given the entry in force (None: nothing was ever written), and returns a change, or the entry itself if
                that stands. If another writer comes first, it is asked again, with what that one wrote; what it raises ends
                the update, and nothing was written.

        Raises:
            TornEntry, LostEntry: as `latest` and `append` do.
        """
        while True:
            latest = self.latest()
            decided = decide(latest)
            if not isinstance(decided, Change):
                return decided
            with suppress(LostRace):
                return self.append(decided.body, after=latest.number if latest else 0, why=decided.why, seen=decided.seen)

    def latest(self) -> LogEntry[Body] | None:
        """The entry in force, or None if nothing was ever written: two listings, and two entries are read.

        Raises:
            TornEntry: it, or the one before it, does not match its own sha256.
            LostEntry: an entry is missing, or is not the one that was written.
        """
        return next(self.history(), None)

    def history(self) -> Iterator[LogEntry[Body]]:
        """Every entry, newest first; each is compared with what was written before it is given out.

        Raises:
            TornEntry, LostEntry: as `latest` does, of each entry that is asked for.
        """
        witnessed = self._witnessed()  # before the entries are listed: one that is written meanwhile is no loss
        numbers = set(self.numbers())
        newest = max(numbers | witnessed.keys(), default=0)
        for number in sorted(set(range(1, newest + 1)) - numbers):
            self._require(number)
        entry = self.entry(newest) if newest else None
        while entry is not None:
            previous = self.entry(entry.number - 1) if entry.number > 1 else None
            if witnessed.get(entry.number, entry.sha256) != entry.sha256:
                raise LostEntry(f"{self._named(entry.number)} is not the entry that was written: restore it from a copy.")
            if (previous.sha256 if previous else "") != entry.before:
                raise LostEntry(f"{self._named(entry.number - 1)} is not what entry {entry.number} follows: restore it.")
            yield entry
            entry = previous

    def numbers(self) -> list[int]:
        """Every number there is, ascending."""
        return sorted(
            int(name.removesuffix(".json"))
            for name in self.storage.names(self.folder)
            if name.endswith(".json") and name.removesuffix(".json").isdigit()
        )

    def entry(self, number: int) -> LogEntry[Body]:
        """One entry by its number. Raises NotFound, TornEntry."""
        try:
            document = json.loads(self.storage.read(self._path(number)))
            intact = document["number"] == number and document["sha256"] == _sha256_of({**document, "sha256": None})
            written = document.pop("body")
            entry = LogEntry(**document, written=written, path=self._named(number), kind=self.kind)
        except (ValueError, TypeError, KeyError):
            intact = False
        if not intact:
            raise TornEntry(
                f"{self._named(number)} is torn: it does not match its own sha256 or number; restore it from a copy."
            )
        return entry

    def append(self, body: Body, *, after: int, why: str, seen: "Sequence[NumberedLog[Any]]" = ()) -> LogEntry[Body]:
        """Write the entry that follows number `after` (0 for the first), made from what other logs say now (`seen`).

        For who has decided on number `after` and on no other; who would decide again on a newer one takes `update`.

        Raises:
            LostRace: somebody else wrote that number first; read again and decide again.
            LostEntry: the entry before it, or one that was written already under its number, is missing.
        """
        newest = max(self._witnessed(), default=0)
        if newest > after:
            self._require(after + 1)
            raise LostRace(f"{self._path(after + 1)} was written by somebody else.")
        if after:
            self._require(after)
        entry = {
            "number": after + 1,
            "who": f"{user_name()}@{socket.gethostname()}",
            "when": datetime.now(UTC).isoformat(timespec="microseconds"),
            "why": why,
            "body": body.model_dump(mode="json"),
            "before": self.entry(after).sha256 if after else "",
            "seen": {log.folder: latest.number for log in seen if (latest := log.latest())},
            "sha256": None,
        }
        sha256 = _sha256_of(entry)
        try:
            self.storage.create(self._path(after + 1), json.dumps({**entry, "sha256": sha256}, indent=1).encode())
        except AlreadyExists:
            raise LostRace(f"{self._path(after + 1)} was written by somebody else in the same moment.") from None
        with suppress(AlreadyExists):  # a put that was repeated found its own file
            self.storage.create(self._witness(after + 1, sha256), b"")
        return self.entry(after + 1)

    def made_from(self, entry: LogEntry[Body]) -> "list[NumberedLog[Any]]":
        """The logs from which an entry of this log was made; what they say is not known here."""
        return [NumberedLog(self.storage, folder, BaseModel) for folder in entry.seen]

    def require_seen(self, entry: LogEntry[Body]) -> LogEntry[Body]:
        """An entry of this log, if each log that it was made from still has what it had then. Raises LostEntry."""
        for log in self.made_from(entry):
            number = entry.seen[log.folder]
            if not log._is_there(number):
                raise LostEntry(
                    f"{log._named(number)}, from which {self._path(entry.number)} was made, is missing: restore it from a copy."
                )
        return entry

    def _require(self, number: int) -> None:
        """Raises LostEntry if an entry that was written is not there, and says how to go on without it."""
        if self._is_there(number):
            return
        witnesses = [self._witness(*one) for one in sorted(self._witnessed().items()) if one[0] >= number]
        is_newest = witnesses and number > max(self.numbers(), default=0)
        otherwise = f", or remove {' and '.join(witnesses)} to go on without it" if is_newest else ""
        raise LostEntry(f"{self._named(number)} was written and is missing: restore it from a copy{otherwise}.")

    def _is_there(self, number: int) -> bool:
        try:
            self.storage.stamp(self._path(number))
        except NotFound:
            return False
        return True

    def _witnessed(self) -> dict[int, str]:
        """The sha256 of each entry that was seen in its place, by its number."""
        found = (name.split("-") for name in self.storage.names(self._witness_folder) if "-" in name)
        return {int(number): sha256 for number, sha256 in found if number.isdigit()}

    @property
    def _witness_folder(self) -> str:
        parent, _, name = self.folder.rpartition("/")
        return f"{parent}/_witness/{name}" if parent else f"_witness/{name}"

    def _witness(self, number: int, sha256: str) -> str:
        return f"{self._witness_folder}/{number:06d}-{sha256}"

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.json"

    def _named(self, number: int) -> str:
        return f"{self._path(number)} under {self.storage.location}"


def user_name() -> str:
    """Who this process belongs to."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return f"uid{os.getuid()}"


def _sha256_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
