"""A bucket that speaks S3: requests that are made again until they are answered, and puts that know whether they took place.

This is the only file that knows obstore. Region and credentials come from the usual AWS_* environment variables of the process
that asks (profiles in ~/.aws are not read).
"""

import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from batch_assets.errors import AlreadyExists, NotFound, StorageError
from batch_assets.storage.endpoint import plain_http_allowed, s3_endpoint, said_by_server
from batch_assets.storage.port import Stamp, path_parts

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, ObjectMeta
    from obstore.store import S3Store

Found = TypeVar("Found")
Came = TypeVar("Came", bound=Sized)

_IN_PARTS, _PART = 64 << 20, 16 << 20
"""A file of more bytes is put in parts of so many, which are read from the disk as they are sent."""

_PIECE = 1 << 20
"""Bytes of an answer that are handed on at once: they do not wait for the rest, and fit into a processor's cache."""

_PART_COPIED, _PARTS_AT_ONCE = 64 << 20, 4
"""Bytes of a file that come in one answer when it is copied, and how many of these are asked for at the same time."""

_AHEAD, _FAR_AHEAD = 1 << 18, 16 << 20
"""Bytes that are read at least, since small reads come one after the other: twice as many with each read that goes on where the
last one ended, up to so many."""

_END = 1 << 16
"""Bytes of a file's end that come with its stamp, since Arrow asks for so many of a Parquet file first: its footer."""

_PATIENCE, _FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 0.1, 10.0
"""Seconds for which a request is tried again, and between two tries."""

_TIMES_CUT = 6
"""So often in a row an answer may be cut off; what is refused or does not come at all is the client's own to try again."""

_NO_ETAG = "written "
"""How the token of a file begins that a server gives no etag."""

_CONDITION = ("412 Precondition Failed", "PreconditionFailed")
"""How the refusal of a conditional put is called."""

_NO_RANGE = ("non-partial response", "416 ", "InvalidRange")
"""How it is called that of a file no end can be had: it is empty, or the server knows no such range."""


class Traffic:
    """Counts the bytes of files that came; several threads may add to it."""

    def __init__(self) -> None:
        self.received = 0
        self._lock = threading.Lock()

    def count(self, piece: Came) -> Came:
        """What came, after it was counted."""
        with self._lock:
            self.received += len(piece)
        return piece


class _AnswerLost(StorageError):
    """Nobody knows whether a put took place."""


