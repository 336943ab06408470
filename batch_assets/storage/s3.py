"""A storage root in a bucket that speaks S3: whole files by one conditional put each, because there are no folders.

This is the only file that knows obstore. Endpoint, region and credentials come from the usual AWS_* environment variables of
the process that uses the root (profiles in ~/.aws are not read); plain http is allowed to a server on this machine only,
unless AWS_ALLOW_HTTP says otherwise.
"""

import hashlib
import io
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from batch_assets.errors import AlreadyExists, NotFound, StorageError
from batch_assets.storage.copies import copy_of
from batch_assets.storage.endpoint import plain_http_allowed, s3_endpoint
from batch_assets.storage.port import FORMAT_FILE, Stamp, Storage, layout_document, path_parts

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import GetOptions, ObjectMeta, ReadableFile
    from obstore.store import S3Store

_IN_PARTS, _PART = 64 << 20, 16 << 20
"""A file of more bytes is put in parts of so many, which are read from the disk as they are sent."""

_PIECE, _PIECES_AT_ONCE = 8 << 20, 4
"""Bytes of a file that come in one answer, and how many of these are asked for at the same time."""

_PATIENCE, _FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 0.1, 10.0
"""Seconds for which a request is tried again, and between two tries."""

_CONDITION = ("412 Precondition Failed", "PreconditionFailed")
"""How the refusal of a conditional put is called."""


