"""What a freeze read: which tables and files, under which time zone, and how new their rows were. Nothing is judged here.

The record is a numbered log beside the snapshot, because the same rows may be frozen again from other files.
"""

import hashlib
import json
from datetime import date

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import SnapshotChanged, UnreadableEntry
from batch_assets.features.forgotten import ExcludedRows
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.storage import Storage


class SourceFile(BaseModel):
    """One file of a table as it was when the freeze began; of a topic, one of its partitions.

    `stamp` is what tells that it is still the same: its mtime in nanoseconds and its inode, an etag, offsets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    rows: int
    stamp: str


class SourceTable(BaseModel):
    """What was read as one table; each source says of it what it knows.

    `path` is where it lies, as its source calls that: a file, a folder, a glob, an address without its secrets. `pinned` is the
    state that was read, where the back end has a name for one: a version, a snapshot, offsets. `rows` are all that are there,
    `unreadable` how many of them could not be read, which count as input that was not scored. `told` are phrases: widened
    types, columns that some files do not have. Of a table with an `event_date`, the column that says when a row happened,
    `newest` is the newest date in what was read, `newest_until_day` the newest one that is not after the partition's day, and
    `rows_of_day` how many rows have that day; a table without one says nothing of its dates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    pinned: str = ""
    files: tuple[SourceFile, ...] = ()
    rows: int
    unreadable: int = 0
    told: tuple[str, ...] = ()
    event_date: str | None = None
    newest: date | None = None
    newest_until_day: date | None = None
    rows_of_day: int | None = None


class Provenance(BaseModel):
    """What a freeze of `day` read: the tables by name, the time zone of its days, and a sha256 of what decided the rows.

    That is what the pipeline says of its source and, where there is one, the query. `forgotten` are rows that were read and
    left out; None where nobody was forgotten then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: date
    timezone: str
    settings_sha256: str
    tables: tuple[SourceTable, ...]
    forgotten: ExcludedRows | None = Field(None, exclude_if=lambda said: said is None)


def sha256_of(*said: str) -> str:
    """What a provenance says of what decided the rows: settings as JSON, the text of a query."""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def keep_provenance(storage: Storage, folder: str, provenance: Provenance) -> None:
    """Write down what was read for the snapshot in a folder, unless the newest entry says the same."""

    def decide(latest: LogEntry[Provenance] | None) -> LogEntry[Provenance] | Change[Provenance]:
        return latest if latest is not None and latest.says(provenance) else Change(provenance, "frozen")

    provenance_log(storage, folder).update(decide)


def read_provenance(storage: Storage, folder: str) -> Provenance:
    """What was read last for the snapshot in a folder. Raises SnapshotChanged, TornEntry."""
    entry = provenance_log(storage, folder).latest()
    advice = "freeze the partition again with --refresh"
    if entry is None:
        raise SnapshotChanged(f"{folder}/_source is missing: {advice}.")
    try:
        return entry.body
    except UnreadableEntry as error:
        raise SnapshotChanged(f"{folder}/_source is of another release: {advice}.") from error


def provenance_log(storage: Storage, folder: str) -> NumberedLog[Provenance]:
    """What was read for the snapshot in a folder, time after time; the highest entry is in force."""
    return NumberedLog(storage, f"{folder}/_source", Provenance)