@dataclass(frozen=True)
class Bucket:
    """The files below `s3://bucket/prefix`. It can be sent to other processes, which connect by their own environment."""

    root: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.root,)

    def ask(self, path: str, asked: "Callable[[S3Store], Found]") -> Found:
        """What the server answers to what can be asked twice; an answer that is cut off is asked for again.

        Raises:
            NotFound: there is no such file or bucket.
            StorageError: it cannot be reached, or does not permit it; `path` is named.
        """
        pause = _FIRST_PAUSE
        for left in reversed(range(_TIMES_CUT)):
            try:
                with self._explained(path) as store:
                    return asked(store)
            except StorageError as error:
                if not left or not _is_generic(error):
                    raise
            _wait(pause)
            pause *= 2
        raise AssertionError

    def key(self, path: str) -> str:
        """A path as the client says it."""
        return "/".join(path_parts(path, self.root))

    def stamp(self, path: str) -> Stamp:
        """Size, etag and the server's time."""
        return _stamp(self.ask(path, lambda store: store.head(self.key(path))))

    def end(self, path: str, most: int) -> tuple[Stamp, bytes]:
        """A file's stamp and its last bytes, at most so many, in one answer; none where the server gives no ends.

        Raises NotFound.
        """

        def asked(store: "S3Store") -> tuple[Stamp, bytes]:
            from obstore.exceptions import GenericError

            try:
                found = store.get(self.key(path), options={"range": {"suffix": most}})
            except GenericError as error:
                if any(word in str(error) for word in _NO_RANGE):
                    return _stamp(store.head(self.key(path))), b""
                raise
            return _stamp(found.meta), self.traffic.count(bytes(found.bytes()))

        return self.ask(path, asked)

    def walk(self, folder: str = "") -> list[tuple[str, Stamp]]:
        """Every file in and below a folder, and the file of that name. Raises NotFound if there is no such bucket."""
        key = self.key(folder) if folder else None
        listed = self.ask(folder or self.root, lambda store: [one for page in store.list(key) for one in page])
        try:
            alone = [self.ask(folder, lambda store: store.head(key))] if key else []
        except NotFound:
            alone = []
        return [(one["path"], _stamp(one)) for one in [*listed, *alone]]

    def pieces(self, path: str, stamp: Stamp, start: int = 0, end: int | None = None) -> "Iterator[Bytes]":
        """The bytes of a file, or some of them, in their order; what is cut off goes on where it ended.

        Raises:
            NotFound: it is gone.
            StorageError: it is another one than when it was stamped, or cannot be reached.
        """
        at, end = start, stamp.size if end is None else end
        pause, left = _FIRST_PAUSE, _TIMES_CUT
        while at < end:
            try:
                for piece in self._stream(path, stamp, at, end):
                    yield piece
                    at += len(piece)
                    pause, left = _FIRST_PAUSE, _TIMES_CUT
            except StorageError as error:
                if not _is_generic(error) or not left:
                    raise
            if at < end:
                if not left:
                    raise StorageError(f"{path} under {self.root} cannot be reached (its answer is always cut off).")
                left -= 1
                _wait(pause)
                pause *= 2

    def copy(self, path: str, stamp: Stamp, target: Path) -> None:
        """Copy a file to a new one here, some parts of it at once. Raises as `pieces` does, and OSError."""

        def fetch(start: int) -> None:
            at = start
            for piece in self.pieces(path, stamp, start, min(start + _PART_COPIED, stamp.size)):
                written = 0
                while written < len(piece):
                    written += os.pwrite(file.fileno(), memoryview(piece)[written:], at + written)
                at += len(piece)

        with target.open("xb") as file, ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            for _ in pool.map(fetch, range(0, stamp.size, _PART_COPIED)):
                pass

    def _stream(self, path: str, stamp: Stamp, start: int, end: int) -> "Iterator[Bytes]":
        """One answer, as it comes. Raises as `pieces` does."""
        from obstore.exceptions import PreconditionError

        how: GetOptions = {} if (start, end) == (0, stamp.size) else {"range": (start, end)}
        if not stamp.token.startswith(_NO_ETAG):
            how["if_match"] = stamp.token
        try:
            with self._explained(path) as store:
                for piece in store.get(self.key(path), options=how).stream(min_chunk_size=_PIECE):
                    self.traffic.count(piece)
                    yield piece  # type: ignore[misc] # the client calls its own Bytes bytes there
        except StorageError as error:
            if isinstance(error.__cause__, PreconditionError):
                raise StorageError(f"{path} under {self.root} was changed while it was read: read it again.") from error
            raise

    def put(self, path: str, data: memoryview | Path) -> str:
        """Put a file exclusively. Whether a put took place whose answer did not arrive is asked by putting it again.

        If then it is there with this content, it is one's own: what must have one winner says who wrote it.

        Returns:
            The token of its stamp.

        Raises:
            AlreadyExists: another file is there, or this one was before.
            StorageError: it cannot be reached.
        """
        deadline, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        large = isinstance(data, Path) and data.stat().st_size > _IN_PARTS
        lost = large  # the client itself repeats a part
        while True:
            try:
                return self._put_once(path, data, large=large)
            except AlreadyExists:
                same = self.same(path, data) if lost else None
                if same is None:
                    raise
                return same.token
            except _AnswerLost as error:
                lost = True
                if time.monotonic() + pause > deadline:
                    raise StorageError(str(error)) from error
                _wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def same(self, path: str, data: memoryview | Path) -> Stamp | None:
        """The stamp of a file, if it has this content."""
        stamp = self.stamp(path)
        if stamp.size != (data.stat().st_size if isinstance(data, Path) else data.nbytes):
            return None
        if isinstance(data, Path):
            with data.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == self.sha256(path, stamp)
        else:
            same = b"".join(self.pieces(path, stamp)) == data
        return stamp if same else None

    def sha256(self, path: str, stamp: Stamp) -> str:
        """The sha256 of a file, in hex. Raises as `pieces` does."""
        digest = hashlib.sha256()
        for piece in self.pieces(path, stamp):
            digest.update(piece)
        return digest.hexdigest()

    def _put_once(self, path: str, data: memoryview | Path, *, large: bool) -> str:
        """The token. Raises AlreadyExists; _AnswerLost if nobody knows whether it took place; StorageError."""
        client = self._store if large else self._once
        content = data.read_bytes() if isinstance(data, Path) and not large else data
        try:
            with self._explained(path):
                put = client.put(self.key(path), content, mode="create", use_multipart=large, chunk_size=_PART)
            return put["e_tag"] or self.stamp(path).token
        except NotFound:  # a new file can lack nothing but its bucket
            raise StorageError(f"{self.root} has no such bucket: make it, or look at AWS_ENDPOINT_URL.") from None
        except StorageError as error:
            if not _is_generic(error):
                raise
            if any(word in str(error.__cause__) for word in _CONDITION):
                raise AlreadyExists(f"{path} already exists under {self.root}.") from None  # so it is said of parts
            raise _AnswerLost(str(error)) from error

    @cached_property
    def traffic(self) -> Traffic:
        """What has come until now to this object's process."""
        return Traffic()

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
            reason = said_by_server(error) or str(error).splitlines()[0].partition("<?xml")[0].rstrip(" :.")
            raise StorageError(f"{path} under {self.root} cannot be reached ({reason}).") from error


