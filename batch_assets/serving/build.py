"""Build a release beside the live one, in one store, and read it back before it may take its place."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_assets.digest import Digest, keyed_digest
from batch_assets.errors import AlreadyExists, ReleaseBroken, ServingError, StoreUnavailable
from batch_assets.features.keys import Key
from batch_assets.records import RecordType
from batch_assets.serving.release import described, read_release, release_name
from batch_assets.serving.store import Batch, Batches, Release, Store
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

if TYPE_CHECKING:
    from batch_assets.runs.manifest import Manifest

_SAMPLED = 64
"""So many batches of a release have a key that is asked for as readers ask."""


@dataclass(frozen=True)
class Content:
    """What a release holds: what its keys are, the type of their records, and the digest of all of them."""

    key: tuple[Key, ...]
    record: RecordType
    values: Digest


def build_release(
    storage: Storage, store: Store, manifest: "Manifest", content: Content, batches: Callable[[], Batches]
) -> Release:
    """Build a run's release in a store beside the live one and read it back before it takes its place.

    A release that is there already is read back again; if it is damaged, it is replaced.

    Raises:
        ReleaseBroken: what was read back is not what the manifest says; nothing is published then.
        StoreUnavailable: the store does not answer, or cannot take more.
    """
    expected = derived(manifest, content, store)
    there = storage.names(expected.folder).get(f"{store.called}.json") is not None
    damaged: Release | None = None
    if there:
        try:
            release = require_release(storage, manifest, content, store)
        except ReleaseBroken:
            with suppress(ReleaseBroken):
                damaged = described(storage, manifest.pipeline, expected.name, store.called)
        else:
            for _ in batches():
                pass  # the predictions files are compared with the manifest whether or not they are needed
            return release
    release = expected.model_copy(update={"built": store.build(storage, expected, batches())})
    try:
        require_equal(storage, release)
    except ServingError:
        with suppress(StoreUnavailable):  # what cannot be dropped now is left behind, and pruned
            store.drop(storage, release)
        raise
    if there:  # it is damaged, and only now another is ready
        storage.delete(expected.description)
        if damaged:
            damaged.store.drop(storage, damaged)
    try:
        storage.create(expected.description, release.model_dump_json(indent=1).encode())
    except AlreadyExists:  # another process built the same release in the same moment
        store.drop(storage, release)
        return read_release(storage, manifest.pipeline, release.name, store.called)
    return release


def require_release(storage: Storage, manifest: "Manifest", content: Content, store: Store) -> Release:
    """A run's release in a store, if description and records, read back one by one, are what the manifest says.

    Raises:
        ReleaseBroken: it is not.
        StoreUnavailable: the store does not answer.
    """
    expected = derived(manifest, content, store)
    release = read_release(storage, manifest.pipeline, expected.name, store.called)
    same_place = release.store.same_place(store)
    if not same_place or release.model_copy(update={"built": {}, "store": store}) != expected:
        raise ReleaseBroken(
            f"The description of release {release.name} in {store.called} is not what its manifest says: publish it again."
        )
    require_equal(storage, release)
    return release


def derived(manifest: "Manifest", content: Content, store: Store) -> Release:
    """What a run's release must say of itself, before it is built."""
    return Release(
        name=release_name(manifest),
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        run_id=manifest.run_id,
        snapshot=manifest.snapshot,
        model=manifest.model,
        key=content.key,
        record=content.record,
        rows=content.values.count,
        values=content.values,
        instead_of=manifest.releases_before,
        store=store,
    )


def require_equal(storage: Storage, release: Release) -> None:
    """Read a release back, and some of its keys as readers ask. Raises ReleaseBroken if it does not hold what it says."""
    sampled: list[Batch] = []

    def digest(batch: Batch) -> Digest:
        keys, records = batch
        if len(keys) and len(sampled) < _SAMPLED:
            sampled.append((keys[:1], records.take(slice(0, 1))))
        return keyed_digest(keys, records.flat())

    found = sum(in_threads(digest, release.store.scan(storage, release)), start=Digest())
    if found != release.values:
        raise ReleaseBroken(
            f"The release {release.name} in {release.store.called} holds {found.count:,} records with digest {found.hex()}, "
            f"its manifest says {release.values.count:,} with {release.values.hex()}; publish again."
        )
    table = release.store.open(storage, release)
    try:
        answers = table.get_many([keys[0].as_py() for keys, _ in sampled])
    finally:
        table.close()
    for (_, records), answer in zip(sampled, answers, strict=True):
        if answer is None or answer.tobytes() != records.packed()[0].tobytes():
            where = f"The release {release.name} in {release.store.called}"
            raise ReleaseBroken(f"{where} answers a key otherwise than it is read back: publish again.")
