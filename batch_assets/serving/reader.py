"""Look-ups: from a key to its prediction and where that came from."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from batch_assets.errors import BatchAssetsError, Closed, NoPrediction, ReleaseBroken
from batch_assets.features.keys import KeyValue, Parser, Said, identity_of, in_words, parsed, parser, parts, plain
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.live import current_log, named_release
from batch_assets.serving.store import Pointer, Release, Store, Table
from batch_assets.storage import LocalStorage, Storage, default_root, open_storage

Found = TypeVar("Found")

_LOG = logging.getLogger(__name__)


class Answer(NamedTuple):
    """One key's prediction: the record as in the predictions file, and its lineage; a key of several columns is a list."""

    key: object
    record: dict[str, Any]
    lineage: dict[str, Any]


@dataclass(frozen=True)
class _Opened:
    """What a reader answers from: a release that is live, or was a moment ago, and the process that opened it."""

    number: int
    release: Release
    table: Table
    pid: int

    @cached_property
    def types(self) -> list[pa.DataType]:
        """Those of the key's columns."""
        return [one.arrow for one in self.release.key]

    @cached_property
    def is_file(self) -> bool:
        """Whether a file answers."""
        return isinstance(self.release.store, FileStore)

    @cached_property
    def parse(self) -> Parser:
        """What makes such a key of what somebody says."""
        return parser(self.types)

    @cached_property
    def names(self) -> list[str]:
        """Those of the key's columns."""
        return [one.name for one in self.release.key]

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What the record of every key says at its end."""
        return {"model_version": self.release.model.version, "partition": self.release.partition}

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """Where all its answers come from."""
        release = self.release
        return {
            "pipeline": release.pipeline,
            "release": release.name,
            "run_id": release.run_id,
            "snapshot": release.snapshot,
            "model": release.model.name,
            "model_sha256": release.model.sha256,
        }


class Reader:
    """Answers from the release that is live: each call from one, so that no answer mixes two.

    It looks every `fresh_s` seconds, in a call, whether another went live; while nobody can say, it goes on with what it has.
    Threads may share it, none of them waits for another. A process that was forked from its own opens the release again.

        reader = Reader.open("churn")
        answer = reader.get(42)  # None if nobody has that key
    """

    def __init__(self, storage: Storage, pipeline: str, pointer: Callable[[], Pointer | None], fresh_s: float = 1.0) -> None:
        self._storage, self._pipeline, self._pointer, self._fresh_s = storage, pipeline, pointer, fresh_s
        self._turn, self._look_at = threading.Lock(), time.monotonic() + fresh_s
        self._opened: _Opened | None = self._open()

    @classmethod
    def open(cls, pipeline: str, storage: Storage | None = None, *, fresh_s: float = 1.0) -> "Reader":
        """A reader of what is live under a storage root, by default BATCH_ASSETS_ROOT, in the first store that has it.

        Raises:
            NoPrediction: nothing was ever published.
            ReleaseBroken: what is live now is not what went live.
            StoreUnavailable: the store does not answer.
        """
        root = storage or open_storage(default_root())
        log = current_log(root, pipeline)

        def pointer() -> Pointer | None:
            entry = log.latest()
            while entry is not None:
                try:
                    return Pointer(entry.number, named_release(root, pipeline, entry))
                except ReleaseBroken:  # a newer one may have gone live meanwhile, and this one been pruned
                    newer = log.latest()
                    if newer is None or newer.number == entry.number:
                        raise
                    entry = newer
            return None

        return cls(root, pipeline, pointer, fresh_s)

    @classmethod
    def of_store(cls, store: Store, pipeline: str, *, fresh_s: float = 1.0) -> "Reader":
        """A reader of what a store's own pointer names: where the storage root is not at hand. Raises as `open` does."""
        root = open_storage(default_root())
        return cls(root, pipeline, lambda: store.pointer(root, pipeline), fresh_s)

    @classmethod
    def of_release(cls, storage: Storage, release: Release) -> "Reader":
        """A reader of one release, whatever goes live. Raises ReleaseBroken, StoreUnavailable."""
        return cls(storage, release.pipeline, lambda: Pointer(0, release), float("inf"))

    @property
    def release(self) -> Release:
        """The release that is answered from now. Raises Closed."""
        return self._now().release

    @property
    def is_local(self) -> bool:
        """Whether files on this machine answer, and say what is live, and no server does; nobody looks. Raises Closed."""
        return self._still().is_file and isinstance(self._storage, LocalStorage)

    def lookup(self, *key: object) -> Answer:
        """The prediction of a key, one value for each of its columns.

        Raises:
            NoPrediction: there is none; says why.
            ReleaseBroken: what would decide the answer is damaged.
            StoreUnavailable: the store does not answer.
            Closed: the reader was closed.
        """
        found = self._ask(_get, key)
        if found is None:
            said, release = in_words(key), self._still().release
            if parsed(key, [one.arrow for one in release.key]) is None:
                about = ", ".join(f"{one.name} ({one.dtype})" for one in release.key)
                raise NoPrediction(f"no prediction for key {said}: keys of {release.pipeline} are {about}")
            raise NoPrediction(f"no prediction for key {said} in release {release.name} of {release.pipeline}")
        return found

    def get(self, key: Said) -> Answer | None:
        """The prediction of a key, or None if there is none; a key of several columns is a sequence. Raises as `lookup`."""
        return self._ask(_get, parts(key))

    def get_many(self, keys: Iterable[Said]) -> list[Answer | None]:
        """The predictions of many keys in their order, all of one release, None where there is none. Raises as `lookup`."""
        said = [parts(key) for key in keys]
        return self._ask(_get_many, said)

    def close(self) -> None:
        """Let go of the release, which calls that are under way still have."""
        self._opened = None

    def _ask(self, ask: Callable[[_Opened, Sequence[Any]], Found], said: Sequence[Any]) -> Found:
        """Ask what is live for what was said. If that was pruned meanwhile, what is live now is asked."""
        opened = self._now()
        try:
            return ask(opened, said)
        except ReleaseBroken:
            newer = self._look(opened)
            if newer is opened:
                raise
            return ask(newer, said)

    def _still(self) -> _Opened:
        """What was asked last. Raises Closed."""
        opened = self._opened
        if opened is None:
            raise Closed(f"This reader of {self._pipeline} is closed: open another.")
        return opened

    def _now(self) -> _Opened:
        """What is asked; every now and then one of the calls looks whether it is still live."""
        opened = self._still()
        if opened.pid != os.getpid():
            opened = self._opened = self._open()
            self._turn = threading.Lock()  # the one of the process that forked may have been held
        elif time.monotonic() >= self._look_at and self._turn.acquire(blocking=False):
            try:
                opened = self._look(opened)
            except BatchAssetsError as error:
                _LOG.warning("%s is answered from %s: %s", self._pipeline, opened.release.name, error)
            finally:
                self._look_at = time.monotonic() + self._fresh_s
                self._turn.release()
        return opened

    def _look(self, opened: _Opened) -> _Opened:
        """What is live now, opened; what was open goes when the last call that asks it has its answer."""
        pointer = self._pointer()
        if pointer is None or pointer.number == opened.number:
            return opened
        found = self._open(opened.table, pointer)
        if self._opened is not None:  # it was closed meanwhile
            self._opened = found
        return found

    def _open(self, table: Table | None = None, pointer: Pointer | None = None) -> _Opened:
        """Open what is live. Between a look at the pointer and the opening it may be pruned: then the pointer is read again."""
        pointer = pointer or self._pointer()
        while pointer is not None:
            try:
                opened = (table.reopen if table else pointer.release.store.open)(self._storage, pointer.release)
                return _Opened(pointer.number, pointer.release, opened, os.getpid())
            except ReleaseBroken:
                newer = self._pointer()
                if newer is None or newer.number == pointer.number:
                    raise
                pointer = newer
        raise NoPrediction(f"Nothing of {self._pipeline} has been published under {self._storage.location} yet.")


