"""Which releases a store keeps: what is live, what its own readers see, and the newest few. The others go.

A description goes before what it describes. So whenever this is interrupted, no description points to something half there, and
what is left in the store is found the next time.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.process import Process
from batch_assets.runs.commit import day_folder
from batch_assets.serving.live import current_log
from batch_assets.serving.release import described, in_stores, release_parts, stores_of
from batch_assets.serving.store import Release, Store
from batch_assets.storage import Storage
from batch_assets.storage.lease import at_work


@dataclass
class Retired:
    """What went from stores (or, of a dry run, would go): pairs of store and release; and which stores could not be asked."""

    removed: list[tuple[str, str]] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)


def retire(
    storage: Storage, pipeline: str, stores: Sequence[Store], spare: Collection[str] = (), *, dry_run: bool = False
) -> Retired:
    """Remove from each store what is beyond the number that it keeps, and what tries left behind that died.

    Args:
        storage: the storage root.
        pipeline: whose releases.
        stores: where; one that does not answer is left alone, and named in the answer.
        spare: names of releases that stay whatever their number.
        dry_run: whether nothing is removed.

    Raises:
        TornEntry, LostEntry: which release is live cannot be read; nothing is removed then.
    """
    live = current_log(storage, pipeline).latest()
    needed = {*spare, *([live.body.release] if live else [])}
    found = Retired()
    for store in stores:
        try:
            for release in (*_surplus(storage, pipeline, store, needed), *_left_behind(storage, pipeline, store)):
                found.removed.append((store.called, release.name))
                if not dry_run:
                    remove(storage, release)
        except StoreUnavailable as error:
            found.unavailable[store.called] = str(error)
    return found


def remove(storage: Storage, release: Release) -> None:
    """Take a release out of its store; of the last store its folder goes, too. Raises StoreUnavailable."""
    try:
        if described(storage, release.pipeline, release.name, release.store.called).built == release.built:
            storage.delete(release.description)
    except ReleaseBroken:
        pass  # nothing describes it any more
    release.store.drop(storage, release)
    if not stores_of(storage, release.pipeline, release.name) and storage.names(release.folder):
        storage.discard(release.folder)


def release_names(storage: Storage, pipeline: str) -> list[str]:
    """Every release that is there, the newest day first."""
    return sorted(filter(release_parts, storage.names(f"{pipeline}/serving/releases")), reverse=True)


def _surplus(storage: Storage, pipeline: str, store: Store, needed: Collection[str]) -> Iterator[Release]:
    """What a store has beyond the number that it keeps, but for what somebody works on."""
    if store.keep is None:
        return
    pointer = store.pointer(storage, pipeline)
    kept = {*needed, *([pointer.release.name] if pointer else [])}
    there = [name for name in release_names(storage, pipeline) if store.called in stores_of(storage, pipeline, name)]
    others = [name for name in there if name not in kept]
    room = max(0, store.keep - (len(there) - len(others)))
    for name in others[room:]:
        with suppress(ReleaseBroken):
            release = described(storage, pipeline, name, store.called)
            if not _in_work(storage, release):
                yield release


def _left_behind(storage: Storage, pipeline: str, store: Store) -> Iterator[Release]:
    """What died tries have left. Who is at work is asked after the listing: whoever begins now is not in it."""
    for release in store.left_behind(storage, pipeline, list(_named(storage, pipeline, store))):
        if not _in_work(storage, release) and release.built not in [one.built for one in _named(storage, pipeline, store)]:
            yield release


def _named(storage: Storage, pipeline: str, store: Store) -> Iterable[Release]:
    """What descriptions name in a store."""
    names = release_names(storage, pipeline)
    return (one for name in names for one in in_stores(storage, pipeline, name) if one.store.called == store.called)


def _in_work(storage: Storage, release: Release) -> bool:
    """Whether another process works on a release's day."""
    return any(process != Process.current() for process in at_work(storage, day_folder(release.pipeline, release.partition)))
