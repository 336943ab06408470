"""Releases and their descriptions: what they are called, and in which stores they are."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from batch_assets.errors import NotFound, ReleaseBroken
from batch_assets.serving.store import Release, release_folder
from batch_assets.storage import Storage

if TYPE_CHECKING:
    from batch_assets.runs.manifest import Manifest


def release_name(manifest: "Manifest") -> str:
    """A finished run has one release, another when dead letters were replayed, and another when keys were forgotten.

    So what is live is not replaced in place.
    """
    replays, left_out = manifest.replays, manifest.left_out
    without = f".f{left_out.number}" if left_out and left_out.values.count else ""
    return f"{manifest.partition}-{manifest.run_id}{f'.{replays}' if replays else ''}{without}"


def release_parts(name: str) -> tuple[str, str] | None:
    """Partition and run id of a release by its name, or None if no release is called so."""
    found = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-([0-9a-f]+)(\.[0-9]+)?(\.f[0-9]+)?", name)
    return (found[1], found[2]) if found else None


def read_release(storage: Storage, pipeline: str, name: str, store: str) -> Release:
    """The description of a release that is still there in its size, in one of its stores.

    Raises:
        ReleaseBroken: it is not there, cannot be read, or was cut.
    """
    release = described(storage, pipeline, name, store)
    release.store.require_there(storage, release)
    return release


def described(storage: Storage, pipeline: str, name: str, store: str) -> Release:
    """The description of a release in a store; nobody looks whether it is there. Raises ReleaseBroken."""
    path = f"{release_folder(pipeline, name)}/{store}.json"
    try:
        return Release.model_validate_json(storage.read(path))
    except (NotFound, ValidationError) as error:
        raise ReleaseBroken(f"{path} cannot be read: publish the partition again.") from error


def stores_of(storage: Storage, pipeline: str, name: str) -> list[str]:
    """The stores in which a release is described; none if it was pruned, or never built."""
    names = storage.names(release_folder(pipeline, name))
    return [one.removesuffix(".json") for one in sorted(names) if one.endswith(".json")]


def in_stores(storage: Storage, pipeline: str, name: str) -> Iterator[Release]:
    """A release in each store that has a description of it that can be read."""
    for store in stores_of(storage, pipeline, name):
        with suppress(ReleaseBroken):
            yield described(storage, pipeline, name, store)
