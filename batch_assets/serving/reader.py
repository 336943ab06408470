"""Look-ups: from a key to its prediction and where that came from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batch_assets.errors import NoPrediction, ReleaseBroken
from batch_assets.features.keys import KeyValue, Said, identity_of, in_words, parsed, parts, plain
from batch_assets.serving.release import current_log, named_release
from batch_assets.serving.store import Release
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Answer:
    """One key's prediction: the record as in the predictions file, and its lineage; a key of several columns is a list."""

    key: object
    record: dict[str, Any]
    lineage: dict[str, Any]


class Reader:
    """Answers from one release, so that no answer mixes two."""

    def __init__(self, storage: Storage, release: Release) -> None:
        self._release = release
        self._types = [one.arrow for one in release.key]
        self._table = release.store.open(storage, release)

    @classmethod
    def live(cls, storage: Storage, pipeline: str) -> "Reader":
        """A reader of what is live now.

        Between a look at the pointer and the opening, a newer release may go live and the older one be pruned: then the
        pointer is read again.

        Raises:
            NoPrediction: nothing was ever published.
            ReleaseBroken: what is live now is not what went live.
        """
        log = current_log(storage, pipeline)
        entry = log.latest()
        while entry is not None:
            try:
                return cls(storage, named_release(storage, pipeline, entry))
            except ReleaseBroken:
                newer = log.latest()
                if newer is None or newer.number == entry.number:
                    raise
                entry = newer
        raise NoPrediction(f"Nothing of {pipeline} has been published under {storage.location} yet.")

    def lookup(self, *key: object) -> Answer:
        """The prediction of a key, one value for each of its columns. Raises NoPrediction, ReleaseBroken."""
        release = self._release
        typed = parsed(key, self._types)
        if typed is None:
            about = ", ".join(f"{one.name} ({one.dtype})" for one in release.key)
            raise NoPrediction(f"no prediction for key {in_words(key)}: keys of {release.pipeline} are {about}")
        stored = self._stored(typed)
        found = self._table.get(stored) if stored is not None else None
        if found is None:
            raise NoPrediction(f"no prediction for key {in_words(key)} in release {release.name} of {release.pipeline}")
        return self._answer(typed, found)

    def get_many(self, keys: Iterable[Said]) -> list[Answer | None]:
        """The predictions of many keys in their order, None where there is none; a key of several columns is a sequence.

        Raises:
            ReleaseBroken: what would decide an answer is damaged.
        """
        typed = [parsed(parts(key), self._types) for key in keys]
        stored = [self._stored(one) if one else None for one in typed]
        found = iter(self._table.get_many([one for one in stored if one is not None]))
        records = [next(found) if one is not None else None for one in stored]
        return [
            self._answer(one, record) if one and record is not None else None
            for one, record in zip(typed, records, strict=True)
        ]

    def _stored(self, typed: Sequence[KeyValue]) -> KeyValue | bytes | None:
        """A key as the store has it, or None if nobody has such a key."""
        if len(typed) == 1:
            return typed[0]
        identity = identity_of(typed, self._types)
        found: bytes | None = identity[0].as_py() if identity is not None else None
        return found

    def _answer(self, typed: Sequence[KeyValue], found: np.void) -> Answer:
        release = self._release
        return Answer(
            key=plain(typed),
            record={
                **{one.name: plain([value]) for one, value in zip(release.key, typed, strict=True)},
                **release.record.as_mapping(found),
                "model_version": release.model.version,
                "partition": release.partition,
            },
            lineage={
                "pipeline": release.pipeline,
                "release": release.name,
                "run_id": release.run_id,
                "snapshot": release.snapshot,
                "model": release.model.name,
                "model_sha256": release.model.sha256,
            },
        )

    def close(self) -> None:
        """Close the release."""
        self._table.close()
