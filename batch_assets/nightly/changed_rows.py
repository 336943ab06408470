"""How many rows of a snapshot are otherwise than on an earlier day, key by key: none means that nobody updated the source.

Both snapshots are sorted by key. Of large ones some row groups are compared, evenly spread; only if all of these are as they
were, the others are too, until one is found that is not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.arrow import differ
from batch_assets.features.keys import identity
from batch_assets.features.snapshot import RowGroup, SnapshotReader
from batch_assets.nightly.freeze import Frozen
from batch_assets.quality.sources import ChangedRows

_ROWS = 1 << 15
"""How many rows are compared, about."""

_KEYS = "\0keys"

Flags = npt.NDArray[np.bool_]


def changed_rows(today: Frozen, before: Frozen, since: str, names: Sequence[str]) -> ChangedRows | None:
    """Compare columns of a snapshot with those of an earlier one of the day `since`; None if their columns are not the same.

    Raises:
        SnapshotChanged: one of them is not what was frozen.
    """
    rows_before, rows_today = before.snapshot.rows, today.snapshot.rows
    if today.snapshot.digest == before.snapshot.digest:
        return ChangedRows(since, rows_today, changed=0, unchanged=rows_today > 0)
    if (today.snapshot.key, today.snapshot.schema_text) != (before.snapshot.key, before.snapshot.schema_text):
        return None
    ours, theirs = _Groups(today, names), _Groups(before, names)
    every = max(1, round(rows_today / _ROWS))
    sample = range(every // 2, len(ours.groups), every)
    rows = changed = 0
    for number in sample:
        rows, changed = rows + ours.groups[number].rows, changed + _changed(ours, theirs, number)
    for number in (one for one in range(len(ours.groups)) if one not in sample):
        if changed:
            break
        rows, changed = rows + ours.groups[number].rows, changed + _changed(ours, theirs, number)
    return ChangedRows(since, rows, changed, unchanged=0 < rows == rows_today == rows_before and not changed)


class _Groups:
    """The row groups of all files of a snapshot, in order."""

    def __init__(self, frozen: Frozen, names: Sequence[str]) -> None:
        snapshot = frozen.snapshot
        self._reader = SnapshotReader(frozen.storage, frozen.folder, snapshot)
        self._key, self._columns = snapshot.key, list(names)
        self._places: list[tuple[int, int, RowGroup]] = [
            (index, start, group)
            for index, file in enumerate(snapshot.files)
            for start, group in zip(accumulate((one.rows for one in file.row_groups), initial=0), file.row_groups, strict=False)
        ]
        self.groups = [group for _, _, group in self._places]

    def rows(self, number: int) -> pa.Table:
        """A group's columns, and `_KEYS`: what its rows are about."""
        file, start, group = self._places[number]
        table = self._reader.rows(file, start, group.rows, [*self._key, *self._columns])
        return table.select(self._columns).append_column(_KEYS, identity(table, self._key)).combine_chunks()

    def between(self, first: Any, last: Any) -> pa.Table | None:
        """The rows of the groups that have keys from `first` to `last`; None if there are none."""
        numbers = range(len(self.groups))
        begin = bisect_left(numbers, first, key=lambda number: self._keys(number)[-1].as_py())
        end = bisect_right(numbers, last, lo=begin, key=lambda number: self._keys(number)[0].as_py())
        return pa.concat_tables([self.rows(number) for number in range(begin, end)]).combine_chunks() if begin < end else None

    def _keys(self, number: int) -> pa.Array:
        file, start, group = self._places[number]
        return self._reader.keys(file, start, group.rows)


def _changed(ours: _Groups, theirs: _Groups, number: int) -> int:
    """How many rows of one of our groups are new or otherwise."""
    mine = ours.rows(number)
    keys = mine.column(_KEYS)
    if number < len(theirs.groups) and theirs.groups[number] == ours.groups[number]:
        other: pa.Table | None = theirs.rows(number)  # the same keys at the same place
    else:
        other = theirs.between(keys[0].as_py(), keys[-1].as_py())
    if other is None:
        return len(mine)
    if other.column(_KEYS).equals(keys):
        new = 0
    else:
        places = pc.index_in(keys, other.column(_KEYS).combine_chunks())
        new, mine, other = places.null_count, mine.filter(places.is_valid()), other.take(places.drop_null())
    others = np.zeros(len(mine), np.bool_)
    for one, two in _columns(mine, other):
        others |= differ(one, two)
    return new + int(others.sum())


def _columns(mine: pa.Table, other: pa.Table) -> Iterator[tuple[pa.Array, pa.Array]]:
    for name in mine.column_names:
        if name != _KEYS:
            yield mine.column(name).combine_chunks(), other.column(name).combine_chunks()
