"""Rows in a bucket beside the same rows on a disk: a day is frozen from one, and scored in one.

    python benchmarks/sources/bucket.py [--rows 1000000] [--files 8] [--rounds 5] [--scored 2000000]

In alternation: a day's rows of Parquet files in a bucket (a key, 64 float32, keys in no order), in the order of their keys,
by the source `parquet`; and by pyarrow's own S3 reader, whose batches DuckDB sorts with the same memory limit. Then a
snapshot of `--scored` rows x 64 is scored by an MLP in two threads, once in a root in the bucket, once in a root on the disk.
The bucket is on a versitygw of its own on this machine (`make servers`), which takes its share of the same processors. Not
compared: Amazon's own S3, networks, workers of Ray.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import DAY as SCORED
from workload import Workload

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets_tests.servers import S3Gateway
from batch_assets_tests.small import Quiet
from benchmarks.sources.lake import DAY, LIMIT, by_source, parts, seconds


def by_pyarrow(place: str, folder: Path) -> int:
    """How many rows come by pyarrow and DuckDB alone."""
    import duckdb
    from pyarrow import dataset, fs

    files = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http")
    scanner = dataset.dataset(place.removeprefix("s3://"), filesystem=files, format="parquet").scanner(batch_size=1 << 17)
    read = scanner.to_reader()
    with duckdb.connect(config={"memory_limit": LIMIT, "temp_directory": str(folder)}) as connection:
        rows = connection.sql(f"SELECT * EXCLUDE (day) FROM read WHERE day = DATE '{DAY}' ORDER BY user")
        found = sum(len(batch) for batch in rows.to_arrow_reader(1 << 17))
    del read
    return found


def frozen_rows(bucket: str, folder: Path, said: argparse.Namespace) -> None:
    """Print how long a day's rows take."""
    from obstore.store import S3Store

    store = S3Store(bucket.removeprefix("s3://"), client_options={"allow_http": True})
    for number, part in enumerate(parts(said.rows, said.files)):
        file = io.BytesIO()
        pq.write_table(part, file)
        store.put(f"rows/{number}.parquet", file.getvalue())
    source = ParquetSource(path=f"{bucket}/rows", day="day", memory_limit=LIMIT)
    told(
        f"{said.rows:,} rows x 64 from a bucket, source : pyarrow and DuckDB alone",
        said.rows,
        said.rounds,
        lambda: by_source(source, folder)[0],
        lambda: by_pyarrow(f"{bucket}/rows", folder),
    )


def scored(workload: Workload) -> int:
    """Score the day, whatever of it is scored already; returns the rows."""
    workload.forget_runs()
    storage = workload.storage
    night = Night.open(workload.config, storage, SCORED, Registry(storage).resolve(workload.config.model))
    return score(night, LocalEngine(2), Quiet()).manifest.scored


def told(what: str, rows: int, rounds: int, ours: Callable[[], int], theirs: Callable[[], int]) -> None:
    """Print what two take in alternation. Raises SystemExit if not all rows come."""
    taken = [(seconds(ours, rows), seconds(theirs, rows)) for _ in range(rounds)]
    one, other = (rows / statistics.median(some) for some in zip(*taken, strict=True))
    every = ", ".join(f"{b / a:.2f}" for a, b in taken)
    ratio = statistics.median(b / a for a, b in taken)
    print(f"{what}: {one:,.0f} : {other:,.0f} rows/s, {ratio:.2f} : 1 (rounds {every})", flush=True)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scored", type=int, default=2_000_000)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, S3Gateway() as gateway:
        folder = Path(place)
        os.environ.update(gateway.environment, BATCH_ASSETS_CACHE=str(folder / "copies"))
        bucket = gateway.new_bucket()
        frozen_rows(bucket, folder, said)
        there, here = (Workload(folder, said.scored, root) for root in (f"{bucket}/root", str(folder / "root")))
        for one in (there, here):
            one.freeze()
            one.register()
        what = f"{said.scored:,} rows x 64 scored, bucket : disk"
        told(what, said.scored, said.rounds, partial(scored, there), partial(scored, here))


if __name__ == "__main__":
    main()
