"""The column profile of a snapshot: one row per column, computed in one pass, judged instead of the data itself."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.arrow import as_numpy
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.histogram import FLOAT_BINS, category_bins, float_bins
from batch_assets.storage import Storage

PROFILE = "_profile.parquet"
"""File name beside the part files of a snapshot."""

_SCHEMA = pa.schema(
    [("column", pa.string()), ("category", pa.bool_()), ("rows", pa.int64())]
    + [(name, pa.int64()) for name in ("nulls", "nans", "infinities", "zeros")]
    + [(name, pa.float64()) for name in ("minimum", "maximum", "mean")]
    + [("bins", pa.list_(pa.int16())), ("counts", pa.list_(pa.int64()))]
)

_GROUPS = 8
"""Row groups that are read at once: what is done for each column is a few calls, whose own time should not count."""

_ZEROS, _ZERO_CATEGORY = slice(FLOAT_BINS // 2 - 1, FLOAT_BINS // 2 + 1), slice(1)


@dataclass
class _Column:
    """What is known of a column so far."""

    category: bool
    rows: int = 0
    nulls: int = 0
    nans: int = 0
    infinities: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    total: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(FLOAT_BINS, np.int64))

    def add(self, array: pa.ChunkedArray) -> None:
        """Some more values."""
        self.rows += len(array)
        self.nulls += array.null_count
        values = as_numpy(array.drop_null() if array.null_count else array)
        with np.errstate(over="ignore"):  # beyond float32 it is infinite for the model, too
            taken = values.astype(np.float32, copy=False)
        counts, special = float_bins(taken)
        if special:
            infinities = int(np.count_nonzero(np.isinf(taken)))
            self.infinities += infinities
            self.nans += special - infinities
            values = values[np.isfinite(taken)]
        self.counts += category_bins(values) if self.category else counts
        if len(values):
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))
            self.total += float(values.sum(dtype=np.float64))

    def row(self, name: str) -> dict[str, Any]:
        """A row of the profile."""
        filled, count = np.flatnonzero(self.counts), int(self.counts.sum())
        return {
            "column": name,
            "category": self.category,
            "rows": self.rows,
            "nulls": self.nulls,
            "nans": self.nans,
            "infinities": self.infinities,
            "zeros": int(self.counts[_ZERO_CATEGORY if self.category else _ZEROS].sum()),
            "minimum": self.minimum if count else None,
            "maximum": self.maximum if count else None,
            "mean": self.total / count if count else None,
            "bins": filled.tolist(),
            "counts": self.counts[filled].tolist(),
        }


def write_profile(folder: Path, columns: list[str], categories: Collection[str] = ()) -> pa.Table:
    """Profile numeric columns of the part files in a local folder and keep the table beside them.

    Returns:
        One row per column: `column`, whether it is a `category`, `rows`, `nulls`, `nans`, `infinities`, `zeros` (and what is
        too small for a float32), and `minimum`, `maximum`, `mean` of the finite values (null if there are none). NaN is counted
        apart from null. `bins` and `counts` are the histogram of the finite values: bins that are not empty, ascending; see
        `float_bins` and, of a category, `category_bins`.
    """
    found = {name: _Column(category=name in categories) for name in columns}
    for rows in _some_rows(folder, columns):
        for name, column in found.items():
            column.add(rows.column(name))
    profile = pa.Table.from_pylist([column.row(name) for name, column in found.items()], schema=_SCHEMA)
    pq.write_table(profile, folder / PROFILE)
    return profile


def read_profile(storage: Storage, folder: str) -> pa.Table:
    """The profile that lies beside a snapshot. Raises SnapshotChanged."""
    path = f"{folder}/{PROFILE}"
    try:
        with storage.open(path) as file:
            profile = pq.read_table(file)
    except (NotFound, OSError, pa.ArrowException) as error:
        raise SnapshotChanged(f"{path} cannot be read; freeze the partition again with --refresh.") from error
    if profile.column_names != _SCHEMA.names:
        raise SnapshotChanged(f"{path} has other columns than a profile; freeze the partition again with --refresh.")
    return profile


def _some_rows(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for first in range(0, file.num_row_groups, _GROUPS):
                yield file.read_row_groups(range(first, min(first + _GROUPS, file.num_row_groups)), columns=columns)
