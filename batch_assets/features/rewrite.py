"""A snapshot without some of its rows: a new one, whose every other row is what it was, read back and compared.

Part files and row groups stay where they are, only shorter, so that chunks do, too. A part file of which no row goes is copied.
"""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.arrow import as_arrow, as_numpy, differ
from batch_assets.digest import bits, key_digest
from batch_assets.errors import SnapshotChanged
from batch_assets.features.keys import identity
from batch_assets.features.snapshot import RowGroup, Snapshot, SnapshotReader, described
from batch_assets.storage import LocalStorage, Storage

Gone = list[npt.NDArray[np.int64]]
"""Of each part file the places of the rows that go, ascending, each of shape (rows,)."""

Chosen = Callable[[pa.Table], npt.NDArray[np.bool_]]
"""Says of rows with the columns of their identity which are meant; shape (rows,)."""


def find_rows(storage: Storage, folder: str, snapshot: Snapshot, chosen: Chosen) -> Gone:
    """Where rows stand in a snapshot. Raises SnapshotChanged."""
    reader, found = SnapshotReader(storage, folder, snapshot), Gone()
    for number, file in enumerate(snapshot.files):
        starts = accumulate((group.rows for group in file.row_groups), initial=0)
        pieces = [
            start + np.flatnonzero(chosen(reader.rows(number, start, group.rows, list(snapshot.key))))
            for start, group in zip(starts, file.row_groups, strict=False)
        ]
        found.append(np.concatenate([np.empty(0, dtype=np.int64), *pieces]).astype(np.int64))
    return found


def rewrite_snapshot(target: Path, storage: Storage, folder: str, snapshot: Snapshot, gone: Gone) -> Snapshot:
    """Write a snapshot without some rows into an empty local folder.

    What was written is read back: in every row group the digest of the keys must be the one before minus that of the rows that
    went, and every other row must be what it was, bit for bit.

    Raises:
        SnapshotChanged: what is there, or what was written, is not that.
    """
    reader = SnapshotReader(storage, folder, snapshot)
    groups = [_rewrite_file(target, storage, folder, reader, snapshot, number, places) for number, places in enumerate(gone)]
    new = described(target, snapshot.key, reader.schema(), [file.name for file in snapshot.files], groups)
    for number, places in enumerate(gone):
        if len(places):
            _prove_file(target, new, reader, snapshot, number, places)
        elif new.files[number].sha256 != snapshot.files[number].sha256:
            raise SnapshotChanged(f"{folder}/{snapshot.files[number].name} was copied otherwise than it is: try again.")
    return new


def same_rows(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables have the same columns and rows, numbers bit for bit."""
    if one.schema.remove_metadata() != other.schema.remove_metadata() or len(one) != len(other):
        return False
    return all(_same(*(_whole(table.column(name)) for table in (one, other))) for name in one.column_names)


def _rewrite_file(
    target: Path,
    storage: Storage,
    folder: str,
    reader: SnapshotReader,
    snapshot: Snapshot,
    number: int,
    gone: npt.NDArray[np.int64],
) -> list[RowGroup]:
    """Write one part file without some rows; gives the row groups that are left."""
    file = snapshot.files[number]
    if not len(gone):
        with storage.open(f"{folder}/{file.name}") as source, (target / file.name).open("wb") as copy:
            while piece := source.read(1 << 24):
                copy.write(piece)
        return list(file.row_groups)
    schema, found, start = reader.schema(), list[RowGroup](), 0
    with pq.ParquetWriter(
        target / file.name, schema, compression="lz4", use_dictionary=False, write_statistics=False
    ) as writer:
        for group in file.row_groups:
            rows = reader.rows(number, start, group.rows, schema.names)
            kept = rows.filter(as_arrow(_left(gone, start, group.rows)))
            if len(kept):
                writer.write_table(kept, row_group_size=len(kept))
                found.append(RowGroup(rows=len(kept), keys=key_digest(identity(kept, snapshot.key))))
            start += group.rows
    return found


def _prove_file(
    target: Path, new: Snapshot, old_reader: SnapshotReader, old: Snapshot, number: int, gone: npt.NDArray[np.int64]
) -> None:
    """Read a part file back, row group for row group, beside the one that it was made from. Raises SnapshotChanged."""
    reader, names = SnapshotReader(LocalStorage(str(target.parent)), target.name, new), old_reader.schema().names
    start = at = 0
    for group in old.files[number].row_groups:
        before, left = old_reader.rows(number, start, group.rows, names), _left(gone, start, group.rows)
        after = reader.rows(number, at, int(left.sum()), names)
        keys = [identity(table, old.key) for table in (before, before.filter(as_arrow(~left)), after)]
        whole, removed, found = (key_digest(one) for one in keys)
        if whole != group.keys or found != whole - removed or not same_rows(before.filter(as_arrow(left)), after):
            raise SnapshotChanged(
                f"{old.files[number].name} of the snapshot {old.digest[:16]} is not what was frozen: restore it."
            )
        start, at = start + group.rows, at + len(after)


def _left(gone: npt.NDArray[np.int64], start: int, rows: int) -> npt.NDArray[np.bool_]:
    left = np.ones(rows, dtype=bool)
    left[gone[np.searchsorted(gone, start) : np.searchsorted(gone, start + rows)] - start] = False
    return left


def _same(one: pa.Array, other: pa.Array) -> bool:
    if pa.types.is_dictionary(one.type):
        one, other = one.dictionary_decode(), other.dictionary_decode()
    if pa.types.is_list(one.type) or pa.types.is_large_list(one.type) or pa.types.is_fixed_size_list(one.type):
        import pyarrow.compute as pc

        lengths = [pc.list_value_length(lists) for lists in (one, other)]
        return bool(lengths[0].equals(lengths[1])) and _same(one.flatten(), other.flatten())
    if not one.is_null().equals(other.is_null()):
        return False
    if pa.types.is_floating(one.type):
        return bool((bits(as_numpy(one.drop_null())) == bits(as_numpy(other.drop_null()))).all())
    return not differ(one, other).any()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
