"""The stages of scoring, each alone: what a worker could reach if nothing but its five stages took time.

Two processes work at once, one per core, each on row groups of its own. Every stage gets new data each time (a chunk that
was read or drawn just before, outside the measured time), never the same chunk over and over from the cache.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from workload import CHUNK_ROWS, COLUMNS, KEY, LABELS

BATCH_ROWS = 1_024
CHUNKS = 8
"""At most so many chunks per process and stage."""

STAGES = ("read", "convert", "forward", "postprocess", "write")

Features = npt.NDArray[np.float32]


def measure(files: list[Path], model: Path, scratch: Path) -> dict[str, Any]:
    """Rows per second of each stage, both processes together, and of all stages one after the other."""
    scratch.mkdir()
    groups = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
    workers = 2
    if len(groups) < workers:
        raise SystemExit(f"The stages need {workers} row groups, the workload has {len(groups)}.")
    parts = [groups[worker::workers][:CHUNKS] for worker in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers, _prepare, (str(model),)) as pool:
        rates = {stage: sum(_at_once(pool, stage, parts, scratch)) for stage in STAGES}
    return {"steady_rows_per_s": 1 / sum(1 / rate for rate in rates.values()), "rows_per_s_by_stage": rates}


def read(parquet: pq.ParquetFile, group: int) -> pa.Table:
    """One row group, on one thread."""
    return parquet.read_row_groups([group], columns=[KEY, *COLUMNS], use_threads=False)


def convert(table: pa.Table, buffer: Features) -> Features:
    """The columns, one after the other, in a buffer of shape (columns, rows); rows padded to whole batches."""
    for row, name in enumerate(COLUMNS):
        np.copyto(buffer[row, : len(table)], table.column(name).to_numpy())
    return buffer[:, : -(-len(table) // BATCH_ROWS) * BATCH_ROWS]


def forward(predictor: Any, features: Features) -> Features:
    """Logits of shape (classes, rows); a batch is a view of the columns, which the matrix product takes as it is."""
    starts = range(0, features.shape[1], BATCH_ROWS)
    logits = np.empty((len(LABELS), features.shape[1]), dtype=np.float32)
    batches = ((features[:, start : start + BATCH_ROWS],) for start in starts)
    for start, scored in zip(starts, predictor.forward(batches), strict=True):
        logits[:, start : start + BATCH_ROWS] = scored
    return logits


def postprocess(logits: Features) -> tuple[Features, npt.NDArray[np.int8]]:
    """Probability and label of the most likely class for logits of shape (classes, rows)."""
    highest = logits.max(axis=0)
    probability: Features = 1 / np.exp(logits - highest).sum(axis=0)
    return probability, logits.argmax(axis=0).astype(np.int8)


def write(keys: npt.NDArray[np.int64], probability: Features, label: npt.NDArray[np.int8], path: Path) -> None:
    """A Parquet file that is on the disk when this returns."""
    with path.open("wb") as file:
        pq.write_table(pa.table([keys, probability, label], [KEY, "probability", "label"]), file, compression="lz4")
        file.flush()
        os.fsync(file.fileno())


def _prepare(model: str) -> None:
    """Once per process: load the program as a worker does, for one thread."""
    from batch_assets.models.predictor import settle_heap
    from batch_assets.models.runtimes.torch_runtime import PT2

    settle_heap()
    _State.predictor = PT2.load(Path(model).read_bytes(), model)


class _State:
    """What a process of the pool keeps."""

    predictor: Any = None


def _at_once(pool: Pool, stage: str, parts: list[list[tuple[Path, int]]], scratch: Path) -> list[float]:
    return pool.starmap(_rate, [(stage, part, scratch) for part in parts], chunksize=1)


def _rate(stage: str, part: list[tuple[Path, int]], scratch: Path) -> float:
    """Rows per second of one stage in this process; the first chunk only warms up if there is more than one."""
    measured = [(rows, seconds) for rows, seconds in _measured(stage, part, scratch)]
    counted = measured[1:] or measured
    return sum(rows for rows, _ in counted) / sum(seconds for _, seconds in counted)


def _measured(stage: str, part: list[tuple[Path, int]], scratch: Path) -> Iterator[tuple[int, float]]:
    buffer = np.zeros((len(COLUMNS), CHUNK_ROWS), dtype=np.float32)
    random = np.random.default_rng(0)
    parquet, opened = None, None
    for file, group in part:
        if opened != file:
            parquet, opened = pq.ParquetFile(file), file
        if stage in ("read", "convert", "forward"):
            started = time.perf_counter()
            table = read(parquet, group)
            if stage != "read":
                started = time.perf_counter()
                features = convert(table, buffer)
                if stage == "forward":
                    started = time.perf_counter()
                    forward(_State.predictor, features)
            rows = len(table)
        else:
            rows, logits = CHUNK_ROWS, random.standard_normal((len(LABELS), CHUNK_ROWS), dtype=np.float32)
            started = time.perf_counter()
            probability, label = postprocess(logits)
            if stage == "write":
                started = time.perf_counter()
                write(np.arange(group * rows, (group + 1) * rows), probability, label, scratch / f"{os.getpid()}-{group}")
        yield rows, time.perf_counter() - started
