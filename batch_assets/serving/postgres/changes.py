"""What is changed in the schema: a try begins, a release is written, goes live, is removed. Each on an open connection."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.serving.postgres.columns import literal
from batch_assets.serving.postgres.rows import Rows
from batch_assets.serving.postgres.schema import Objects, Schema, readers
from batch_assets.serving.store import Batches, Release, in_order
from batch_assets.threads import in_threads

Done = TypeVar("Done")
Connection = psycopg.Connection[Any]

_LOCK_MS, _PAUSE_S, _TRIES = 50, 0.2, 10
"""Who waits for a lock keeps those waiting who come after: so long at most, then it lets them pass and tries again."""

COPY_HEAD, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
"""How a binary COPY begins and ends."""


@dataclass(frozen=True)
class LiveBuild:
    """What is live: its number, the try that built it, and the storage root that it is from."""

    number: int
    build: int
    root: str
    release: Release


def live_build(connection: Connection, schema: Schema, pipeline: str) -> LiveBuild | None:
    """What is live of a pipeline; None if nothing is, or the schema is not there."""
    return _newest(connection, schema, pipeline) if is_made(connection, schema) else None


def is_made(connection: Connection, schema: Schema) -> bool:
    """Whether the schema is there with its tables."""
    return bool(_one(connection, f"SELECT to_regclass({literal(schema.pointers)}) IS NOT NULL"))


def begin(connection: Connection, schema: Schema, release: Release, root: str) -> Objects:
    """Write down that a release is about to be built, and make what it will be a part of where that is not there.

    Raises:
        StoreUnavailable: the server is too old, or the database has another encoding.
    """
    version, encoding = connection.info.server_version, connection.info.parameter_status("server_encoding")
    if version < 140_000 or encoding != "UTF8":
        raise StoreUnavailable(
            f"PostgreSQL {version // 10_000} cannot keep releases in a database in {encoding}: take 14 or newer, and UTF8."
        )
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", [f"batch-assets {schema.name}"])  # one after another
        if not is_made(connection, schema):
            if not _one(connection, f"SELECT to_regnamespace({literal(str(schema))}) IS NOT NULL"):
                connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(schema.made)
        objects = Objects(schema, release)
        if not _one(connection, f"SELECT to_regclass({literal(objects.parent)}) IS NOT NULL"):
            live = live_build(connection, schema, release.pipeline)
            connection.execute(objects.parent_made)
            if live is not None:  # it had other keys or records
                _grant(connection, objects.parent, _readers(connection, Objects(schema, live.release).parent))
        while True:
            build = secrets.randbelow(1 << 31)
            built = {"build": str(build), "table": objects.table_name(build)}
            begun = Objects(schema, release.model_copy(update={"built": built}))
            row = [build, release.pipeline, root, built["table"], begun.release.model_dump_json()]
            if connection.execute(
                f"INSERT INTO {schema.builds} VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", row
            ).rowcount:
                return begun


def write(connection: Connection, objects: Objects, batches: Batches) -> Release:
    """Write a release in one transaction, and make it a partition; returns it as it was built.

    Raises:
        ReleaseBroken: keys are doubled or out of order, or somebody removed it meanwhile.
    """
    with connection.transaction():
        if not _is_held(connection, objects):
            raise ReleaseBroken(f"The release {objects.release.name} was removed while it was built: publish it again.")
        connection.execute(objects.table_made)
        rows = Rows(objects.release)
        with connection.cursor().copy(objects.copy) as copy:
            copy.write(COPY_HEAD)
            for message in in_threads(rows.copied, in_order(batches)):
                copy.write(message)
            copy.write(COPY_END)
        connection.execute(objects.indexed)
        _grant(connection, objects.table, _readers(connection, objects.parent))
        connection.execute(objects.attach)
        _know_attached(connection, objects)
        size = _one(connection, f"SELECT pg_relation_size({literal(objects.table)})")
        release = objects.release.model_copy(update={"built": {**objects.release.built, "size": str(size)}})
        row = [objects.build, release.model_dump_json()]
        connection.execute(f"UPDATE {objects.schema.builds} SET release = $2 WHERE build = $1", row)
    return release


def go_live(connection: Connection, objects: Objects, number: int, root: str) -> None:
    """Let readers see a release, unless they see one of a higher number. For `patiently`.

    The view is made where it is not there, and made again if keys or records are others now, for the same readers.

    Raises:
        StoreUnavailable: the pipeline is served from another root.
        ReleaseBroken: somebody removed the release meanwhile.
    """
    schema, pipeline = objects.schema, objects.release.pipeline
    live = _locked_live(connection, objects)
    if live is not None and live.root != root:
        raise StoreUnavailable(
            f"The schema {schema.name} serves {pipeline} from another storage root: give this store another schema_name."
        )
    if live is not None and live.number > number:
        return
    if objects.build not in _attached(connection, objects):
        raise ReleaseBroken(f"The release {objects.release.name} was removed meanwhile: publish it again.")
    if not _one(connection, objects.is_view_there):
        names = _readers(connection, objects.view)
        connection.execute(f"DROP VIEW IF EXISTS {objects.view}; {objects.view_made}")
        _grant(connection, objects.view, names)
    row = [pipeline, number, objects.build, root, objects.release.model_dump_json()]
    connection.execute(f"INSERT INTO {schema.pointers} VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", row)


def remove(connection: Connection, objects: Objects) -> None:
    """Remove a release and what is said of it, unless it is live. For `patiently`."""
    live = _locked_live(connection, objects)
    if live is not None and live.build == objects.build:
        return
    _is_held(connection, objects)  # by us now, not by who builds it
    connection.execute(f"DROP TABLE IF EXISTS {objects.table}")
    _know_attached(connection, objects)
    for table in (objects.schema.pointers, objects.schema.builds):
        connection.execute(f"DELETE FROM {table} WHERE build = $1", [objects.build])


def left(connection: Connection, schema: Schema, pipeline: str, root: str, needed: list[int]) -> list[Release]:
    """What was built, or begun, of a root's pipeline, but for what is needed, what is live and what somebody builds now."""
    live = live_build(connection, schema, pipeline)
    found = connection.execute(
        f"SELECT release::text FROM {schema.builds} WHERE pipeline = $1 AND root = $2 AND build <> ALL ($3::int4[]) "
        "FOR UPDATE SKIP LOCKED",
        [pipeline, root, [*needed, *([live.build] if live else [])]],
    )
    return [Release.model_validate_json(text) for (text,) in found]


