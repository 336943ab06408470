"""What the feature gate costs on 1M rows x 64 features: one pass for the profile, then the judgement.

    python benchmarks/gates.py [--rows 1000000] [--columns 64]

The profile is taken of Parquet files that were just written, so it reads from the page cache. The judgement is made once before
it is timed, as great-expectations takes some seconds to import. Nothing is compared with other systems.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.features.contract import FeatureContract
from batch_assets.features.profile import write_profile
from batch_assets.quality.changes import ChangeSettings, judge_changes
from batch_assets.quality.columns import columns_of
from batch_assets.quality.drift import DriftSettings
from batch_assets.quality.expectations import ExpectationSettings, judge_profile
from batch_assets.quality.feature_drift import judge_feature_drift

_GROUP = 16_384


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=64)
    options = parser.parse_args()
    names = [f"f{number:03d}" for number in range(options.columns)]
    contract = FeatureContract.model_validate(
        {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": name, "min": -1e9, "max": 1e9} for name in names]}
    )
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder, "part-00000.parquet"), names, options.rows)
        before = _peak()
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            profile = write_profile(Path(folder), names)
            seconds.append(time.perf_counter() - started)
    print(f"profile of {options.rows:,} x {options.columns}: {sorted(seconds)[1]:.2f} s (median of 3)")
    print(f"  peak memory of the process {_peak():.0f} MB, {before:.0f} MB before it")
    today = columns_of(profile)
    trailing = {f"2024-03-0{day}": today for day in range(1, 8)}
    for _ in range(2):
        started = time.perf_counter()
        judge_profile(profile, contract, ExpectationSettings())
        suite = time.perf_counter()
        judge_changes("2024-03-08", today, trailing, ChangeSettings(allow_unchanged=True))
        changes = time.perf_counter()
        judge_feature_drift("2024-03-08", today, trailing, DriftSettings())
        over = time.perf_counter()
    print(f"judgement: {over - started:.2f} s")
    parts = {"expectations": suite - started, "changes": changes - suite, "feature_drift": over - changes}
    print("  " + ", ".join(f"{name} {took:.3f} s" for name, took in parts.items()) + ", against 7 days")


def _write(path: Path, names: list[str], rows: int) -> None:
    """Columns of many magnitudes, some with null and NaN; written in row groups, so that it needs little memory itself."""
    random = np.random.default_rng(1)
    schema = pa.schema([(name, pa.float32()) for name in names])
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, rows, _GROUP):
            count = min(_GROUP, rows - first)
            columns = []
            for number in range(len(names)):
                values = (random.standard_normal(count) * 10.0 ** (number % 7 - 3)).astype(np.float32)
                if number % 8 == 0:
                    values[:: 1_000 + number] = np.nan
                columns.append(pa.array(values, mask=np.arange(count) % 997 == 0 if number % 16 == 1 else None))
            file.write_table(pa.table(columns, schema=schema))


def _peak() -> float:
    """The most memory that this process has used, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


if __name__ == "__main__":
    main()
