"""A day's rows from a Delta and from an Iceberg table beside DuckDB, which sorts the rows of the same Parquet files.

    python benchmarks/sources/lake.py [--rows 1000000] [--files 4] [--rounds 5] [--memory]

In alternation: all rows of a day, in the order of their keys, by the source; and by DuckDB alone, with the same memory limit,
`ORDER BY` and condition, from the files that the source names in its provenance. Each row has a key, a day and 64 float32. With
`--memory` also the peak memory of a process that reads so many rows, and of one that reads four times as many. Not compared:
writing the snapshot, a bucket, tables with deleted rows, several days.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.sources.delta_source import DeltaSource
from batch_assets.sources.iceberg_source import IcebergSource
from batch_assets.sources.source import Source

DAY, FEATURES, LIMIT = date(2026, 1, 31), 64, "4GB"


def parts(rows: int, files: int) -> Iterable[pa.Table]:
    """Rows with keys in no order, in as many tables as there are to be files."""
    rng = np.random.default_rng(1)
    for keys in np.array_split(rng.permutation(rows), files):
        features = {f"f{number}": rng.standard_normal(len(keys), np.float32) for number in range(FEATURES)}
        yield pa.table({"user": keys, "day": pa.repeat(pa.scalar(DAY), len(keys)), **features})


def delta(folder: Path, rows: int, files: int) -> Source:
    """A Delta table."""
    from deltalake import write_deltalake

    for part in parts(rows, files):
        write_deltalake(folder / "delta", part, mode="append")
    return DeltaSource(path=str(folder / "delta"), day="day", memory_limit=LIMIT)


def iceberg(folder: Path, rows: int, files: int) -> Source:
    """An Iceberg table."""
    from pyiceberg.catalog.sql import SqlCatalog

    said: Any = {"name": "bench", "type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}
    with SqlCatalog(**said) as catalog:
        catalog.create_namespace("db")
        for part in parts(rows, files):
            catalog.create_table_if_not_exists("db.rows", part.schema).append(part)
    return IcebergSource(catalog=said, table="db.rows", day="day", memory_limit=LIMIT)


def by_source(source: Source, folder: Path) -> tuple[int, list[str]]:
    """How many rows come, and from which files."""
    with source.read(DAY.isoformat(), ["user"], folder) as read:
        rows = sum(len(batch) for batch in read.rows)
        return rows, [file.path.removeprefix("file://") for file in read.provenance.tables[0].files]


def by_duckdb(files: list[str], folder: Path) -> int:
    """How many rows come of the same files."""
    import duckdb

    with duckdb.connect(config={"memory_limit": LIMIT, "temp_directory": str(folder)}) as connection:
        rows = connection.sql(
            f"SELECT * EXCLUDE (day) FROM read_parquet({files!r}) WHERE day = DATE '{DAY}' ORDER BY user"
        ).to_arrow_reader(1 << 17)
        return sum(len(batch) for batch in rows)


def seconds(read: Callable[[], int], rows: int) -> float:
    """How long it takes. Raises SystemExit if not all rows come."""
    started = time.perf_counter()
    if (found := read()) != rows:
        raise SystemExit(f"{found:,} rows came of {rows:,}")
    return time.perf_counter() - started


def peak(read: Callable[..., Any], *said: Any) -> int:
    """The most memory of a process of its own that reads, in MB."""
    with get_context("spawn").Pool(1) as pool:
        return int(pool.apply(_peak, (read, *said)))


def _peak(read: Callable[..., Any], *said: Any) -> int:
    read(*said)
    status = Path("/proc/self/status").read_text()  # what getrusage says begins with the memory of the process that started it
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def compare(make: Callable[[Path, int, int], Source], said: argparse.Namespace) -> None:
    """Print how long one format takes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = make(folder, said.rows, said.files)
        _, files = by_source(source, folder)
        taken = [
            (seconds(lambda: by_source(source, folder)[0], said.rows), seconds(lambda: by_duckdb(files, folder), said.rows))
            for _ in range(said.rounds)
        ]
    ours, theirs = (said.rows / statistics.median(some) for some in zip(*taken, strict=True))
    rounds = ", ".join(f"{b / a:.2f}" for a, b in taken)
    print(f"{source.kind:8} {ours:9,.0f} : {theirs:9,.0f} rows/s  {ours / theirs:.2f} : 1  (rounds {rounds})")


def remember(make: Callable[[Path, int, int], Source], rows: int, files: int) -> None:
    """Print how much memory one format takes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = make(folder, rows, files)
        ours, theirs = peak(by_source, source, folder), peak(by_duckdb, by_source(source, folder)[1], folder)
    print(f"{source.kind:8} peak of {rows:,} rows {ours:,} : {theirs:,} MB")


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    said = parser.parse_args()
    print(f"{said.rows:,} rows x {FEATURES} float32 in {said.files} files, the source : DuckDB alone, medians")
    for make in (delta, iceberg):
        compare(make, said)
        for times in (1, 4) if said.memory else ():
            remember(make, times * said.rows, times * said.files)


if __name__ == "__main__":
    main()
