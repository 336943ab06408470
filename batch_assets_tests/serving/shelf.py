"""A store of somebody else's: a release is one Parquet file, whose columns SQL and Arrow users can read as well."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.store import Batch, Batches, Release


class Shelf(FileStore):
    """Keys in order, so that the statistics of row groups lead a look-up to the few pages that may hold one."""

    kind: Literal["shelf"] = "shelf"
    file: ClassVar[str] = "release.parquet"
    group_rows: int = 20_000

    def write(self, folder: Path, release: Release, batches: Batches) -> None:
        schema = pa.table({"key": pa.array([], release.key_type), **release.record.empty().columns()}).schema
        with pq.ParquetWriter(folder / self.file, schema, use_dictionary=False, write_page_checksum=True) as file:
            for keys, records in batches:
                file.write_table(pa.table({"key": keys, **records.columns()}, schema=schema), self.group_rows)

    def read(self, folder: Path, release: Release) -> Iterator[Batch]:
        with pq.ParquetFile(folder / self.file, page_checksum_verification=True) as file:
            for batch in file.iter_batches():
                yield batch["key"], release.record.from_table(pa.Table.from_batches([batch]))

    def table(self, folder: Path, release: Release) -> "ShelfTable":
        return ShelfTable(folder / self.file, release)


class ShelfTable:
    def __init__(self, path: Path, release: Release) -> None:
        self._path, self._release = path, release

    def get(self, key: Any) -> npt.NDArray[np.void] | None:
        try:
            same = [("key", "==", pa.scalar(key, self._release.key_type))]
        except (pa.ArrowInvalid, OverflowError):  # these keys are integers of fewer bits
            return None
        try:
            found = pq.read_table(self._path, filters=same, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseBroken(f"{self._path} cannot be read ({error}): publish the partition again.") from error
        return self._release.record.from_table(found).packed().reshape(()) if len(found) else None

    def close(self) -> None:
        pass
