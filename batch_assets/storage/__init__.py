"""The storage root: how bytes are listed, read and created.

Two promises carry everything above. A file appears under its final name whole or not at all, and the first writer of a
name wins; nothing is ever overwritten. Local disks keep them by writing to `_tmp/`, fsync, an exclusive link and an fsync
of the folder. S3 keeps them by one conditional put. What they promise is in `port`.
"""

import os
from pathlib import Path

from batch_assets.errors import NotFound, StorageError, StorageFull
from batch_assets.project import project_here
from batch_assets.storage.local import LocalStorage
from batch_assets.storage.port import FORMAT_FILE, LAYOUT, Stamp, Storage, check_layout, root_id
from batch_assets.storage.s3 import S3Storage

__all__ = [
    "LAYOUT",
    "LocalStorage",
    "S3Storage",
    "Stamp",
    "Storage",
    "default_models",
    "default_root",
    "open_storage",
    "require_space",
    "root_id",
]


def default_root() -> str:
    """BATCH_ASSETS_ROOT, or `data` in the project, or in the working directory where there is none."""
    if named := os.environ.get("BATCH_ASSETS_ROOT"):
        return named
    project = project_here()
    return str(project.root / "data") if project else "data"


def default_models() -> str:
    """Where the models are: BATCH_ASSETS_MODELS, or the storage root."""
    return os.environ.get("BATCH_ASSETS_MODELS") or default_root()


def open_storage(root: str) -> Storage:
    """The storage root at a folder or at `s3://bucket/prefix`, after its layout version was checked.

    Raises:
        OtherLayout: the root was written by a newer or an older program.
        StorageError: the root's layout file cannot be understood, or the bucket cannot be reached.
    """
    storage = _storage_at(root)
    try:
        document = storage.read(FORMAT_FILE)
    except NotFound:
        return storage
    check_layout(document, storage.location)
    return storage


def _storage_at(root: str) -> Storage:
    if root.startswith("s3://"):
        if not root.removeprefix("s3://").partition("/")[0]:
            raise StorageError(f"{root} names no bucket; set BATCH_ASSETS_ROOT to s3://bucket/prefix.")
        return S3Storage(root.rstrip("/"))
    if "://" in root:
        raise StorageError(f"{root}: data is kept in local folders and on S3; set BATCH_ASSETS_ROOT to one or to s3://….")
    if Path(root).exists() and not Path(root).is_dir():
        raise StorageError(f"{root} is a file; set BATCH_ASSETS_ROOT to a folder.")
    return LocalStorage(str(Path(root).absolute()))


def require_space(storage: Storage, needed: int, what: str) -> None:
    """Raise StorageFull if `what` needs more bytes than are free."""
    free = storage.free_bytes()
    if free is not None and free < needed:
        raise StorageFull(
            f"{what} needs about {needed / 1e6:,.0f} MB under {storage.location}, only {free / 1e6:,.0f} MB are free: "
            "free some space, or set BATCH_ASSETS_ROOT to a larger disk."
        )
