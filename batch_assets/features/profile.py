"""The column profile of a snapshot: one row per column, computed in one pass, judged instead of the data itself.

A column's histogram has the same bins on every day and in every pipeline: a value's bin is the first twelve bits of its
float32 form (sign, exponent, three bits of the mantissa), which takes a shift to compute. A bin is an eighth of an octave
wide: 9 to 13 % of its values. So any two days can be compared, added up, and asked for their quantiles, and nobody has to
say beforehand which values to expect.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.arrow import as_numpy
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.storage import Storage

PROFILE = "_profile.parquet"
"""File name beside the part files of a snapshot."""

BINS = 4096
_SHIFT = 20
_SPECIAL = 0x7F8
"""Of the bits below the sign: from here on they are infinities and NaN."""

_SCHEMA = pa.schema(
    [("column", pa.string()), ("rows", pa.int64())]
    + [(name, pa.int64()) for name in ("nulls", "nans", "infinities", "zeros")]
    + [(name, pa.float64()) for name in ("minimum", "maximum", "mean")]
    + [("bins", pa.list_(pa.int16())), ("counts", pa.list_(pa.int64()))]
)


@dataclass
class _Column:
    """What is known of a column so far."""

    rows: int = 0
    nulls: int = 0
    infinities: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    total: float = 0.0
    codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, array: pa.ChunkedArray) -> None:
        """Some more values."""
        self.rows += len(array)
        self.nulls += array.null_count
        values = as_numpy(array.drop_null() if array.null_count else array)
        with np.errstate(over="ignore"):  # beyond float32 it is infinite for the model, too
            taken = values.astype(np.float32, copy=False)
        codes = np.bincount(taken.view(np.uint32) >> _SHIFT, minlength=BINS)
        self.codes += codes
        if codes[_SPECIAL:2048].any() or codes[2048 + _SPECIAL :].any():
            self.infinities += int(np.count_nonzero(np.isinf(taken)))
            values = values[np.isfinite(taken)]
        if len(values):
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))
            self.total += float(values.sum(dtype=np.float64))

    def row(self, name: str) -> dict[str, Any]:
        """A row of the profile."""
        special = int(self.codes[_SPECIAL:2048].sum() + self.codes[2048 + _SPECIAL :].sum())
        finite = self.codes.copy()
        finite[_SPECIAL:2048] = finite[2048 + _SPECIAL :] = 0
        ascending = np.concatenate([finite[:2047:-1], finite[:2048]])
        filled, count = np.flatnonzero(ascending), int(finite.sum())
        return {
            "column": name,
            "rows": self.rows,
            "nulls": self.nulls,
            "nans": special - self.infinities,
            "infinities": self.infinities,
            "zeros": int(finite[0] + finite[2048]),
            "minimum": self.minimum if count else None,
            "maximum": self.maximum if count else None,
            "mean": self.total / count if count else None,
            "bins": filled.tolist(),
            "counts": ascending[filled].tolist(),
        }


def write_profile(folder: Path, columns: list[str]) -> pa.Table:
    """Profile numeric columns of the part files in a local folder and keep the table beside them.

    Returns:
        One row per column: `column`, `rows`, `nulls`, `nans`, `infinities`, `zeros` (and what is too small for a float32), and
        `minimum`, `maximum`, `mean` of the finite values (null if there are none). NaN is counted apart from null. `bins` and
        `counts` are the histogram of the finite values: bins that are not empty, ascending; see `edges`.
    """
    found = {name: _Column() for name in columns}
    for group in _row_groups(folder, columns):
        for name, column in found.items():
            column.add(group.column(name))
    profile = pa.Table.from_pylist([column.row(name) for name, column in found.items()], schema=_SCHEMA)
    pq.write_table(profile, folder / PROFILE)
    return profile


def edges() -> npt.NDArray[np.float64]:
    """The smallest value of each bin of a profile's histograms, ascending, shape (4096,); those of the specials are NaN."""
    codes = np.concatenate([np.arange(BINS - 1, 2047, -1), np.arange(2048)]).astype(np.uint32)
    last = np.where(
        codes >= 2048, np.uint32((1 << _SHIFT) - 1), np.uint32(0)
    )  # of negative values the largest bits are smallest
    special = codes % 2048 >= _SPECIAL
    bits = np.where(special, np.uint32(0), (codes << np.uint32(_SHIFT)) | last)
    return np.where(special, np.nan, bits.view(np.float32).astype(np.float64))


def read_profile(storage: Storage, folder: str) -> pa.Table:
    """The profile that lies beside a snapshot. Raises SnapshotChanged."""
    path = f"{folder}/{PROFILE}"
    try:
        with storage.open(path) as file:
            return pq.read_table(file)
    except (NotFound, OSError, pa.ArrowException) as error:
        raise SnapshotChanged(f"{path} cannot be read; freeze the partition again with --refresh.") from error


def _row_groups(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=columns)
