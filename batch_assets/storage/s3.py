"""A storage root in a bucket that speaks S3: whole files by one conditional put each, because there are no folders."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from batch_assets.errors import AlreadyExists, StorageError
from batch_assets.storage.bucket import Bucket, Ranges
from batch_assets.storage.copies import copy_of
from batch_assets.storage.port import FORMAT_FILE, Stamp, Storage, layout_document

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class S3Storage(Storage):
    """A storage root at `s3://bucket/prefix`, on a server that honours `If-None-Match: *` of a put (S3, R2, MinIO, …).

    Picklable: what receives it connects with the environment of its own process. Plain http is allowed to a server on this
    machine only, unless AWS_ALLOW_HTTP says otherwise.
    """

    root: str

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self.root,)

    @property
    @override
    def location(self) -> str:
        return self.root

    @property
    @override
    def received(self) -> int:
        return self._bucket.traffic.received

    @override
    def local_path(self, path: str) -> Path:
        """A copy on this machine (`storage.copies`)."""
        stamp = self.stamp(path)
        return copy_of(self.root, path, stamp, lambda target: self._bucket.copy(path, stamp, target))

    @override
    def read(self, path: str) -> bytes:
        return self._bucket.traffic.count(
            self._bucket.ask(path, lambda store: bytes(store.get(self._bucket.key(path)).bytes()))
        )

    @override
    def open(self, path: str) -> "pa.NativeFile":
        import pyarrow as pa

        return pa.PythonFile(Ranges(self._bucket, path), mode="r")

    @override
    def stamp(self, path: str) -> Stamp:
        """Size and etag. Of a file that was put in one piece the etag says the content: the same bytes again look the same."""
        return self._bucket.stamp(path)

    @override
    def sha256(self, path: str) -> str:
        return self._bucket.sha256(path, self.stamp(path))

    @override
    def names(self, folder: str) -> dict[str, int]:
        found = self._bucket.ask(folder, lambda store: store.list_with_delimiter(self._bucket.key(folder)))
        folders = {PurePosixPath(prefix).name: 0 for prefix in found["common_prefixes"]}
        return folders | {PurePosixPath(one["path"]).name: one["size"] for one in found["objects"]}

    @override
    def create(self, path: str, data: "bytes | memoryview | pa.Buffer") -> None:
        """One conditional put of the whole buffer, which may have up to 5 GB; one whose answer was lost is repeated."""
        self._claimed.put(path, memoryview(data).cast("B"))

    @override
    def adopt(self, folder: Path, path: str) -> dict[str, str]:
        """Put every file of a folder exclusively, JSON documents last, because they are what a reader of a folder opens first.

        An object store has no folder that could be moved at once, and whoever puts its files may die in between. So a file
        that is there already with the same content is taken as it is: whoever adopts the same files again completes the
        folder. AlreadyExists is raised for other content, and if there was nothing left to put. A folder without its
        document is one that readers take for none.
        """
        files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
        tokens, new = {}, False
        for file in sorted(files, key=lambda one: (one.suffix == ".json", one.as_posix())):
            name = f"{path}/{file.as_posix()}"
            try:
                tokens[file.as_posix()] = self._claimed.put(name, folder / file)
                new = True
            except AlreadyExists:
                same = self._bucket.same(name, folder / file)
                if same is None:
                    raise
                tokens[file.as_posix()] = same.token
        if not new:
            raise AlreadyExists(f"{path} already exists under {self.root}.")
        return tokens

    @override
    def touch(self, path: str) -> None:
        content, key = self.read(path), self._bucket.key(path)
        self._bucket.ask(path, lambda store: store.put(key, content, mode="overwrite", use_multipart=False))

    @override
    def delete(self, path: str) -> None:
        self._bucket.ask(path, lambda store: store.delete(self._bucket.key(path)))

    @override
    def discard(self, path: str) -> None:
        """Delete every file below a folder."""
        key = self._bucket.key(path)
        self._bucket.ask(path, lambda store: store.delete([one["path"] for one in store.list(key).collect()]))

    @override
    def leftovers(self, folder: str) -> dict[str, int]:
        """None: a put is there whole or not at all."""
        return {}

    @override
    def free_bytes(self) -> int | None:
        return None

    @override
    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="batch-assets-") as folder:
            yield Path(folder)

    @cached_property
    def _bucket(self) -> Bucket:
        return Bucket(self.root)

    @cached_property
    def _claimed(self) -> Bucket:
        """The bucket, once the root says its layout version on a server that knows conditions: before the first write.

        Raises:
            StorageError: a second put of the document is no conflict, so any name could have two writers.
        """
        document = layout_document()
        for content in (document, document + b"\n"):  # another content is never taken for one's own
            try:
                self._bucket.put(FORMAT_FILE, memoryview(content))
            except AlreadyExists:
                return self._bucket
        raise StorageError(
            f"{self.root} lies on a server that does not know If-None-Match of a put, so that two could write one file: take "
            "one that does, like S3, R2, MinIO or versitygw."
        )
