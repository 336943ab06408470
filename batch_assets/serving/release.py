"""Releases: build one beside the live one, read it back, and only then let readers see it, all at once.

A release is a folder that holds what one run predicted. Which release is live is a numbered log of its own. Order is
(partition, number of the model's approval): an older day, or the same day by an earlier approval, gets its release but
does not replace what is live.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_assets.contract import Key
from batch_assets.digest import Digest, hash_keys
from batch_assets.errors import AlreadyExists, LostRace, NotFound, ReleaseBroken
from batch_assets.scoring.manifest import Manifest, ModelPin
from batch_assets.scoring.postprocess import Predictions
from batch_assets.serving import lmdb_store
from batch_assets.storage import LogEntry, NumberedLog, Storage

_DOCUMENT = "_release.json"


class ServingSettings(BaseModel):
    """Where predictions are looked up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Literal["lmdb"] = Field("lmdb", description="lmdb: a memory-mapped file per release under the storage root.")


class Release(BaseModel):
    """What one release holds, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pipeline: str
    partition: str
    run_id: str
    snapshot: str
    model: ModelPin
    key: Key
    labels: tuple[str, str]
    rows: int
    values: Digest


def release_name(partition: str, run_id: str) -> str:
    """A run has one release."""
    return f"{partition}-{run_id}"


def release_folder(pipeline: str, name: str) -> str:
    """Where a release lies."""
    return f"{pipeline}/serving/releases/{name}"


def current_log(storage: Storage, pipeline: str) -> NumberedLog:
    """Which release is live: entries with `release`, `partition` and `approval`."""
    return NumberedLog(storage, f"{pipeline}/serving/_current")


def read_release(storage: Storage, pipeline: str, name: str) -> Release:
    """The description of a release. Raises ReleaseBroken."""
    path = f"{release_folder(pipeline, name)}/{_DOCUMENT}"
    try:
        return Release.model_validate_json(storage.read(path))
    except (NotFound, ValidationError) as error:
        raise ReleaseBroken(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def build_release(
    storage: Storage,
    manifest: Manifest,
    key: Key,
    labels: tuple[str, str],
    batches: Iterable[tuple[pa.Array, Predictions]],
) -> Release:
    """Build a run's release beside the live one, read it back, and put it in its place; an existing one is read back again.

    Raises:
        ReleaseBroken: what was read back is not what the manifest says; nothing is published then.
    """
    release = Release(
        name=release_name(manifest.partition, manifest.run_id),
        pipeline=manifest.pipeline,
        partition=manifest.partition,
        run_id=manifest.run_id,
        snapshot=manifest.snapshot,
        model=manifest.model,
        key=key,
        labels=labels,
        rows=manifest.scored,
        values=manifest.values,
    )
    folder = release_folder(manifest.pipeline, release.name)
    if _DOCUMENT not in storage.names(folder):
        with storage.scratch() as scratch:
            lmdb_store.build(scratch, release.rows, batches)
            (scratch / _DOCUMENT).write_text(release.model_dump_json(indent=1))
            with suppress(AlreadyExists):  # another process built the same release; it is read back like our own
                storage.adopt(scratch, folder)
    found = digest_of(storage, release)
    if found != manifest.values:
        raise ReleaseBroken(
            f"The release {release.name} holds {found.count:,} records with digest {found.hex()}, its manifest says "
            f"{manifest.values.count:,} with {manifest.values.hex()}; remove {folder} and publish again."
        )
    return release


def digest_of(storage: Storage, release: Release) -> Digest:
    """The digest of everything that a release holds, read back record by record."""
    folder = storage.local_path(release_folder(release.pipeline, release.name))
    total = Digest()
    for keys, predictions in lmdb_store.scan(folder, release.key.dtype):
        total = total + hash_keys(keys).with_values(predictions).digest()
    return total


def go_live(storage: Storage, release: Release, approval: int) -> LogEntry:
    """Let readers see a release, unless a newer one is live; returns the entry that is in force then."""
    log = current_log(storage, release.pipeline)
    while True:
        live = log.latest()
        if live and live.body["release"] == release.name and live.body["approval"] >= approval:
            return live
        if live and (live.body["partition"], live.body["approval"]) > (release.partition, approval):
            return live
        body = {"release": release.name, "partition": release.partition, "approval": approval}
        try:
            return log.append(body, after=live.number if live else 0, why=f"run {release.run_id} was accepted")
        except LostRace:
            continue  # somebody published in the same moment: look again who is newer
