import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.arrow import as_arrow, as_numpy


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1_000])
def test_there_and_back(dtype: str, rows: int) -> None:
    values = np.random.default_rng(0).integers(-3, 4, rows).astype(dtype)
    array = as_arrow(values)
    assert array.type == pa.from_numpy_dtype(values.dtype)
    assert array.to_pylist() == values.tolist()
    np.testing.assert_array_equal(as_numpy(array), values)
    assert as_numpy(array).dtype == values.dtype


@pytest.mark.parametrize("values", [[True, False, True] * 7, list(range(21)), [n / 2 for n in range(21)]])
def test_slices_and_pieces(values: list[Any]) -> None:
    array = pa.array(values)
    assert as_numpy(array.slice(3, 9)).tolist() == values[3:12]
    assert as_numpy(pa.chunked_array([array.slice(0, 5), array.slice(5, 0), array.slice(5)])).tolist() == values
    assert as_numpy(pa.chunked_array([], type=array.type)).tolist() == []


def test_what_is_not_contiguous_is_copied() -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    assert as_arrow(matrix[:, 1]).to_pylist() == [1.0, 5.0, 9.0]


def test_pandas_is_not_imported() -> None:
    program = (
        "import sys, numpy as np\n"
        "from batch_assets.arrow import as_arrow, as_numpy\n"
        "as_numpy(as_arrow(np.arange(5))), as_numpy(as_arrow(np.array([True])))\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
