"""The embedded store: one Arrow file a release, of typed columns, memory-mapped by its readers.

The key's column is called as the key (of several columns: as all of them, with commas, and holds their identities), the others
as the fields of the record.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
from typing_extensions import override

from batch_assets.arrow import as_numpy
from batch_assets.records import Records
from batch_assets.serving.arrow_file import ArrowFile, write_arrow
from batch_assets.serving.arrow_table import ArrowTable
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.store import Batch, Batches, Release, Table


class ArrowStore(FileStore):
    """One Arrow file a release."""

    kind: Literal["arrow"] = "arrow"
    file: ClassVar[str] = "release.arrow"

    @override
    def write(self, path: Path, release: Release, batches: Batches) -> dict[str, str]:
        schema = schema_of(release)
        tables = (pa.table([keys, *records.columns().values()], schema=schema) for keys, records in batches)
        return write_arrow(path, schema, tables)

    @override
    def read(self, path: Path, release: Release) -> Iterator[Batch]:
        file, fields = ArrowFile(path, schema_of(release), release.built), release.record.fields
        for number in range(len(file)):
            keys, *columns = file.batch(number).columns
            found = {
                one.name: as_numpy(column.values).reshape(-1, one.length) if one.length else as_numpy(column)
                for one, column in zip(fields, columns, strict=True)
            }
            yield keys, Records(release.record, found)

    @override
    def table(self, path: Path, release: Release) -> Table:
        return ArrowTable(ArrowFile(path, schema_of(release), release.built), release.record.dtype)


def schema_of(release: Release) -> pa.Schema:
    """The columns of a release's file."""
    key = pa.field(",".join(one.name for one in release.key), release.key_type, nullable=False)
    return pa.schema([key, *((name, column.type) for name, column in release.record.empty().columns().items())])
