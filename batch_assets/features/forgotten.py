"""Whom a pipeline has forgotten: keys that are known by keyed hashes only. The secret of the hashes lies outside the root.

Each key is kept as its HMAC-SHA256, which covers the pipeline's name and the type of each of its columns. An HMAC cannot be
computed for millions of rows, so beside it stand 16 bits of a fast hash under a seed that only the secret gives: of the rows
that are read, few have the bits of somebody who is forgotten, and only for those it is computed.

The log says beside who was forgotten, when and why, what was purged then.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, RootModel

from batch_assets.arrow import as_arrow
from batch_assets.digest import hash_under
from batch_assets.errors import SecretInvalid
from batch_assets.features.keys import as_bytes, identity
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.secret import make_secret, read_secret, secret_file
from batch_assets.storage import Storage

KEPT_IN = "BATCH_ASSETS_FORGET_SECRET_FILE"
"""The environment variable that names the file with the secret."""

_SHIFT = np.uint64(48)
"""Of a fast hash the first 16 bits are kept."""


class KeyHash(BaseModel):
    """A key that is forgotten: 16 bits of its fast hash, and its HMAC-SHA256 in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int
    hmac: str


class Suppressed(BaseModel):
    """Keys that are forgotten from this entry on; `secret` is the fingerprint of the secret of their hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["suppressed"] = "suppressed"
    secret: str
    keys: tuple[KeyHash, ...]


class Purged(BaseModel):
    """A day was written anew without the rows of everybody who was forgotten up to the entry `number`.

    `rows` is how many were taken out of each snapshot, by the folder that it had. `digests` are those of the snapshots and runs
    afterwards, sealed: each was found equal to the digest before minus that of the rows that went. `dropped` are folders that
    were taken away as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["purged"] = "purged"
    number: int
    day: str
    rows: dict[str, int]
    digests: dict[str, str]
    dropped: tuple[str, ...]


class Noted(RootModel[Annotated[Suppressed | Purged, Field(discriminator="kind")]]):
    """One or the other."""

    model_config = ConfigDict(frozen=True)


class ExcludedRows(BaseModel):
    """How many rows a freeze left out, as they are about somebody who was forgotten up to the entry `number`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    rows: int


def forgotten_log(storage: Storage, pipeline: str) -> NumberedLog[Noted]:
    """Whom a pipeline has forgotten, entry by entry, and what was purged."""
    return NumberedLog(storage, f"{pipeline}/_forgotten", Noted)


class Hashing:
    """The keyed hashes of a pipeline's keys."""

    def __init__(self, pipeline: str, secret: bytes) -> None:
        self._secret, self._pipeline = secret, pipeline.encode() + b"\0"
        self._seed = np.frombuffer(self._hmac(b"\0bits")[:8], dtype=np.uint64)[0]
        self.fingerprint = self._hmac(b"\0secret").hex()[:32]

    def bits(self, table: pa.Table, key: Sequence[str]) -> npt.NDArray[np.uint64]:
        """16 bits of each row's key; shape (rows,)."""
        return hash_under(identity(table, key), self._seed) >> _SHIFT

    def hmacs(self, table: pa.Table, key: Sequence[str]) -> list[str]:
        """The HMAC of each row's key, in hex."""
        return [self._hmac(value).hex() for value in as_bytes(table, key).to_pylist()]

    def hashes(self, table: pa.Table, key: Sequence[str]) -> tuple[KeyHash, ...]:
        """Both of each row."""
        both = zip(self.bits(table, key).tolist(), self.hmacs(table, key), strict=True)
        return tuple(KeyHash(bits=bits, hmac=one) for bits, one in both)

    def seal(self, text: str) -> str:
        """What shows to whoever has the secret, and to nobody else, that a text is the same."""
        return self._hmac(b"\0seal" + text.encode()).hex()

    def _hmac(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, self._pipeline + message, hashlib.sha256)


