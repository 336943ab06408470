import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.features.profile import write_profile
from batch_assets.histogram import FLOAT_BINS, float_edges


def test_nulls_nans_and_infinities_are_counted_apart(tmp_path: Path) -> None:
    values = [1.0, None, math.nan, math.inf, -2.0, 4.0]
    table = pa.table({"x": pa.array(values, pa.float32()), "n": pa.array([1, 2, None, 4, 5, 6], pa.int16())})
    pq.write_table(table.slice(0, 2), tmp_path / "part-00000.parquet")
    pq.write_table(table.slice(2), tmp_path / "part-00001.parquet")
    x, n = write_profile(tmp_path, ["x", "n"]).to_pylist()
    assert x == {
        "column": "x", "category": False, "rows": 6, "nulls": 1, "nans": 1, "infinities": 1, "zeros": 0,
        "minimum": -2.0, "maximum": 4.0, "mean": 1.0,
        "bins": (np.searchsorted(float_edges()[8 : FLOAT_BINS - 8], [-2.0, 1.0, 4.0], side="right") + 7).tolist(),
        "counts": [1, 1, 1],
    }  # fmt: skip
    assert (n["nulls"], n["minimum"], n["maximum"]) == (1, 1.0, 6.0)


def test_a_column_without_values_has_no_minimum(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([None, math.nan], pa.float32())}), tmp_path / "part-00000.parquet")
    (x,) = write_profile(tmp_path, ["x"]).to_pylist()
    assert (x["minimum"], x["mean"], x["nulls"], x["nans"]) == (None, None, 1, 1)


def test_a_value_lies_in_the_bin_that_its_edges_say(tmp_path: Path) -> None:
    """Of every magnitude and sign; a bin is at most an eighth of an octave wide."""
    generator = np.random.default_rng(3)
    values = (generator.choice([-1, 1], 5_000) * 10.0 ** generator.uniform(-30, 30, 5_000)).astype(np.float32)
    pq.write_table(pa.table({"x": values}), tmp_path / "part-00000.parquet")
    (x,) = write_profile(tmp_path, ["x"]).to_pylist()
    below = float_edges()[8 : FLOAT_BINS - 8]
    assert np.all(np.diff(below) >= 0)
    expected, counts = np.unique(np.searchsorted(below, values.astype(np.float64), side="right") + 7, return_counts=True)
    assert (x["bins"], x["counts"]) == (expected.tolist(), counts.tolist())


def test_zeros_of_both_signs_are_zeros(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([0.0, -0.0, 1.0], pa.float32())}), tmp_path / "part-00000.parquet")
    (x,) = write_profile(tmp_path, ["x"]).to_pylist()
    assert x["zeros"] == 2


def test_what_is_too_large_for_a_float32_is_infinite_as_it_is_for_the_model(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([1e300, -1e300, 1.0], pa.float64())}), tmp_path / "part-00000.parquet")
    (x,) = write_profile(tmp_path, ["x"]).to_pylist()
    assert (x["infinities"], x["nans"], x["maximum"]) == (2, 0, 1.0)


def test_whole_numbers_and_booleans_have_histograms_too(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([1, 2, 2, 3], pa.int64()), "b": pa.array([True, False, True, None])})
    pq.write_table(table, tmp_path / "part-00000.parquet")
    n, b = write_profile(tmp_path, ["n", "b"]).to_pylist()
    assert (n["counts"], b["counts"], b["nulls"], b["zeros"]) == ([1, 2, 1], [1, 2], 1, 1)


def test_a_category_is_counted_by_its_number(tmp_path: Path) -> None:
    """Numbers that are none, which the gate refuses, are counted at the ends."""
    codes = pa.array([700, 700, 701, None, -3, 10**9, 0], pa.int64())
    pq.write_table(pa.table({"c": codes, "b": [True, False, True, True, None, True, True]}), tmp_path / "part-00000.parquet")
    c, b = write_profile(tmp_path, ["c", "b"], ["c", "b"]).to_pylist()
    assert (c["bins"], c["counts"], c["zeros"]) == ([0, 700, 701, FLOAT_BINS - 1], [2, 2, 1, 1], 2)
    assert (b["category"], b["bins"], b["counts"], b["zeros"]) == (True, [0, 1], [1, 5], 1)
    pq.write_table(pa.table({"c": [1.0, math.nan, math.inf, 1.0]}), tmp_path / "part-00000.parquet")
    (c,) = write_profile(tmp_path, ["c"], ["c"]).to_pylist()
    assert (c["bins"], c["counts"], c["nans"], c["infinities"]) == ([1], [2], 1, 1)
