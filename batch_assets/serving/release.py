"""Releases: build one beside the live one, read it back, and only then let readers see it, all at once.

A release is a folder that holds what one run predicted. Which release is live is a numbered log of its own. Order is
(partition, number of the model's approval): an older day, or the same day by an earlier approval, gets its release but
does not replace what is live.
"""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from batch_assets.digest import Digest, keyed_digest
from batch_assets.errors import AlreadyExists, NotFound, ReleaseBroken
from batch_assets.features.keys import Key
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.records import RecordType
from batch_assets.serving.store import Batches, Release, Store, release_folder
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

if TYPE_CHECKING:
    from batch_assets.runs.manifest import Manifest

_DOCUMENT = "_release.json"


def release_name(manifest: "Manifest") -> str:
    """A finished run has one release, and another when dead letters were replayed: what is live is not replaced in place."""
    replays = manifest.replays
    return f"{manifest.partition}-{manifest.run_id}{f'.{replays}' if replays else ''}"


def release_parts(name: str) -> tuple[str, str] | None:
    """Partition and run id of a release by its name, or None if no release is called so."""
    found = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-([0-9a-f]+)(\.[0-9]+)?", name)
    return (found[1], found[2]) if found else None


class Live(BaseModel):
    """Which release is live, the fingerprint of its description, and the approval under which it was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    description: str
    partition: str
    approval: int


def current_log(storage: Storage, pipeline: str) -> NumberedLog[Live]:
    """Which releases went live; the highest entry is in force."""
    return NumberedLog(storage, f"{pipeline}/serving/_current", Live)


def read_release(storage: Storage, pipeline: str, name: str) -> Release:
    """The description of a release that is still there in its size.

    Raises:
        ReleaseBroken: it is not there, cannot be read, or was cut.
    """
    release = _described(storage, pipeline, name)
    release.store.require_there(storage, release)
    return release


def _described(storage: Storage, pipeline: str, name: str) -> Release:
    path = f"{release_folder(pipeline, name)}/{_DOCUMENT}"
    try:
        return Release.model_validate_json(storage.read(path))
    except (NotFound, ValidationError) as error:
        raise ReleaseBroken(f"{path} cannot be read: publish the partition again.") from error


def live_release(storage: Storage, pipeline: str) -> Release | None:
    """What readers see, or None if nothing was ever published. Raises ReleaseBroken if it is not what went live."""
    entry = current_log(storage, pipeline).latest()
    return named_release(storage, pipeline, entry) if entry else None


def named_release(storage: Storage, pipeline: str, entry: LogEntry[Live]) -> Release:
    """The release that an entry let go live. Raises ReleaseBroken if it is not what went live then."""
    release = read_release(storage, pipeline, entry.body.release)
    if release.fingerprint() != entry.body.description:
        raise ReleaseBroken(f"The description of release {release.name} is not the one that went live: publish it again.")
    return release


def build_release(
    storage: Storage,
    store: Store,
    manifest: "Manifest",
    key: tuple[Key, ...],
    record: RecordType,
    batches: Callable[[], Batches],
) -> Release:
    """Build a run's release beside the live one and read it back before it takes its place.

    A release that is there already is read back again; if it is damaged, it is replaced.

    Raises:
        ReleaseBroken: what was read back is not what the manifest says; nothing is published then.
    """
    expected = derived(manifest, key, record, store)
    description = f"{expected.folder}/{_DOCUMENT}"
    there = _DOCUMENT in storage.names(expected.folder)
    damaged: Release | None = None
    if there:
        try:
            release = require_release(storage, manifest, key, record, store)
        except ReleaseBroken:
            with suppress(ReleaseBroken):
                damaged = _described(storage, manifest.pipeline, expected.name)
        else:
            for _ in batches():
                pass  # the predictions files are compared with the manifest whether or not they are needed
            return release
    release = expected.model_copy(update={"built": store.build(storage, expected, batches())})
    try:
        require_equal(storage, release)
    except ReleaseBroken:
        store.drop(storage, release)
        raise
    if there:  # it is damaged, and only now another is ready
        storage.delete(description)
        if damaged:
            damaged.store.drop(storage, damaged)
    try:
        storage.create(description, release.model_dump_json(indent=1).encode())
    except AlreadyExists:  # another process built the same release in the same moment
        store.drop(storage, release)
        return read_release(storage, manifest.pipeline, release.name)
    return release


def require_release(storage: Storage, manifest: "Manifest", key: tuple[Key, ...], record: RecordType, store: Store) -> Release:
    """A run's release, if description and records, read back one by one, are what the manifest says.

    Raises:
        ReleaseBroken: it is not.
    """
    expected = derived(manifest, key, record, store)
    release = read_release(storage, manifest.pipeline, expected.name)
    if release.model_copy(update={"built": {}}) != expected:
        raise ReleaseBroken(f"The description of release {release.name} is not what its manifest says: publish it again.")
    require_equal(storage, release)
    return release


def derived(manifest: "Manifest", key: tuple[Key, ...], record: RecordType, store: Store) -> Release:
    """What a run's release must say of itself, before it is built: its rows and their digest are those of the run."""
    return Release(
        name=release_name(manifest),
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        run_id=manifest.run_id,
        snapshot=manifest.snapshot,
        model=manifest.model,
        key=key,
        record=record,
        rows=manifest.scored,
        values=manifest.values,
        store=store,
    )