class _AnswerLost(StorageError):
    """Nobody knows whether a put took place."""


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
        """A copy on this machine (`storage.copies`)."""
        stamp = self.stamp(path)
        return copy_of(self.root, path, stamp, lambda: self.pieces(path, stamp))

    def walk(self, folder: str) -> Iterator[tuple[str, Stamp]]:
        """Every file in and below a folder, or the file of that name, with its stamp; `folder` "" is the root.

        Raises:
            NotFound: there is no such bucket.
        """
        key = self._key(folder) if folder else None
        with self._explained(folder or self.root) as store:
            files = [one for page in store.list(key) for one in page]
            if key and (alone := self._alone(store, key)):
                files.append(alone)
        for one in files:
            yield one["path"], _stamp(one)

    @staticmethod
    def _alone(store: "S3Store", key: str) -> "ObjectMeta | None":
        try:
            return store.head(key)
        except FileNotFoundError:
            return None

    def pieces(self, path: str, stamp: Stamp) -> Iterator[bytes]:
        """The bytes of a file in its order, some of which are asked for at once; a piece that is cut off is asked for again.

        Raises:
            NotFound: it is gone.
            StorageError: it is another one than when it was stamped, or cannot be reached.
        """
        starts = range(0, stamp.size, _PIECE)
        with ThreadPoolExecutor(_PIECES_AT_ONCE) as pool:
            under_way = deque[Future[bytes]]()
            for start in starts:
                under_way.append(pool.submit(self._piece, path, stamp, start))
                if len(under_way) == _PIECES_AT_ONCE:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def _piece(self, path: str, stamp: Stamp, start: int) -> bytes:
        from obstore.exceptions import PreconditionError

        asked: GetOptions = {"range": (start, min(start + _PIECE, stamp.size)), "if_match": stamp.token}
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with self._explained(path) as store:
                    return bytes(store.get(self._key(path), options=asked).bytes())
            except StorageError as error:
                if isinstance(error.__cause__, PreconditionError):
                    raise StorageError(f"{path} under {self.root} was changed while it was read: read it again.") from error
                if isinstance(error, NotFound) or time.monotonic() > deadline:
                    raise
                time.sleep(_FIRST_PAUSE)

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
        return _stamp(found)

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
        """One conditional put of the whole buffer, which may have up to 5 GB; one whose answer was lost is repeated."""
        self._create(path, memoryview(data).cast("B"))

    @override
    def adopt(self, folder: Path, path: str) -> None:
        """Put every file of a folder exclusively, JSON documents last, because they are what a reader of a folder opens first.

        An object store has no folder that could be moved at once, and whoever puts its files may die in between. So a file
        that is there already with the same content is taken as it is: whoever adopts the same files again completes the
        folder. AlreadyExists is raised for other content, and if there was nothing left to put. A folder without its
        document is one that readers take for none.
        """
        files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
        new = False
        for file in sorted(files, key=lambda one: (one.suffix == ".json", one.as_posix())):
            name = f"{path}/{file.as_posix()}"
            try:
                self._create(name, folder / file)
                new = True
            except AlreadyExists:
                if not self._holds(name, folder / file):
                    raise
        if not new:
            raise AlreadyExists(f"{path} already exists under {self.root}.")

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
        return self._client(retries=5)

    @cached_property
    def _once(self) -> "S3Store":
        """The client for conditional puts: it sends each of them once, as a second one would find the first one's file."""
        return self._client(retries=0)

    def _client(self, retries: int) -> "S3Store":
        try:
            from obstore.store import S3Store
        except ImportError:
            raise StorageError(f"{self.root} needs a client for S3: pip install 'batch-assets[s3]'.") from None
        bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"allow_http": plain_http_allowed(s3_endpoint()), "timeout": "120s", "connect_timeout": "10s"},
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=_PATIENCE)},
        )

    @cached_property
    def _claimed(self) -> bool:
        """That the root says its layout version, on a server that knows conditions; before the first write, which it permits.

        Raises:
            StorageError: a second put of the document is no conflict, so any name could have two writers.
        """
        document = layout_document()
        for content in (document, document + b"\n"):  # another content is never taken for one's own
            try:
                self._put(FORMAT_FILE, memoryview(content))
            except AlreadyExists:
                return True
        raise StorageError(
            f"{self.root} lies on a server that does not know If-None-Match of a put, so that two could write one file: take "
            "one that does, like S3, R2, MinIO or versitygw."
        )

    def _create(self, path: str, data: memoryview | Path) -> None:
        if self._claimed:
            self._put(path, data)

    def _put(self, path: str, data: memoryview | Path) -> None:
        """Put a file exclusively. Whether a put took place whose answer did not arrive is asked by putting it again.

        If then it is there with this content, it is one's own: what must have one winner says who wrote it.
        """
        deadline, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        large = isinstance(data, Path) and data.stat().st_size > _IN_PARTS
        lost = large  # the client itself repeats a part
        while True:
            try:
                self._put_once(path, data, large=large)
            except AlreadyExists:
                if lost and self._holds(path, data):
                    return
                raise
            except _AnswerLost as error:
                lost = True
                if time.monotonic() + pause > deadline:
                    raise StorageError(str(error)) from error
                time.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - so that not all of them come again at once
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _put_once(self, path: str, data: memoryview | Path, *, large: bool) -> None:
        """Raises AlreadyExists; _AnswerLost if nobody knows whether it took place; StorageError."""
        from obstore.exceptions import GenericError

        client = self._store if large else self._once
        content = data.read_bytes() if isinstance(data, Path) and not large else data
        try:
            with self._explained(path):
                client.put(self._key(path), content, mode="create", use_multipart=large, chunk_size=_PART)
        except NotFound:  # a new file can lack nothing but its bucket
            raise StorageError(f"{self.root} has no such bucket: make it, or look at AWS_ENDPOINT_URL.") from None
        except StorageError as error:
            if not isinstance(error.__cause__, GenericError):
                raise
            if any(word in str(error.__cause__) for word in _CONDITION):
                raise AlreadyExists(f"{path} already exists under {self.root}.") from None  # so it is said of parts
            raise _AnswerLost(str(error)) from error

    def _holds(self, path: str, data: memoryview | Path) -> bool:
        """Whether a file has this content."""
        size = data.stat().st_size if isinstance(data, Path) else data.nbytes
        with self._explained(path) as store:
            if store.head(self._key(path))["size"] != size:
                return False
        if isinstance(data, Path):
            with data.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256(path)
        return self.read(path) == data

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


def _stamp(found: "ObjectMeta") -> Stamp:
    token = found["e_tag"] or found["last_modified"].isoformat()
    return Stamp(found["size"], token, found["last_modified"].timestamp())


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
