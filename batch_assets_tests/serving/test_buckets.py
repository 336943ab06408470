"""Keys are in the same bucket everywhere, each bucket comes once and whole, and memory does not grow with the rows."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.digest import Digest
from batch_assets.features.keys import Key
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving import buckets
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.serving.buckets import bucket_of, buckets_of, grouped
from batch_assets.serving.store import Batch, Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.store_behaviour import BINARY, KEYS, records

VECTORS: dict[Any, int] = {
    0: 3911,
    1: 7443,
    42: 492,
    -1: 3070,
    9223372036854775807: 358,
    "": 3911,
    "a": 8585,
    "user-0000042": 6976,
    "ä": 8416,
    date(2024, 3, 10): 6136,
    b"\x00\xff": 740,
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("count", [1, 7, 1_000, 2**31 - 1])
def test_one_key_is_where_many_are(keys: pa.Array, count: int) -> None:
    assert [bucket_of(key, count) for key in keys.to_pylist()] == buckets_of(keys, count).tolist()


@given(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=30), st.dates(), st.binary(max_size=30)), st.integers(1, 10**9)
)
def test_any_key(key: Any, count: int) -> None:
    assert bucket_of(key, count) == buckets_of(pa.array([key]), count)[0]


@pytest.mark.parametrize("at_once", [10_000, 300, 7])
@pytest.mark.parametrize("text", [False, True], ids=["int64", "string"])
def test_every_bucket_comes_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, *, text: bool
) -> None:
    monkeypatch.setattr(buckets, "ROWS_AT_ONCE", at_once)
    count, rows = 37, 2_000
    keys = pa.array([f"user-{n:05d}" for n in range(rows)]) if text else pa.array(np.arange(rows) * 3)
    stored = records(BINARY, rows)
    release = Release(
        name="2024-03-10-0123456789abcdef",
        pipeline="small",
        partition="2024-03-10",
        run_id="0123456789abcdef",
        snapshot="0" * 16,
        model=ModelPin(name="small", version="v1", digest="0", sha256="0"),
        key=(Key(name="user", dtype="string" if text else "int64"),),
        record=BINARY,
        rows=rows,
        values=Digest(),
        store=ArrowStore(),
    )

    def batches() -> Iterator[Batch]:
        for at in range(0, rows, 256):
            yield keys[at : at + 256], stored.take(slice(at, at + 256))

    found: dict[Any, bytes] = {}
    expected_bucket = 0
    for group in grouped(LocalStorage(str(tmp_path)), release, batches(), count):
        packed = group.records.packed()
        assert group.first == expected_bucket
        for number in range(len(group.starts) - 1):
            some = slice(group.starts[number], group.starts[number + 1])
            of_bucket = group.keys[some].to_pylist()
            assert of_bucket == sorted(of_bucket)
            assert {bucket_of(key, count) for key in of_bucket} <= {group.first + number}
            found |= dict(zip(of_bucket, (one.tobytes() for one in packed[some]), strict=True))
        expected_bucket += len(group.starts) - 1
    assert expected_bucket == count
    assert found == dict(zip(keys.to_pylist(), (one.tobytes() for one in stored.packed()), strict=True))


def test_vectors() -> None:
    """Whoever reads a store in another language computes the same."""
    assert {key: bucket_of(key, 10_000) for key in VECTORS} == VECTORS