def _get(opened: _Opened, key: Sequence[object]) -> Answer | None:
    typed = opened.parse(key)
    stored = _stored(opened, typed) if typed else None
    found = opened.table.get(stored) if stored is not None else None
    return _answer(opened, typed, found) if typed and found is not None else None


def _get_many(opened: _Opened, keys: Sequence[Sequence[object]]) -> list[Answer | None]:
    typed = [opened.parse(key) for key in keys]
    stored = [_stored(opened, one) if one else None for one in typed]
    found = iter(opened.table.get_many([one for one in stored if one is not None]))
    records = [next(found) if one is not None else None for one in stored]
    return [
        _answer(opened, one, record) if one and record is not None else None for one, record in zip(typed, records, strict=True)
    ]


def _stored(opened: _Opened, typed: Sequence[KeyValue]) -> KeyValue | bytes | None:
    """A key as the store has it, or None if nobody has such a key."""
    if len(typed) == 1:
        return typed[0]
    identity = identity_of(typed, opened.types)
    found: bytes | None = identity[0].as_py() if identity is not None else None
    return found


def _answer(opened: _Opened, typed: Sequence[KeyValue], found: np.void) -> Answer:
    key, record = plain(typed), opened.release.record.as_mapping(found)
    if len(typed) == 1:
        return Answer(key, {opened.names[0]: key, **record, **opened.origin}, opened.lineage.copy())
    columns = {name: plain([value]) for name, value in zip(opened.names, typed, strict=True)}
    return Answer(key, {**columns, **record, **opened.origin}, opened.lineage.copy())
