"""How a snapshot is written decides how fast it is read: encodings side by side, one thread, medians of alternating rounds.

    python benchmarks/feature_encoding.py [--rows 1000000] [--columns 64] [--rounds 5]

Made-up float32 features (standard normal: they do not compress, which is the hard case) in row groups of 131,072 rows,
read from the page cache. Not compared: object stores, spinning disks, columns that compress well, reading with several threads.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ENCODINGS: dict[str, dict[str, Any]] = {
    "zstd, dictionary": {"compression": "zstd", "use_dictionary": True},
    "snappy, dictionary": {"compression": "snappy", "use_dictionary": True},
    "lz4, byte stream split": {"compression": "lz4", "use_dictionary": False, "use_byte_stream_split": True},
    "lz4, plain (a snapshot)": {"compression": "lz4", "use_dictionary": False},
    "none, plain": {"compression": "none", "use_dictionary": False},
}


def main() -> None:
    """Write every encoding once, read them in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    columns = {f"f{n:02d}": random.standard_normal(options.rows, dtype=np.float32) for n in range(options.columns)}
    table = pa.table(columns)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{number}.parquet") for number, name in enumerate(ENCODINGS)}
        for name, settings in ENCODINGS.items():
            pq.write_table(table, paths[name], row_group_size=131_072, **settings)
        seconds: dict[str, list[float]] = {name: [] for name in ENCODINGS}
        for _ in range(options.rounds):
            for name, path in paths.items():
                started = time.perf_counter()
                pq.ParquetFile(path).read(use_threads=False)
                seconds[name].append(time.perf_counter() - started)
        slowest = statistics.median(seconds["zstd, dictionary"])
        print(f"{options.rows:,} rows x {options.columns} float32, median of {options.rounds} rounds")
        print(f"{'encoding':<26}{'MB':>8}{'rows/s':>12}{'speed : zstd':>14}")
        for name, path in paths.items():
            median = statistics.median(seconds[name])
            print(f"{name:<26}{path.stat().st_size / 1e6:>8.0f}{options.rows / median:>12,.0f}{slowest / median:>14.2f}")


if __name__ == "__main__":
    main()
