"""Releases: build one beside the live one, read it back, and only then let readers see it, all at once.

A release is a folder that holds what one run predicted. Which release is live is a numbered log of its own. Order is
(partition, number of the model's approval): an older day, or the same day by an earlier approval, gets its release but
does not replace what is live.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_assets.digest import Digest, hash_keys
from batch_assets.errors import AlreadyExists, NotFound, ReleaseBroken
from batch_assets.features.contract import Key
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.runs.manifest import Manifest, ModelPin
from batch_assets.scoring.postprocess import Predictions
from batch_assets.serving import lmdb_store
from batch_assets.storage import Storage

_DOCUMENT = "_release.json"


def _is_empty(value: str) -> bool:
    return not value


class Release(BaseModel):
    """What one release holds, and where it came from; `size` and `sha256` are of the file that holds it.

    The first versions did not write a sha256; the description of such a release keeps its fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pipeline: str
    partition: str
    run_id: str
    snapshot: str
    model: ModelPin
    key: Key
    labels: tuple[str, ...]
    rows: int
    values: Digest
    size: int
    sha256: str = Field("", exclude_if=_is_empty)

    def fingerprint(self) -> str:
        """A sha256 of everything the description says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def release_name(manifest: Manifest) -> str:
    """A finished run has one release, and another when dead letters were replayed: what is live is not replaced in place."""
    replays = manifest.replays
    return f"{manifest.partition}-{manifest.run_id}{f'.{replays}' if replays else ''}"


def release_parts(name: str) -> tuple[str, str] | None:
    """Partition and run id of a release by its name, or None if no release is called so."""
    found = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-([0-9a-f]+)(\.[0-9]+)?", name)
    return (found[1], found[2]) if found else None


def release_folder(pipeline: str, name: str) -> str:
    """Where a release lies."""
    return f"{pipeline}/serving/releases/{name}"


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
    """The description of a release whose file still has its size: a shorter one, mapped, would kill its reader.

    Raises:
        ReleaseBroken: it is not there, cannot be read, or was cut.
    """
    folder = release_folder(pipeline, name)
    try:
        release = Release.model_validate_json(storage.read(f"{folder}/{_DOCUMENT}"))
    except (NotFound, ValidationError) as error:
        raise ReleaseBroken(f"{folder}/{_DOCUMENT} cannot be read: publish the partition again.") from error
    size = storage.names(folder).get(lmdb_store.FILE, 0)
    if size != release.size:
        raise ReleaseBroken(f"{folder}/{lmdb_store.FILE} has {size:,} bytes instead of {release.size:,}: publish it again.")
    return release


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
    manifest: Manifest,
    key: Key,
    labels: tuple[str, ...],
    batches: Callable[[], Iterable[tuple[pa.Array, Predictions]]],
) -> Release:
    """Build a run's release beside the live one and read it back before it takes its place.

    A release that is there already is read back again; if it is damaged, it is replaced.

    Raises:
        ReleaseBroken: what was read back is not what the manifest says; nothing is published then.
    """
    expected = _expected(manifest, key, labels)
    folder = release_folder(manifest.pipeline, expected.name)
    damaged = False
    if storage.names(folder):
        try:
            release = require_release(storage, manifest, key, labels)
        except ReleaseBroken:
            damaged = True
        else:
            for _ in batches():
                pass  # the predictions files are compared with the manifest whether or not they are needed
            return release
    with storage.scratch() as scratch:
        new = scratch / "release"
        new.mkdir()
        lmdb_store.build(new, batches())
        _require_equal(_digest(new, key.dtype), manifest, expected.name)
        file = new / lmdb_store.FILE
        with file.open("rb") as built:
            sha256 = hashlib.file_digest(built, "sha256").hexdigest()
        release = expected.model_copy(update={"size": file.stat().st_size, "sha256": sha256})
        (new / _DOCUMENT).write_text(release.model_dump_json(indent=1))
        if damaged:
            storage.discard(folder)  # only now that another is ready
        with suppress(AlreadyExists):  # another process built the same release in the same moment
            storage.adopt(new, folder)
    return read_release(storage, manifest.pipeline, expected.name)


def require_release(storage: Storage, manifest: Manifest, key: Key, labels: tuple[str, ...]) -> Release:
    """A run's release, if description and records, read back one by one, are what the manifest says.

    The file is hashed first: damaged pages may end the process that maps them.

    Raises:
        ReleaseBroken: it is not.
    """
    expected = _expected(manifest, key, labels)
    release = read_release(storage, manifest.pipeline, expected.name)
    if release.model_copy(update={"size": expected.size, "sha256": expected.sha256}) != expected:
        raise ReleaseBroken(f"The description of release {release.name} is not what its manifest says: publish it again.")
    folder = storage.local_path(release_folder(release.pipeline, release.name))
    file = f"{release_folder(release.pipeline, release.name)}/{lmdb_store.FILE}"
    if release.sha256 and storage.sha256(file) != release.sha256:
        raise ReleaseBroken(f"{file} was changed since it was built: publish the partition again.")
    _require_equal(_digest(folder, release.key.dtype), manifest, release.name)
    return release


def _expected(manifest: Manifest, key: Key, labels: tuple[str, ...]) -> Release:
    """What a run's release must say of itself, but for size and sha256 of its file."""
    return Release(
        name=release_name(manifest),
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        run_id=manifest.run_id,
        snapshot=manifest.snapshot,
        model=manifest.model,
        key=key,
        labels=labels,
        rows=manifest.scored,
        values=manifest.values,
        size=0,
    )


def _require_equal(found: Digest, manifest: Manifest, name: str) -> None:
    if found != manifest.values:
        raise ReleaseBroken(
            f"The release {name} holds {found.count:,} records with digest {found.hex()}, its manifest says "
            f"{manifest.values.count:,} with {manifest.values.hex()}; publish again."
        )


def _digest(folder: Path, key_type: str) -> Digest:
    total = Digest()
    for keys, predictions in lmdb_store.scan(folder, key_type):
        total = total + hash_keys(keys).with_values(predictions).digest()
    return total


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
    return log.update(decide)


def step_back(storage: Storage, pipeline: str, withdrawn: Collection[int]) -> LogEntry[Live] | None:
    """Where the live release is of an approval that was withdrawn, let the newest one live that stands and is still there.

    Returns the entry that is in force then, or None if nothing was ever published.
    """
    log = current_log(storage, pipeline)
    return log.update(lambda latest: _stepped_back(log, pipeline, latest, withdrawn))


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