def patiently(connection: Connection, step: Callable[[], Done]) -> Done:
    """Take a step, as one transaction, which needs locks that readers may have; those who wait behind it wait a moment only.

    Raises:
        psycopg.errors.LockNotAvailable: they have them for long.
    """
    for left in reversed(range(_TRIES)):
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
                return step()
        except errors.LockNotAvailable:
            if not left:
                raise
        time.sleep(_PAUSE_S)
    raise AssertionError


def _locked_live(connection: Connection, objects: Objects) -> LiveBuild | None:
    """What is live of a pipeline, which nobody else changes until this transaction ends; readers do not wait."""
    connection.execute(f"LOCK TABLE {objects.schema.pointers} IN SHARE ROW EXCLUSIVE MODE")
    return _newest(connection, objects.schema, objects.release.pipeline)


def _newest(connection: Connection, schema: Schema, pipeline: str) -> LiveBuild | None:
    rows = connection.execute(schema.newest, [pipeline]).fetchall()
    return next((LiveBuild(number, build, root, Release.model_validate_json(text)) for number, build, root, text in rows), None)


def _is_held(connection: Connection, objects: Objects) -> bool:
    """Whether a try is still written down, and is nobody else's until this transaction ends."""
    held = connection.execute(f"SELECT FROM {objects.schema.builds} WHERE build = $1 FOR UPDATE", [objects.build])
    return held.rowcount == 1


def _attached(connection: Connection, objects: Objects) -> list[int]:
    return [build for (build,) in connection.execute(objects.attached)]


def _know_attached(connection: Connection, objects: Objects) -> None:
    """Let plans know the partitions as they are; the caller holds a lock of the parent by which nobody else changes it."""
    connection.execute(objects.knows(_attached(connection, objects)))


def _readers(connection: Connection, relation: str) -> list[str]:
    return [name for (name,) in connection.execute(readers(relation))]


def _grant(connection: Connection, relation: str, names: list[str]) -> None:
    for name in names:
        connection.execute(f"GRANT SELECT ON {relation} TO {name}")


def _one(connection: Connection, query: str) -> Any:
    """The one value of the one row that a query gives."""
    ((value,),) = connection.execute(query).fetchall()
    return value
