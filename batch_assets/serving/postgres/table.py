"""How a release is read: keys by statements over connections that threads share, and all of it, many rows at once."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import psycopg
from typing_extensions import override

from batch_assets.errors import Closed, ReleaseBroken
from batch_assets.serving.postgres.columns import literal, quoted
from batch_assets.serving.postgres.connection import Connections
from batch_assets.serving.postgres.rows import Rows
from batch_assets.serving.postgres.schema import Objects
from batch_assets.serving.store import Batch, Release, Table
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

KEYS_AT_ONCE = 10_000
"""Keys of one query."""

ROWS_AT_ONCE = 1 << 17
"""Rows of one query, where all are read."""


def require_whole(connections: Connections, objects: Objects) -> int:
    """Look whether a release is a partition in its size; returns how many pages it has. Raises ReleaseBroken."""
    query = f"""
        SELECT pg_relation_size(inhrelid), current_setting('block_size')::int4 FROM pg_inherits
        WHERE inhrelid = to_regclass({literal(objects.table)}) AND inhparent = to_regclass({literal(objects.parent)})"""
    found = connections.ask(lambda connection: connection.execute(query).fetchall(), _about(objects.release))
    wanted = int(objects.release.built["size"])
    if [size for size, _ in found] != [wanted]:
        said = f"has {found[0][0]:,} bytes instead of {wanted:,}" if found else "is not there"
        raise ReleaseBroken(f"The table {objects.table} {said}: publish {objects.release.partition} again.")
    return wanted // int(found[0][1])


def opened(connections: Connections, objects: Objects) -> "PostgresTable":
    """A release for look-ups. Raises ReleaseBroken."""
    require_whole(connections, objects)
    return PostgresTable(connections, objects)


def scanned(connections: Connections, objects: Objects) -> Iterator[Batch]:
    """Everything in a release, in the order in which it was written. Raises ReleaseBroken."""
    pages = require_whole(connections, objects)
    each = max(1, pages * ROWS_AT_ONCE // max(1, objects.release.rows))
    for batch in in_threads(partial(_scan, connections, objects, Rows(objects.release), each), range(0, pages, each)):
        if batch is not None:
            yield batch


def _scan(connections: Connections, objects: Objects, rows: Rows, pages: int, first: int) -> Batch | None:
    """The rows of some pages, or None if there are none."""
    query = f"SELECT {rows.scanned} FROM {objects.table} WHERE ctid >= '({first},0)' AND ctid < '({first + pages},0)'"
    values = connections.ask(lambda connection: _values(connection.execute(query, binary=True)), _about(objects.release))
    try:
        return rows.scan(iter(values)) if values[0] else None
    except ValueError as error:
        raise ReleaseBroken(f"The table {objects.table} cannot be read ({error}): publish the partition again.") from error


def _about(release: Release) -> str:
    return f"release {release.name} of {release.pipeline}"


class PostgresTable(Table):
    """The partition of a release; what is live does not matter to it."""

    def __init__(self, connections: Connections, objects: Objects) -> None:
        self._connections: Connections | None = connections
        self._objects, self._about, self._rows = objects, _about(objects.release), Rows(objects.release)
        keys, fields = objects.keys, ", ".join(quoted(one.name) for one in objects.fields)
        names = [quoted(one.name) for one in keys]
        each = " AND ".join(
            f"{name} = ${place}::{one.asked}" for place, (name, one) in enumerate(zip(names, keys, strict=True), 1)
        )
        lists = ", ".join(f"${place}::{one.asked}[]" for place, one in enumerate(keys, 1))
        among = f"= ANY ({lists})" if len(keys) == 1 else f"IN (SELECT * FROM unnest({lists}))"
        self._one = f"SELECT {fields} FROM {objects.table} WHERE {each}"
        self._many = f"SELECT {', '.join(names)}, {fields} FROM {objects.table} WHERE ({', '.join(names)}) {among}"

    @override
    def get(self, key: Any) -> np.void | None:
        asked = self._rows.asked(key)
        if asked is None:
            return None
        values, _ = asked

        def question(connection: psycopg.Connection[Any]) -> list[bytes]:
            return _values(connection.execute(self._one, values, prepare=True, binary=True))

        found = self._open().ask(question, self._about)
        return self._rows.records(found)[0] if found else None

    @override
    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        if len(keys) == 1:
            return [self.get(keys[0])]  # whose statement the server has prepared
        asked = [self._rows.asked(key) for key in keys]
        values = list({raw: values for values, raw in (one for one in asked if one)}.values())
        found = dict[bytes, np.void]()
        for start in range(0, len(values), KEYS_AT_ONCE):
            found |= self._found(values[start : start + KEYS_AT_ONCE])
        return [found.get(one[1]) if one else None for one in asked]

    @override
    def reopen(self, storage: Storage, release: Release) -> Table:
        if not self._objects.release.store.same_place(release.store):
            return super().reopen(storage, release)
        return opened(self._open(), Objects(self._objects.schema, release))

    @override
    def close(self) -> None:
        """Let go of it; connections that no other table shares are closed when the last look-up has its answer."""
        self._connections = None

    def _open(self) -> Connections:
        if self._connections is None:
            raise Closed(f"The {self._about} is closed: open it again.")
        return self._connections

    def _found(self, values: Sequence[tuple[Any, ...]]) -> dict[bytes, np.void]:
        """The records of the keys that are there, by what messages have as their keys."""
        columns = [list(column) for column in zip(*values, strict=True)]

        def question(connection: psycopg.Connection[Any]) -> list[bytes]:
            return _values(connection.execute(self._many, columns, prepare=False, binary=True))

        found, keys = self._open().ask(question, self._about), len(columns)
        width = keys + len(self._rows.fields)
        raw = [b"\0".join(found[start : start + keys]) for start in range(0, len(found), width)]
        records = self._rows.records(value for place, value in enumerate(found) if place % width >= keys)
        return dict(zip(raw, records, strict=True))


def _values(cursor: psycopg.Cursor[Any]) -> list[bytes]:
    """Every value of an answer as its message has it, row after row."""
    result = cursor.pgresult
    if result is None:
        return []
    value, rows, columns = result.get_value, range(result.ntuples), range(result.nfields)
    return [value(row, column) or b"" for row in rows for column in columns]
