"""Made-up releases for the benchmarks of stores, and how long something takes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.digest import Digest, keyed_digest
from batch_assets.features.keys import Key
from batch_assets.records import RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.store import Batch, Release, Store
from batch_assets.storage import Storage
from batch_assets.threads import in_threads
from batch_assets_tests.serving.store_behaviour import records

CHUNK_ROWS = 131_072
"""Rows that a night brings to a store at once."""


def made_up(rows: int, kind: RecordType) -> list[Batch]:
    """Even keys in ascending order and random records, in chunks."""
    stored, found = records(kind, rows), []
    for start in range(0, rows, CHUNK_ROWS):
        keys = pa.array(2 * np.arange(start, min(start + CHUNK_ROWS, rows)))
        found.append((keys, stored.take(slice(start, start + CHUNK_ROWS))))
    return found


def release_of(store: Store, batches: list[Batch]) -> Release:
    """What a run would say of them."""
    values = sum((keyed_digest(keys, some.flat()) for keys, some in batches), start=Digest())
    return Release(
        name="2024-03-10-0123456789abcdef",
        pipeline="benchmark",
        partition="2024-03-10",
        run_id="0123456789abcdef",
        snapshot="0" * 16,
        model=ModelPin(name="made up", version="v1", digest="0", sha256="0"),
        key=(Key(name="user", dtype="int64"),),
        record=batches[0][1].kind,
        rows=values.count,
        values=values,
        store=store,
    )


def read_back(storage: Storage, release: Release) -> None:
    """Read everything back and digest it, as a night verifies it. Raises SystemExit if it is something else."""
    batches = release.store.scan(storage, release)
    if sum(in_threads(lambda batch: keyed_digest(batch[0], batch[1].flat()), batches), start=Digest()) != release.values:
        raise SystemExit("what was read back is something else")


def seconds(do: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def clocked(ask: Callable[[Any], object], keys: list[Any]) -> str:
    """Microseconds of one look-up: the median and what 99 of 100 need at most."""
    taken = [seconds(partial(ask, key)) * 1e6 for key in keys]
    median, most = np.percentile(taken, [50, 99])
    return f"{median:,.0f} us, 99 %: {most:,.0f} us"
