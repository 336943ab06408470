"""A storage root in a bucket that speaks S3: whole files by one conditional put each, because there are no folders.

This is the only file that knows obstore. Endpoint, region and credentials come from the usual AWS_* environment variables of
the process that uses the root (profiles in ~/.aws are not read); plain http is allowed to a server on this machine only,
unless AWS_ALLOW_HTTP says otherwise.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from typing_extensions import override

from batch_assets.errors import AlreadyExists, NotFound, StorageError
from batch_assets.storage.port import FORMAT_FILE, Stamp, Storage, layout_document, path_parts

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import ReadableFile
    from obstore.store import S3Store

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True)
class S3Storage(Storage):
    """A storage root at `s3://bucket/prefix`, on a server that honours `If-None-Match: *` of a put (S3, R2, MinIO, …).

    Picklable: what receives it connects with the environment of its own process.
    """

    root: str

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self.root,)

    @property
    @override
    def location(self) -> str:
        return self.root

    @override
    def local_path(self, path: str) -> Path:
        raise StorageError(f"{path} is under {self.root}, this needs it on a local disk: set BATCH_ASSETS_ROOT to a folder.")

    @override
    def read(self, path: str) -> bytes:
        with self._explained(path) as store:
            return bytes(store.get(self._key(path)).bytes())

    @override
    def open(self, path: str) -> "pa.NativeFile":
        import pyarrow as pa

        with self._explained(path) as store:
            from obstore import open_reader

            return pa.PythonFile(_Ranges(open_reader(store, self._key(path))), mode="r")

    @override
    def stamp(self, path: str) -> Stamp:
        """Size and etag. Of a file that was put in one piece the etag says the content: the same bytes again look the same."""
        with self._explained(path) as store:
            found = store.head(self._key(path))
        token = found["e_tag"] or found["last_modified"].isoformat()
        return Stamp(found["size"], token, found["last_modified"].timestamp())

    @override
    def sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self._explained(path) as store:
            for piece in store.get(self._key(path)):
                digest.update(memoryview(piece))
        return digest.hexdigest()

    @override
    def names(self, folder: str) -> dict[str, int]:
        with self._explained(folder) as store:
            found = store.list_with_delimiter(self._key(folder))
        folders = {PurePosixPath(prefix).name: 0 for prefix in found["common_prefixes"]}
        return folders | {PurePosixPath(one["path"]).name: one["size"] for one in found["objects"]}

    @override
    def create(self, path: str, data: "bytes | memoryview | pa.Buffer") -> None:
        """One conditional put of the whole buffer, which may have up to 5 GB.

        A put that is repeated because the server's answer was lost may find its own file, and then says AlreadyExists:
        whoever comes second looks at what is there anyway.
        """
        self._put(self._claimed, path, data)

    @override
    def adopt(self, folder: Path, path: str) -> None:
        """Put every file of a folder exclusively, JSON documents last, because they are what a reader of a folder opens first.

        An object store has no folder that could be moved at once. Whoever puts the first file owns the name, everybody else
        gets AlreadyExists, possibly before the owner's last file is there; if the owner dies in between, a folder without
        its document stays behind, which readers take for none, and which `discard` takes away.
        """
        files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda one: (one.suffix == ".json", one.as_posix())):
            self.create(f"{path}/{file.as_posix()}", (folder / file).read_bytes())

    @override
    def touch(self, path: str) -> None:
        with self._explained(path) as store:
            content = store.get(self._key(path)).bytes()
            store.put(self._key(path), content, mode="overwrite", use_multipart=False)

    @override
    def delete(self, path: str) -> None:
        with self._explained(path) as store:
            store.delete(self._key(path))

    @override
    def discard(self, path: str) -> None:
        """Delete every file below a folder."""
        with self._explained(path) as store:
            store.delete([one["path"] for one in store.list(self._key(path)).collect()])

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
    def _store(self) -> "S3Store":
        """The client: built when it is first needed, once in each process."""
        try:
            from obstore.store import S3Store
        except ImportError:
            raise StorageError(f"{self.root} needs a client for S3: pip install 'batch-assets[s3]'.") from None
        bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        local = urlsplit(endpoint).hostname in ("localhost", "127.0.0.1", "::1")
        allowed = local or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        return S3Store(bucket, prefix=prefix or None, client_options={"allow_http": allowed})

    @cached_property
    def _claimed(self) -> "S3Store":
        """The client, once the root says its layout version: before the first write, so that reading makes nothing."""
        with suppress(AlreadyExists):  # this root was written to before
            self._put(self._store, FORMAT_FILE, layout_document())
        return self._store

    def _put(self, store: "S3Store", path: str, data: "bytes | memoryview | pa.Buffer") -> None:
        try:
            with self._explained(path):
                store.put(self._key(path), memoryview(data).cast("B"), mode="create", use_multipart=False)
        except NotFound:  # a new file can lack nothing but its bucket
            raise StorageError(f"{self.root} has no such bucket: make it, or look at AWS_ENDPOINT_URL.") from None

    def _key(self, path: str) -> str:
        return "/".join(path_parts(path, self.root))

    @contextmanager
    def _explained(self, path: str) -> "Iterator[S3Store]":
        """The client, whose errors become one sentence."""
        store = self._store
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            yield store
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None
        except AlreadyExistsError:
            raise AlreadyExists(f"{path} already exists under {self.root}.") from None
        except BaseError as error:
            reason = str(error).splitlines()[0].partition("<?xml")[0].rstrip(" :.")
            raise StorageError(f"{path} under {self.root} cannot be reached ({reason}).") from error


class _Ranges(io.RawIOBase):
    """Reads an object range by range, as the kind of file that Arrow takes."""

    def __init__(self, reader: "ReadableFile") -> None:
        self._reader = reader

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._reader.tell()

    @override
    def readinto(self, buffer: Any) -> int:
        found = memoryview(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)
