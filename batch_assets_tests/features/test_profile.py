import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.features.profile import write_profile


def test_nulls_nans_and_infinities_are_counted_apart(tmp_path: Path) -> None:
    values = [1.0, None, math.nan, math.inf, -2.0, 4.0]
    table = pa.table({"x": pa.array(values, pa.float32()), "n": pa.array([1, 2, None, 4, 5, 6], pa.int16())})
    pq.write_table(table.slice(0, 2), tmp_path / "part-00000.parquet")
    pq.write_table(table.slice(2), tmp_path / "part-00001.parquet")
    x, n = write_profile(tmp_path, ["x", "n"]).to_pylist()
    assert x == {
        "column": "x", "rows": 6, "nulls": 1, "nans": 1, "infinities": 1, "minimum": -2.0, "maximum": 4.0, "mean": 1.0
    }  # fmt: skip
    assert (n["nulls"], n["minimum"], n["maximum"]) == (1, 1.0, 6.0)


def test_a_column_without_values_has_no_minimum(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([None, math.nan], pa.float32())}), tmp_path / "part-00000.parquet")
    (x,) = write_profile(tmp_path, ["x"]).to_pylist()
    assert (x["minimum"], x["mean"], x["nulls"], x["nans"]) == (None, None, 1, 1)
