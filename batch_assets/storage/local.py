"""A storage root on a local disk: written to `_tmp/`, fsync, linked exclusively to the final name, fsync of the folder."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from batch_assets.errors import AlreadyExists, NotFound, StorageError, StorageFull
from batch_assets.process import Process
from batch_assets.storage.lease import LEASE_SECONDS, renewed
from batch_assets.storage.port import FORMAT_FILE, Stamp, Storage, layout_document, path_parts

if TYPE_CHECKING:
    import pyarrow as pa

_UNFINISHED_SECONDS = 24 * 3600
"""A file that was not written to for so long will not be finished any more."""


@dataclass(frozen=True)
class LocalStorage(Storage):
    """A storage root in a local folder (or a mounted file system with hard links)."""

    root: str

    @property
    @override
    def location(self) -> str:
        return self.root

    @property
    @override
    def received(self) -> int:
        return 0

    @override
    def local_path(self, path: str) -> Path:
        return Path(self.root, *path_parts(path, self.root))

    @override
    def read(self, path: str) -> bytes:
        try:
            return self.local_path(path).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None

    @override
    def open(self, path: str) -> "pa.NativeFile":
        import pyarrow as pa

        try:
            return pa.OSFile(str(self.local_path(path)))
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None

    @override
    def stamp(self, path: str) -> Stamp:
        try:
            status = self.local_path(path).stat()
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None
        return _stamp(status)

    @override
    def sha256(self, path: str) -> str:
        try:
            with self.local_path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None

    @override
    def names(self, folder: str) -> dict[str, int]:
        found = {}
        try:
            with os.scandir(self.local_path(folder)) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it went away since it was listed
                        found[entry.name] = entry.stat().st_size if entry.is_file() else 0
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return found

    @override
    def create(self, path: str, data: "bytes | memoryview | pa.Buffer") -> None:
        self._claim()
        target = self.local_path(path)
        temporary = target.parent / "_tmp" / f"{target.name}.{uuid.uuid4().hex}"
        with _full_disk_explained(self.root):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_durably(temporary, data)
                _link_exclusively(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)

    @override
    def adopt(self, folder: Path, path: str) -> dict[str, str]:
        self._claim()
        target, tokens = self.local_path(path), {}
        with _full_disk_explained(self.root):
            for file in folder.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
                        tokens[file.relative_to(folder).as_posix()] = _stamp(os.fstat(handle.fileno())).token
            _sync_folder(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise AlreadyExists(f"{path} already exists under {self.root}.") from None
                raise
            _sync_folder(target.parent)
        return tokens

    @override
    def touch(self, path: str) -> None:
        try:
            os.utime(self.local_path(path))
        except FileNotFoundError:
            raise NotFound(f"{path} is not under {self.root}.") from None

    @override
    def delete(self, path: str) -> None:
        self.local_path(path).unlink(missing_ok=True)

    @override
    def discard(self, path: str) -> None:
        with self.scratch() as scratch, suppress(FileNotFoundError):
            self.local_path(path).rename(scratch / "discarded")

    @override
    def leftovers(self, folder: str) -> dict[str, int]:
        found, begun_before = {}, time.time() - _UNFINISHED_SECONDS
        for place, _, names in os.walk(self.local_path(folder)):
            for path in (Path(place, name) for name in names if Path(place).name == "_tmp"):
                with suppress(FileNotFoundError):  # it was finished since it was listed
                    status = path.stat()
                    if status.st_mtime < begun_before:
                        found[path.relative_to(self.root).as_posix()] = status.st_size
        return found

    @override
    def free_bytes(self) -> int | None:
        existing = Path(self.root).absolute()
        while not existing.exists():
            existing = existing.parent
        return shutil.disk_usage(existing).free

    @override
    @contextmanager
    def scratch(self) -> Iterator[Path]:
        self._claim()
        top, me = Path(self.root, "_tmp"), Process.current()
        folder = top / f"{me.host}~{me.pid}~{me.started:.2f}~{uuid.uuid4().hex[:12]}"
        with _full_disk_explained(self.root):
            folder.mkdir(parents=True)
            _sweep(top, now=folder.stat().st_mtime)
            try:
                with renewed(lambda: os.utime(folder)):
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _claim(self) -> None:
        """Write the layout version when the root is first written to."""
        path = Path(self.root, FORMAT_FILE)
        if path.exists():
            return
        with _full_disk_explained(self.root):
            temporary = path.parent / "_tmp" / f"{path.name}.{uuid.uuid4().hex}"
            temporary.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(temporary, layout_document())
            with suppress(AlreadyExists):  # another process claimed the root in the same moment
                _link_exclusively(temporary, path)
            temporary.unlink()


def _sweep(top: Path, now: float) -> None:
    """Remove scratch folders of processes that are dead: each is the lease of its process. `now` is the storage's clock."""
    for folder in top.iterdir():
        host, pid, started, *rest = [*folder.name.split("~"), "", "", ""]
        with suppress(ValueError, FileNotFoundError):  # a folder that is not ours has another name; or it went away just now
            process = Process(host, int(pid), float(started))
            age = now - folder.stat().st_mtime
            if rest[0] and not (process.alive() if process.is_here else age <= LEASE_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}", status.st_mtime)


def _write_durably(path: Path, data: "bytes | memoryview | pa.Buffer") -> None:
    with path.open("wb") as file:
        file.write(memoryview(data))
        file.flush()
        os.fsync(file.fileno())


def _link_exclusively(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise AlreadyExists(f"{target} already exists.") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk_explained(root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"The disk under {root} is full: free some space, or set BATCH_ASSETS_ROOT to a larger one."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(f"{root} cannot be written to ({error.strerror}).") from error
        raise
