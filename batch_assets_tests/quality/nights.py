"""Profiles of made-up columns, as a snapshot's would be."""

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.features.profile import write_profile
from batch_assets.quality.columns import Column, columns_of

DAY = "2024-03-08"
"""The day after `week`, a Friday as its first day."""

ROWS = 2_000


def values(seed: int, rows: int = ROWS) -> dict[str, npt.NDArray[np.float32]]:
    """Three columns: amounts of money, small counts with many zeros, and shares below 1."""
    random = np.random.default_rng(seed)
    return {
        "amount": random.lognormal(3, 1, rows).astype(np.float32),
        "orders": random.poisson(0.7, rows).astype(np.float32),
        "share": random.beta(2, 5, rows).astype(np.float32),
    }


def profiled(columns: dict[str, npt.NDArray[np.generic]], categories: Collection[str] = ()) -> dict[str, Column]:
    with TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), Path(folder, "part-00000.parquet"))
        return columns_of(write_profile(Path(folder), list(columns), categories))


def night(seed: int, rows: int = ROWS, **changed: npt.NDArray[np.float32]) -> dict[str, Column]:
    """The columns of a night, some of them otherwise."""
    return profiled({**values(seed, rows), **changed})


def week() -> dict[str, dict[str, Column]]:
    """Seven good days."""
    return {f"2024-03-0{day}": night(day) for day in range(1, 8)}
