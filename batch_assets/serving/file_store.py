"""Stores that keep a release as one local file: written aside, adopted whole, hashed before anybody maps it."""

import hashlib
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.store import Batch, Batches, Release, Store, Table, in_order
from batch_assets.storage import Storage


class FileStore(Store):
    """One file in a folder of the release's; an adapter says how it is written, read and asked."""

    file: ClassVar[str]

    @abstractmethod
    def write(self, folder: Path, release: Release, batches: Batches) -> None:
        """Write the file into a local folder, made durable afterwards; keys come in order. Raises ReleaseBroken."""

    @abstractmethod
    def read(self, folder: Path, release: Release) -> Iterator[Batch]:
        """Everything in it, in order of its keys. Raises ReleaseBroken."""

    @abstractmethod
    def table(self, folder: Path, release: Release) -> Table:
        """It, open for look-ups. Raises ReleaseBroken, ReleaseBusy."""

    @override
    def build(self, storage: Storage, release: Release, batches: Batches) -> dict[str, str]:
        """As the port says. Each try has a folder of its own, so that of two at the same time neither touches the other's."""
        with storage.scratch() as scratch:
            new = scratch / f"{self.kind}-{uuid.uuid4().hex[:12]}"
            new.mkdir()
            self.write(new, release, in_order(batches))
            with (new / self.file).open("rb") as written:
                sha256 = hashlib.file_digest(written, "sha256").hexdigest()
            size = (new / self.file).stat().st_size
            storage.adopt(new, f"{release.folder}/{new.name}")
        return {"folder": new.name, "size": str(size), "sha256": sha256}

    @override
    def scan(self, storage: Storage, release: Release) -> Iterator[Batch]:
        """As the port says; the file is hashed first, as damaged pages may end the process that maps them."""
        self.require_there(storage, release)
        path = f"{self._folder(release)}/{self.file}"
        if storage.sha256(path) != release.built["sha256"]:
            raise ReleaseBroken(f"{path} was changed since it was built: publish the partition again.")
        yield from self.read(storage.local_path(self._folder(release)), release)

    @override
    def open(self, storage: Storage, release: Release) -> Table:
        """As the port says; a file that was cut, mapped, would kill its reader."""
        self.require_there(storage, release)
        return self.table(storage.local_path(self._folder(release)), release)

    @override
    def require_there(self, storage: Storage, release: Release) -> None:
        size, wanted = storage.names(self._folder(release)).get(self.file, 0), int(release.built["size"])
        if size != wanted:
            path = f"{self._folder(release)}/{self.file}"
            raise ReleaseBroken(f"{path} has {size:,} bytes instead of {wanted:,}: publish it again.")

    @override
    def drop(self, storage: Storage, release: Release) -> None:
        storage.discard(self._folder(release))

    def _folder(self, release: Release) -> str:
        return f"{release.folder}/{release.built['folder']}"