@dataclass(frozen=True)
class Forgotten:
    """Everybody whom a pipeline has forgotten up to the entry `number` of its log."""

    number: int
    hashing: Hashing
    hmacs: frozenset[str]
    bits: npt.NDArray[np.bool_]

    def rows(self, table: pa.Table, key: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which rows are about one of them, shape (rows,).

        Args:
            table: rows with the columns of their key.
            key: those columns, without the item; a row in which one of them is null is about nobody.
        """
        found = np.zeros(len(table), dtype=bool)
        if not all(_can_be_a_key(table.schema.field(name).type) for name in key):
            return found  # whoever writes the rows down refuses them
        keys = pa.table({name: _signed(table.column(name)) for name in key}).combine_chunks()
        places = np.arange(len(table))
        if any(one.null_count for one in keys.columns):
            there = np.logical_and.reduce([np.asarray(one.is_valid()) for one in keys.columns])
            keys, places = keys.filter(as_arrow(there)), np.flatnonzero(there)
        maybe = np.flatnonzero(self.bits[self.hashing.bits(keys, key).astype(np.int64)])
        if len(maybe):
            known = [one in self.hmacs for one in self.hashing.hmacs(keys.take(as_arrow(maybe)), key)]
            found[places[maybe[known]]] = True
        return found


class Without:
    """Rows as they stream, but for those of keys that are forgotten; `rows` is how many were left out so far."""

    def __init__(self, reader: pa.RecordBatchReader, forgotten: Forgotten, key: Sequence[str]) -> None:
        self._reader, self._forgotten, self._key = reader, forgotten, key
        self.rows = 0

    def reader(self) -> pa.RecordBatchReader:
        """The rows that are left."""
        return pa.RecordBatchReader.from_batches(self._reader.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._reader:
            found = self._forgotten.rows(pa.Table.from_batches([batch]), self._key)
            self.rows += int(found.sum())
            yield batch.filter(as_arrow(~found)) if found.any() else batch


def suppressed_number(storage: Storage, pipeline: str) -> int:
    """The newest entry with which a pipeline forgot somebody, or 0."""
    entries = forgotten_log(storage, pipeline).history()
    return next((entry.number for entry in entries if isinstance(entry.body.root, Suppressed)), 0)


def forgotten(storage: Storage, pipeline: str) -> Forgotten | None:
    """Everybody whom a pipeline has forgotten; None if there is nobody, and then no secret is needed.

    Raises:
        SecretInvalid: their secret is not there, or another one is.
    """
    entries = [(entry.number, entry.body.root) for entry in forgotten_log(storage, pipeline).history()]
    said = [(number, body) for number, body in entries if isinstance(body, Suppressed)]
    if not said:
        return None
    try:
        hashing = Hashing(pipeline, read_secret(secret_file(KEPT_IN, storage.location)))
    except SecretInvalid as error:
        raise SecretInvalid(f"{pipeline} has forgotten keys, which only their secret finds: {error}") from None
    _require_same(pipeline, hashing, said[0][1])
    bits = np.zeros(1 << 16, dtype=bool)
    bits[[key.bits for _, body in said for key in body.keys]] = True
    return Forgotten(said[0][0], hashing, frozenset(key.hmac for _, body in said for key in body.keys), bits)


def suppress(storage: Storage, pipeline: str, table: pa.Table, key: Sequence[str], why: str) -> tuple[LogEntry[Noted], str]:
    """Forget the keys of a table's rows from now on; returns the entry, and where a secret was made for it, or nothing.

    Keys that are forgotten already are not written down again, nor is an entry without any.

    Raises:
        SecretInvalid: the secret is not there although somebody was forgotten with it, is another one, or lies under the root.
    """
    log, path = forgotten_log(storage, pipeline), secret_file(KEPT_IN, storage.location)
    is_new = suppressed_number(storage, pipeline) == 0 and make_secret(path)
    hashing = Hashing(pipeline, read_secret(path))

    def decide(latest: LogEntry[Noted] | None) -> LogEntry[Noted] | Change[Noted]:
        said = [body for entry in log.history() if isinstance(body := entry.body.root, Suppressed)]
        if said:
            _require_same(pipeline, hashing, said[0])
        known = {one for body in said for one in body.keys}
        new = tuple(one for one in dict.fromkeys(hashing.hashes(table, key)) if one not in known)
        if latest is not None and not new:
            return latest
        return Change(Noted(Suppressed(secret=hashing.fingerprint, keys=new)), why)

    return log.update(decide), str(path) if is_new else ""


def _require_same(pipeline: str, hashing: Hashing, said: Suppressed) -> None:
    if said.secret != hashing.fingerprint:
        raise SecretInvalid(
            f"{pipeline} has forgotten keys with another secret than the one that {KEPT_IN} names: restore that one."
        )


def _can_be_a_key(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_date32(kind))


def _signed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of a key; whole numbers that no key can be become others, and are refused where they are written down."""
    return column.cast(pa.int64(), safe=False) if pa.types.is_uint64(column.type) else column
