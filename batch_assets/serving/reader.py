"""Look-ups: from a key to its prediction and where that came from."""

import re
from dataclasses import dataclass
from typing import Any

from batch_assets.errors import NoPrediction, ReleaseBroken
from batch_assets.serving.release import current_log, named_release
from batch_assets.serving.store import Release
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Answer:
    """One key's prediction: the record as it stands in the predictions file, and its lineage."""

    key: int | str
    record: dict[str, Any]
    lineage: dict[str, Any]


class Reader:
    """Answers from one release, so that no answer mixes two."""

    def __init__(self, storage: Storage, release: Release) -> None:
        self._release = release
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

    def lookup(self, key: int | str) -> Answer:
        """One key's prediction. Raises NoPrediction."""
        release = self._release
        found = self._table.get(self._typed(key))
        if found is None:
            raise NoPrediction(f"no prediction for key {key} in release {release.name} of {release.pipeline}")
        return Answer(
            key=self._typed(key),
            record={
                release.key.name: self._typed(key),
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

    def _typed(self, key: int | str) -> int | str:
        """The key as the release's type; text that is no number cannot be the key of anybody here."""
        if self._release.key.dtype == "string":
            return str(key)
        if not re.fullmatch(r"-?[0-9]{1,19}", str(key)) or not -(1 << 63) <= int(key) < 1 << 63:
            raise NoPrediction(f"no prediction for key {key}: keys of {self._release.pipeline} are {self._release.key.dtype}")
        return int(key)
