"""What a keyspace has of each pipeline: every build, from its first moment on, and which one is live.

A pipeline is one partition of the table `releases`. Its builds are rows; what is live stands in static columns beside them. So
one conditional statement sees both: a build that is being dropped does not go live, and what is live is not dropped.
"""

import time
from dataclasses import dataclass

from batch_assets.serving.cassandra.fields import as_int
from batch_assets.serving.cassandra.session import Row, Session
from batch_assets.serving.store import Release

_COLUMNS = (
    "pipeline text, build text, root text, release text, started timestamp, dropped boolean, number bigint STATIC, "
    "live text STATIC, live_buckets int STATIC, live_root text STATIC, live_release text STATIC, PRIMARY KEY (pipeline, build)"
)


@dataclass(frozen=True)
class Try:
    """One build: its table, the root and release that it is of, as JSON, and whether somebody drops it."""

    build: str
    root: str
    release: str
    dropped: bool


@dataclass(frozen=True)
class Live:
    """What is live: by which number, its table, the root and release that it is of."""

    number: int
    build: str
    root: str
    release: str


@dataclass(frozen=True)
class Seen:
    """All builds of a pipeline, and what is live."""

    tries: tuple[Try, ...]
    live: Live | None


class Registry:
    """The table `releases` of a keyspace. Every method raises StoreUnavailable; a keyspace without it ReleaseBroken."""

    def __init__(self, session: Session, keyspace: str) -> None:
        self._session, self._table = session, f"{keyspace}.releases"

    def create(self) -> None:
        """Make sure that there is one."""
        self._session.change(f"CREATE TABLE IF NOT EXISTS {self._table} ({_COLUMNS})")

    def begin(self, release: Release, root: str) -> None:
        """Write down a build before anything else is done for it."""
        said = _texts(release.pipeline, release.built["build"], root, release.model_dump_json())
        self._session.applied(
            f"INSERT INTO {self._table} (pipeline, build, root, release, started) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
            [*said, _long(int(time.time() * 1000))],
        )

    def seen(self, pipeline: str, consistency: str) -> Seen:
        """What there is of a pipeline."""
        columns = "build, root, release, dropped, number, live, live_root, live_release"
        rows = self._session.rows(f"SELECT {columns} FROM {self._table} WHERE pipeline = ?", _texts(pipeline), consistency)
        tries = tuple(Try(_text(row[0]), _text(row[1]), _text(row[2]), row[3] == b"\1") for row in rows if row[0] is not None)
        if not rows or rows[0][4] is None:
            return Seen(tries, None)
        number, build, root, release = rows[0][4:]
        return Seen(tries, Live(int.from_bytes(number or b"", "big", signed=True), _text(build), _text(root), _text(release)))

    def move(self, release: Release, root: str, seen: Live | None, number: int) -> bool:
        """Let a build be live if what was seen live still is, and nobody drops it; whether it is."""
        build = release.built["build"]
        live = [*_texts(build), as_int(int(release.built["buckets"])), *_texts(root, release.model_dump_json())]
        return self._session.applied(
            f"BEGIN BATCH UPDATE {self._table} SET number = ?, live = ?, live_buckets = ?, live_root = ?, live_release = ? "
            f"WHERE pipeline = ? IF number = ?; UPDATE {self._table} SET root = ? WHERE pipeline = ? AND build = ? "
            "IF root = ? AND dropped = null; APPLY BATCH",
            [
                *(_long(number), *live, *_texts(release.pipeline), _long(seen.number) if seen else None),
                *_texts(root, release.pipeline, build, root),
            ],
        )

    def begin_drop(self, pipeline: str, build: str, root: str) -> bool:
        """Let a build of a root not go live any more; whether it is there and not live."""
        return self._session.applied(
            f"UPDATE {self._table} SET dropped = true WHERE pipeline = ? AND build = ? IF root = ? AND live != ?",
            _texts(pipeline, build, root, build),
        )

    def forget(self, pipeline: str, build: str) -> None:
        """A build whose table is gone."""
        self._session.applied(f"DELETE FROM {self._table} WHERE pipeline = ? AND build = ? IF EXISTS", _texts(pipeline, build))


def _texts(*values: str) -> Row:
    return [value.encode() for value in values]


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


def _long(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)