def require_equal(storage: Storage, release: Release) -> None:
    """Read a release back. Raises ReleaseBroken if it does not hold what it says."""
    batches = release.store.scan(storage, release)
    found = sum(in_threads(lambda batch: keyed_digest(batch[0], batch[1].flat()), batches), start=Digest())
    if found != release.values:
        raise ReleaseBroken(
            f"The release {release.name} holds {found.count:,} records with digest {found.hex()}, its manifest says "
            f"{release.values.count:,} with {release.values.hex()}; publish again."
        )


def go_live(
    storage: Storage, release: Release, approval: int, withdrawn: Collection[int] = (), seen: Sequence[NumberedLog[Any]] = ()
) -> LogEntry[Live]:
    """Let readers see a release, unless a newer one is live; returns the entry that is in force then.

    `seen` are the logs that say what is published: the run's manifest, the day's accepted run, the approval.

    What went live under an approval that was withdrawn since does not count as newer; what was live before it does.
    """
    log = current_log(storage, release.pipeline)
    body = Live(release=release.name, description=release.fingerprint(), partition=release.partition, approval=approval)

    def decide(latest: LogEntry[Live] | None) -> LogEntry[Live] | Change[Live]:
        stood = _stepped_back(log, release.pipeline, latest, withdrawn)
        if stood is not None:
            live = stood.body
            same = live.description == body.description and live.approval >= approval
            newer = (live.partition, live.approval) > (body.partition, approval) and live.approval not in withdrawn
            if same or newer:
                return stood
        return Change(body, f"run {release.run_id} was accepted", seen)

    step_back(storage, release.pipeline, withdrawn)
    live = log.update(decide)
    if live.body.release == release.name:
        release.store.publish(storage, release, live.number)
    return live


def step_back(storage: Storage, pipeline: str, withdrawn: Collection[int]) -> LogEntry[Live] | None:
    """Where the live release is of an approval that was withdrawn, let the newest one live that stands and is still there.

    Returns the entry that is in force then, or None if nothing was ever published.
    """
    log = current_log(storage, pipeline)
    before = log.latest()
    live = log.update(lambda latest: _stepped_back(log, pipeline, latest, withdrawn))
    if live is not None and live != before:
        release = named_release(storage, pipeline, live)
        release.store.publish(storage, release, live.number)
    return live


def _stepped_back(
    log: NumberedLog[Live], pipeline: str, live: LogEntry[Live] | None, withdrawn: Collection[int]
) -> LogEntry[Live] | Change[Live] | None:
    """What should be live before anything else is published: what is, or the newest that stands and is still there."""
    if live is None or live.body.approval not in withdrawn:
        return live
    standing = next((entry for entry in log.history() if entry.body.approval not in withdrawn), None)
    if standing is None or not log.storage.names(release_folder(pipeline, standing.body.release)):
        return live
    return Change(standing.body, f"approval {live.body.approval} was withdrawn", log.made_from(standing))
