"""PORT Store: a release's description, its sorted keys and records -> something that answers keys.

A release states its own rows and digest; what a store holds is verified against them, read back through `scan`. Which release
readers see is one entry of `serving/_current`, and a pipeline may have several stores: a store with a pointer of its own, for
readers who know nothing of the storage root, follows that entry in `publish`.

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
`stores: [{kind: shelf}]`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

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

    def reopen(self, storage: Storage, release: "Release") -> "Table":
        """Another release, for whoever has this one open; a table of the same store may share its connection.

        Raises:
            ReleaseBroken, StoreUnavailable: as `Store.open`.
        """
        return release.store.open(storage, release)

    @abstractmethod
    def close(self) -> None:
        """Let go of it. One that nobody refers to any more lets go by itself: whoever asks last is not waited for."""


@dataclass(frozen=True)
class Pointer:
    """What a store's own readers see: a release, and the number of the entry of `serving/_current` that let it go live."""

    number: int
    release: "Release"


class Store(Adapter):
    """Where releases are kept. Every method is told the release; none keeps state.

    A store on a server raises StoreUnavailable in every method where that does not answer, or cannot take more.
    """

    name: str = Field(
        "", description="What it is called; by default its kind. Two of one kind need it.", pattern="^[a-z0-9_-]*$"
    )
    keep: int | None = Field(
        None, description="How many releases it keeps, the live one included; by default as many as days are kept.", ge=1
    )
    tuning: ClassVar[frozenset[str]] = frozenset({"keep"})
    """The settings that do not say where releases lie or how: one that changes leaves every release as it is."""

    @property
    def called(self) -> str:
        """What it is called."""
        return self.name or self.kind

    def same_place(self, other: "Store") -> bool:
        """Whether releases of another lie where those of this one do."""
        return self.model_dump(exclude=set(self.tuning)) == other.model_dump(exclude=set(self.tuning))

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
        """Everything that a release holds, in any order. Raises ReleaseBroken if any of it is missing or damaged.

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

        Raises:
            ReleaseBroken: a part of the release is missing; readers see what they saw.
        """

    def pointer(self, storage: Storage, pipeline: str) -> Pointer | None:
        """What the store's own readers see; None if nothing, or if they read `serving/_current`."""

    def drop(self, storage: Storage, release: "Release") -> None:
        """Remove what was built of a release, unless the store's own readers see it."""

    def left_behind(  # a store with something to say looks at all of it
        self,
        storage: Storage,  # noqa: ARG002
        pipeline: str,  # noqa: ARG002
        named: Collection["Release"],  # noqa: ARG002
    ) -> list["Release"]:
        """What was built of this root's pipeline, but for what is `named`, by the same `built`, and what its readers see.

        Those are tries that died, and what a prune that died had forgotten already. `drop` removes each. A store whose
        releases are files below `release.folder` has nothing to say: they are removed with it.
        """
        return []


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


STORES: Port[Store] = Port(
    "store",
    "batch_assets.stores",
    {
        "arrow": "batch_assets.serving.arrow_store:ArrowStore",
        "redis": "batch_assets.serving.redis_store:RedisStore",
        "postgres": "batch_assets.serving.postgres_store:PostgresStore",
        "cassandra": "batch_assets.serving.cassandra_store:CassandraStore",
    },
)


class Release(BaseModel):
    """What one release holds, where it came from, and a store that holds it; `built` is what that says of it.

    `rows` and `values` are its own: what it must hold, derived from the run. In each store it has a description of its own.
    `instead_of` are the releases whose place it took when keys were forgotten that they have.
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
    instead_of: tuple[str, ...] = Field((), exclude_if=lambda names: not names)
    store: Annotated[Store, STORES]
    built: dict[str, str] = {}

    @property
    def key_type(self) -> pa.DataType:
        """The type of the keys that the store is given: that of the key's one column, or bytes."""
        return self.key[0].arrow if len(self.key) == 1 else pa.binary()

    @property
    def folder(self) -> str:
        """Where its descriptions, and the files of stores that keep files, lie under the storage root."""
        return release_folder(self.pipeline, self.name)

    @property
    def description(self) -> str:
        """The file that says all this, for its store."""
        return f"{self.folder}/{self.store.called}.json"

    def fingerprint(self) -> str:
        """A sha256 of everything the description says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def release_folder(pipeline: str, name: str) -> str:
    """Where a release lies."""
    return f"{pipeline}/serving/releases/{name}"
