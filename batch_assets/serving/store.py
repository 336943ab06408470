"""PORT Store: a release's description, its sorted keys and records -> something that answers keys.

A release states its own rows and digest; what a store holds is verified against them, read back through `scan`. Which release
readers see is one entry of `serving/_current`; a store with a pointer of its own follows it in `publish`.

A store of a package of your own, which keeps each release as one file, says how that is written, read and asked (see
`serving.file_store`); one that keeps releases on a server inherits `Store` itself:

    class Shelf(FileStore):
        kind: Literal["shelf"] = "shelf"
        file: ClassVar[str] = "release.parquet"

        def write(self, path: Path, release: Release, batches: Batches) -> dict[str, str]:
            ...

        def read(self, path: Path, release: Release) -> Iterator[Batch]:
            ...

        def table(self, path: Path, release: Release) -> Table:
            ...

`release.record.empty().columns()` are the columns of its records, `Records.columns` and `RecordType.from_table` go there and
back. An entry point in the group `batch_assets.stores` adds it: `shelf = "their_package:Shelf"`, and a pipeline says
`store: {kind: shelf}`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batch_assets.digest import Digest
from batch_assets.errors import ReleaseBroken
from batch_assets.features.keys import Key
from batch_assets.ports import Adapter, Port
from batch_assets.records import Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.storage import Storage

Batch = tuple[pa.Array, Records]
"""Keys in ascending order and their records; of a key with several columns its identities, see `features.keys`."""

Batches = Iterable[Batch]


class Table(ABC):
    """An open release; one for a process, shared by its threads."""

    @abstractmethod
    def get(self, key: Any) -> np.void | None:
        """The record of a key (an integer, text, a day, or bytes as `Release.key_type` says), or None.

        Raises:
            ReleaseBroken: what would decide the answer is damaged.
        """

    def get_many(self, keys: Sequence[Any]) -> list[np.void | None]:
        """The records of many keys, in the order in which they are asked, each as `get` finds it; a table may be faster so."""
        return [self.get(key) for key in keys]

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Store(Adapter):
    """Where releases are kept. Every method is told the release; none keeps state."""

    @abstractmethod
    def build(self, storage: Storage, release: "Release", batches: Batches) -> dict[str, str]:
        """Write a release completely and durably, where no reader sees it yet.

        It may have been tried before, and may be tried by another process at the same moment: the description that names what
        was built is written afterwards, exclusively, and what it does not name counts for nothing.

        Args:
            storage: the pipeline's storage root, for stores that keep files below `release.folder`.
            release: name, key, and the type of its records.
            batches: in ascending order of their keys.

        Returns:
            What the store must know to find it whole again, such as sizes and checksums: `release.built` from then on.

        Raises:
            ReleaseBroken: keys are doubled or out of order, or it cannot be written.
        """

    @abstractmethod
    def scan(self, storage: Storage, release: "Release") -> Iterator[Batch]:
        """Everything that a release holds, in order of its keys. Raises ReleaseBroken if any of it is damaged.

        Threads look at a batch while the next ones are made: none may lie in memory that is used again.
        """

    @abstractmethod
    def open(self, storage: Storage, release: "Release") -> Table:
        """A release for look-ups. Raises ReleaseBroken."""

    def require_there(self, storage: Storage, release: "Release") -> None:
        """Look cheaply whether a release is still there in its size. Raises ReleaseBroken."""

    def publish(self, storage: Storage, release: "Release", number: int) -> None:
        """Let the store's own readers see a release, in one atomic step, unless they see one of a higher number already.

        `number` is that of the entry of `serving/_current`. A store whose readers read that entry has nothing to do.
        """

    def drop(self, storage: Storage, release: "Release") -> None:
        """Remove what was built of a release; nobody is asked who reads it."""


def in_order(batches: Batches) -> Iterator[Batch]:
    """The batches as they come. Raises ReleaseBroken at a key that does not come after the one before it."""
    import pyarrow.compute as pc

    last = None
    for keys, records in batches:
        if len(keys):
            ascending = pc.all(pc.greater(keys[1:], keys[:-1]), min_count=0).as_py()
            if not ascending or (last is not None and not pc.greater(keys[0], last).as_py()):
                raise ReleaseBroken("The release cannot be built: its keys are doubled or out of order.")
            last = keys[-1]
        yield keys, records


STORES: Port[Store] = Port("store", "batch_assets.stores", {"arrow": "batch_assets.serving.arrow_store:ArrowStore"})


class Release(BaseModel):
    """What one release holds, where it came from, and which store holds it; `built` is what that says of it.

    `rows` and `values` are its own: what it must hold, derived from the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pipeline: str
    partition: str
    run_id: str
    snapshot: str
    model: ModelPin
    key: tuple[Key, ...]
    record: RecordType
    rows: int
    values: Digest
    store: Annotated[Store, STORES]
    built: dict[str, str] = {}

    @property
    def key_type(self) -> pa.DataType:
        """The type of the keys that the store is given: that of the key's one column, or bytes."""
        return self.key[0].arrow if len(self.key) == 1 else pa.binary()

    @property
    def folder(self) -> str:
        """Where it lies under the storage root."""
        return release_folder(self.pipeline, self.name)

    def fingerprint(self) -> str:
        """A sha256 of everything the description says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def release_folder(pipeline: str, name: str) -> str:
    """Where a release lies."""
    return f"{pipeline}/serving/releases/{name}"