class Ranges(io.RawIOBase):
    """Reads a file range by range, as the kind of file that Arrow takes. Its end is there as soon as it is opened."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path = bucket, path
        self._stamp, self._ahead = bucket.end(path, _END)
        self._at, self._ahead_from, self._read_ahead = 0, self._stamp.size - len(self._ahead), _AHEAD

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._stamp.size}[whence]
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    def read_buffer(self, nbytes: int) -> memoryview:
        """What Arrow asks for: the next bytes as they came, without a copy of them."""
        end = min(self._at + nbytes, self._stamp.size)
        known = self._ahead_from + len(self._ahead)
        if not self._ahead_from <= self._at <= end <= known:
            goes_on = self._ahead and self._ahead_from < self._at <= known
            self._read_ahead = min(2 * self._read_ahead, _FAR_AHEAD) if goes_on else _AHEAD
            last = min(max(end, self._at + self._read_ahead), self._stamp.size)
            self._ahead = b"".join(self._bucket.pieces(self._path, self._stamp, self._at, last))
            self._ahead_from = self._at
        found = memoryview(self._ahead)[self._at - self._ahead_from : end - self._ahead_from]
        self._at = max(self._at, end)
        return found

    @override
    def readinto(self, buffer: Any) -> int:
        found = self.read_buffer(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _is_generic(error: StorageError) -> bool:
    """Whether the client knows no word for what happened: the network failed, or the server."""
    if error.__cause__ is None:  # there may be no client at all
        return False
    from obstore.exceptions import GenericError

    return isinstance(error.__cause__, GenericError)


def _stamp(found: "ObjectMeta") -> Stamp:
    """Of a file that was put in one piece the etag says the content: the same bytes again look the same."""
    token = found["e_tag"] or f"{_NO_ETAG}{found['last_modified'].isoformat()}"
    return Stamp(found["size"], token, found["last_modified"].timestamp())


def _wait(pause: float) -> None:
    """So long, or a little less, so that not all of them come again at once."""
    time.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - no secret
