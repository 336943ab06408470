"""Stores that keep a release as one local file: written aside, adopted whole, read-only from then on."""

import uuid
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from typing_extensions import override

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.store import Batch, Batches, Release, Store, Table, in_order
from batch_assets.storage import Storage


class FileStore(Store):
    """One file in a folder of the release's; an adapter says how it is written, read and asked."""

    file: ClassVar[str]

    @abstractmethod
    def write(self, path: Path, release: Release, batches: Batches) -> dict[str, str]:
        """Write the file, which is made durable afterwards; keys come in order.

        Returns:
            What it is compared with when it is read, such as checksums; `Release.built` has it.

        Raises:
            ReleaseBroken: keys are doubled or out of order.
        """

    @abstractmethod
    def read(self, path: Path, release: Release) -> Iterator[Batch]:
        """Everything in the file, in order of its keys; errors of Arrow and the disk are explained. Raises ReleaseBroken."""

    @abstractmethod
    def table(self, path: Path, release: Release) -> Table:
        """The file, open for look-ups; errors of Arrow and the disk are explained. Raises ReleaseBroken."""

    def path(self, release: Release) -> str:
        """Where the file lies, below the storage root."""
        return f"{self._folder(release)}/{self.file}"

    @override
    def build(self, storage: Storage, release: Release, batches: Batches) -> dict[str, str]:
        """As the port says. Each try has a folder of its own, so that of two at the same time neither touches the other's."""
        with storage.scratch() as scratch:
            new = scratch / f"{self.kind}-{uuid.uuid4().hex[:12]}"
            new.mkdir()
            file = new / self.file
            said = self.write(file, release, in_order(batches))
            file.chmod(0o444)
            built = {"folder": new.name, "size": str(file.stat().st_size), **said}
            storage.adopt(new, f"{release.folder}/{new.name}")
        return built

    @override
    def scan(self, storage: Storage, release: Release) -> Iterator[Batch]:
        with self._there(storage, release) as path:
            yield from self.read(path, release)

    @override
    def open(self, storage: Storage, release: Release) -> Table:
        with self._there(storage, release) as path:
            return self.table(path, release)

    @override
    def require_there(self, storage: Storage, release: Release) -> None:
        size, wanted = storage.names(self._folder(release)).get(self.file, 0), int(release.built["size"])
        if size != wanted:
            raise ReleaseBroken(f"{self.path(release)} has {size:,} bytes instead of {wanted:,}: publish it again.")

    @override
    def drop(self, storage: Storage, release: Release) -> None:
        if storage.names(self._folder(release)):
            storage.discard(self._folder(release))

    @contextmanager
    def _there(self, storage: Storage, release: Release) -> Iterator[Path]:
        """The file, which has its size (one that was cut, mapped, would end its reader); errors of reading it are explained."""
        self.require_there(storage, release)
        path = self.path(release)
        try:
            yield storage.local_path(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ReleaseBroken(f"{path} cannot be read ({error}): publish the partition again.") from error

    def _folder(self, release: Release) -> str:
        return f"{release.folder}/{release.built['folder']}"
