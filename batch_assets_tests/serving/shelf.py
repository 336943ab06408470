"""A store of somebody else's: a release is one Parquet file, whose columns SQL and Arrow users can read as well."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import ReleaseBroken
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.store import Batch, Batches, Release, Table


class Shelf(FileStore):
    """Keys in order, so that the statistics of row groups lead a look-up to the few pages that may hold one."""

    kind: Literal["shelf"] = "shelf"
    file: ClassVar[str] = "release.parquet"
    group_rows: int = 20_000

    def write(self, path: Path, release: Release, batches: Batches) -> dict[str, str]:
        schema = pa.table({"key": pa.array([], release.key_type), **release.record.empty().columns()}).schema
        with pq.ParquetWriter(path, schema, use_dictionary=False, write_page_checksum=True) as file:
            for keys, records in batches:
                file.write_table(pa.table({"key": keys, **records.columns()}, schema=schema), self.group_rows)
        return {}

    def read(self, path: Path, release: Release) -> Iterator[Batch]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches():
                yield batch["key"], release.record.from_table(pa.Table.from_batches([batch]))

    def table(self, path: Path, release: Release) -> "ShelfTable":
        return ShelfTable(path, release)


class ShelfTable(Table):
    def __init__(self, path: Path, release: Release) -> None:
        self._path, self._release = path, release

    def get(self, key: Any) -> np.void | None:
        try:
            same = [("key", "==", pa.scalar(key, self._release.key_type))]
        except (pa.ArrowInvalid, OverflowError):  # these keys are integers of fewer bits
            return None
        try:
            found = pq.read_table(self._path, filters=same, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseBroken(f"{self._path} cannot be read ({error}): publish the partition again.") from error
        return self._release.record.from_table(found).packed()[0] if len(found) else None

    def close(self) -> None:
        pass
