"""Short texts as numbers of words: the python source beside the same function on a bare pool of processes.

    python benchmarks/sources/python.py [--rows 200000] [--workers 2] [--rounds 5]

In alternation: the source reads a day of texts from Parquet by its query engine, in the order of their keys, gives them to the
function batch by batch and hands on what comes back as Arrow; a `ProcessPoolExecutor` maps the same function over batches of
the same size that this process holds already, and what comes back is counted. Both start their processes anew and wait for
them. The function is plain Python: it lowers, splits and looks up each word.

Not compared: a tokenizer that has threads of its own, writing the snapshot, texts that are not in the order of their keys.
"""

import argparse
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.pop(0)  # this file's own folder would hide other modules by its names
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.sources.python_source import PythonSource

DAY = "2026-01-31"
BATCH_ROWS = 16_384
WORDS = 1 << 15
_WORD = re.compile(r"\w+|[^\w\s]")


def tokens(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The numbers of the words of each text, 32 at most."""
    texts = batch.column("text").to_pylist()
    numbers = [[zlib.crc32(word.encode()) % WORDS for word in _WORD.findall(text.lower())[:32]] for text in texts]
    columns = [batch.column("user_id"), pa.array(numbers, pa.list_(pa.int64()))]
    return pa.RecordBatch.from_arrays(columns, names=["user_id", "tokens"])


def made_up(rows: int) -> pa.Table:
    """Texts of 5 to 20 words."""
    random = np.random.default_rng(1)
    vocabulary = np.array([f"word{number}" for number in range(5_000)])
    texts = [" ".join(vocabulary[random.integers(0, 5_000, random.integers(5, 21))]) for _ in range(rows)]
    return pa.table({"user_id": np.arange(rows), "text": texts})


def ours(folder: Path, workers: int, spill: Path) -> int:
    """Rows of the source."""
    source = PythonSource(
        source=ParquetSource(path=str(folder)),
        function="benchmarks.sources.python:tokens",
        workers=workers,
        batch_rows=BATCH_ROWS,
    )
    with source.read(DAY, ["user_id"], spill) as read:
        return sum(len(batch) for batch in read.rows)


def bare(batches: list[pa.RecordBatch], workers: int) -> int:
    """Rows of a pool."""
    from benchmarks.sources.python import tokens as by_name  # as processes know it

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return sum(len(batch) for batch in pool.map(by_name, batches))


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, spill, table = Path(name) / "texts", Path(name), made_up(said.rows)
        folder.mkdir()
        pq.write_table(table, folder / "0.parquet")
        sliced = table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)
        batches = [pa.ipc.read_record_batch(one.serialize(), one.schema) for one in sliced]  # or each is sent with all rows
        found: dict[str, list[float]] = {"python source": [], "bare pool": []}
        for _ in range(said.rounds):
            for who, read in (
                ("python source", lambda: ours(folder, said.workers, spill)),
                ("bare pool", lambda: bare(batches, said.workers)),
            ):
                started = time.perf_counter()
                if (rows := read()) != said.rows:
                    raise SystemExit(f"{rows:,} rows of {said.rows:,} came")
                found[who].append(time.perf_counter() - started)
    print(f"{said.rows:,} texts, {said.workers} processes, medians of {said.rounds}")
    for who, seconds in found.items():
        print(f"{who:14} {statistics.median(seconds):6.2f} s  {said.rows / statistics.median(seconds):10,.0f} rows/s")
    rounds = [alone / one for one, alone in zip(*found.values(), strict=True)]
    shown = ", ".join(f"{one:.2f}" for one in rounds)
    print(f"python source : bare pool {statistics.median(rounds):.2f} : 1 in rows/s  (rounds {shown})")


if __name__ == "__main__":
    main()
