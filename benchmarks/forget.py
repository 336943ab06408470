"""How long a freeze looks for keys that are forgotten: a thousand of them, in rows of whole numbers and of text."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.features.forgotten import KEPT_IN, forgotten, suppress
from batch_assets.storage import LocalStorage

BATCH = 1 << 17
ROWS = {"whole numbers": 20_000_000, "text": 5_000_000}


def keys(kind: str, numbers: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of nothing but a key."""
    found = pa.array(numbers) if kind == "whole numbers" else pa.array([f"customer-{number:09d}" for number in numbers])
    return pa.table({"user": found})


def main() -> None:
    """Print seconds and nanoseconds a row."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[KEPT_IN] = str(Path(folder, "elsewhere", "secret"))
        for kind, rows in ROWS.items():
            storage, numbers = LocalStorage(str(Path(folder, kind))), np.arange(rows)
            gone = np.random.default_rng(1).choice(rows, 1_000, replace=False)
            suppress(storage, "made_up", keys(kind, gone), ["user"], "a benchmark")
            who = forgotten(storage, "made_up")
            tables = [keys(kind, numbers[start : start + BATCH]) for start in range(0, rows, BATCH)]
            started = time.perf_counter()
            found = sum(int(who.rows(table, ["user"]).sum()) for table in tables) if who else 0
            seconds = time.perf_counter() - started
            print(f"{rows:,} rows of {kind}: {found:,} found in {seconds:.1f} s, {seconds / rows * 1e9:.0f} ns a row")


if __name__ == "__main__":
    main()
