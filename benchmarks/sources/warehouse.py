"""Rows of PostgreSQL in the order of their keys: our source beside the bare ADBC driver.

    python benchmarks/sources/warehouse.py [--rows 1000000] [--columns 16] [--rounds 3] [--memory-limit 64MB] [--memory]

It starts a PostgreSQL of its own on this machine, and fills a table in another order than that of the keys. In alternation,
each in a process of its own that has imported what it needs: our source reads the day's rows and puts them in order; the same,
and the rows are frozen as a snapshot; ADBC reads the same SELECT with an ORDER BY, so that PostgreSQL sorts. `--memory` also
compares the most memory that our source takes for these rows and for four times as many, which are put in order on disk where
they are more than `--memory-limit`. Memory is what a process has at most beyond what it has before it reads.

Not compared: a network, a warehouse of several machines, what the server's own sorting takes from others.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.features.snapshot import ROWS_PER_GROUP, write_snapshot
from batch_assets.sources.warehouse_source import WarehouseSource
from batch_assets_tests.servers import PostgresServer

DAY = "2026-01-31"
BATCH = 250_000

Measured = tuple[float, int]
"""Seconds, and the most memory in bytes that the process had beyond what it began with."""


def fill(server: PostgresServer, table: str, rows: int, columns: int) -> None:
    """A table of one day: a key, and numbers of 32 bits."""
    import adbc_driver_postgresql.dbapi as postgresql

    random = np.random.default_rng(1)
    keys = random.permutation(rows)
    with postgresql.connect(server.url, autocommit=True) as connection, connection.cursor() as cursor:
        for start in range(0, rows, BATCH):
            part = keys[start : start + BATCH]
            numbers = {f"x{number}": random.random(len(part), dtype=np.float32) for number in range(columns - 1)}
            day = pa.array(np.full(len(part), np.datetime64(DAY)))
            batch = pa.table({"day": day, "user_id": part, **numbers})
            cursor.adbc_ingest(table, batch, mode="append" if start else "create")
        cursor.execute(f"ANALYZE {table}")


def names(columns: int) -> str:
    """What is read."""
    return ", ".join(["user_id", *(f"x{number}" for number in range(columns - 1))])


def ours(url: str, table: str, columns: int, limit: str, folder: Path) -> int:
    """Rows of our source."""
    with source(url, table, columns, limit, folder).read(DAY, ["user_id"], folder) as read:
        return sum(len(batch) for batch in read.rows)


def frozen(url: str, table: str, columns: int, limit: str, folder: Path) -> int:
    """Rows of our source, as a snapshot."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as new,
        source(url, table, columns, limit, folder).read(DAY, ["user_id"], folder) as read,
    ):
        return write_snapshot(Path(new), read.rows, ["user_id"], ROWS_PER_GROUP).rows


def adbc(url: str, table: str, columns: int, limit: str, folder: Path) -> int:  # noqa: ARG001 - it sorts nothing
    """Rows of ADBC alone."""
    import adbc_driver_postgresql.dbapi as postgresql

    with postgresql.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {names(columns)} FROM {table} WHERE day = '{DAY}' ORDER BY user_id")
        return sum(len(batch) for batch in cursor.fetch_record_batch())


def source(url: str, table: str, columns: int, limit: str, folder: Path) -> WarehouseSource:
    """Our source of a table."""
    query = folder / f"{table}.sql"
    query.write_text(f"SELECT {names(columns)} FROM {table} WHERE day = $partition")
    return WarehouseSource(driver="postgresql", uri=url, query=str(query), memory_limit=limit)


def measured(
    read: Callable[[str, str, int, str, Path], int], url: str, table: str, columns: int, limit: str, folder: Path, wanted: int
) -> Measured:
    """One reading. Raises SystemExit if rows are missing."""
    import adbc_driver_postgresql.dbapi  # noqa: F401
    import duckdb

    duckdb.sql("SELECT 1").fetchall()
    before, started = _peak(), time.perf_counter()
    found = read(url, table, columns, limit, folder)
    if found != wanted:
        raise SystemExit(f"{found:,} rows of {wanted:,} came")
    return time.perf_counter() - started, _peak() - before


def _peak() -> int:
    """Of this program: what `getrusage` says begins with the peak of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def in_process(*arguments: object) -> Measured:
    """`measured` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: Measured = pool.apply(measured, arguments)
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=16, help="the key is one of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-limit", default="64MB", help="from which on our source sorts on disk")
    parser.add_argument("--memory", action="store_true", help="also read four times as many rows, by our source")
    said = parser.parse_args()
    with PostgresServer() as server, tempfile.TemporaryDirectory() as name:
        compare(server, Path(name), said)


def compare(server: PostgresServer, folder: Path, said: argparse.Namespace) -> None:
    """Print what each does."""
    fill(server, "a_day", said.rows, said.columns)
    readings = {"ADBC alone": adbc, "our source": ours, "and frozen": frozen}
    found: dict[str, list[Measured]] = {who: [] for who in readings}
    for _ in range(said.rounds):
        for who, read in readings.items():
            found[who].append(in_process(read, server.url, "a_day", said.columns, said.memory_limit, folder, said.rows))
    print(f"{said.rows:,} rows x {said.columns} columns in the order of their keys, medians of {said.rounds}; ratios of rows/s")
    for who, some in found.items():
        seconds, peak = (statistics.median(values) for values in zip(*some, strict=True))
        rounds = [alone / one for (one, _), (alone, _) in zip(some, found["ADBC alone"], strict=True)]
        shown = f"{statistics.median(rounds):.2f} : 1  (rounds {', '.join(f'{one:.2f}' for one in rounds)})"
        print(f"{who:11} {seconds:6.2f} s  {said.rows / seconds:10,.0f} rows/s  {peak / 1e6:6,.0f} MB  {shown}")
    if said.memory:
        fill(server, "a_longer_day", 4 * said.rows, said.columns)
        seconds, more = in_process(ours, server.url, "a_longer_day", said.columns, said.memory_limit, folder, 4 * said.rows)
        less = statistics.median(peak for _, peak in found["our source"])
        print(f"four times the rows by our source {seconds:6.2f} s  {more / 1e6:6,.0f} MB, {more / less:.2f} : 1 in memory")


if __name__ == "__main__":
    main()
