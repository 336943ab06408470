"""An export of made-up predictions: how long it takes, and how much memory.

    python benchmarks/stores/export.py [--rows 20000000] [--shards 64]

The rows (an int64 key, a probability, a decile, a label) are written first, as a night commits them, in chunks of 131,072; that
is not measured. Then they are exported: read, put into shards, written, read back and compared, and put in their place durably.
`peak_mb` is the most memory of its own, mapped files aside, that the process has meanwhile beyond what it had before. Prints a
line of JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.pop(0)  # in this file's own folder `redis` would be redis.py
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from batch_assets.digest import Digest, keyed_digest
from batch_assets.features.contract import Column, FeatureContract, Key
from batch_assets.process import MemoryWatch
from batch_assets.runs.commit import as_parquet, predictions_table
from batch_assets.runs.manifest import Manifest, ManifestFile
from batch_assets.serving.export import ExportSettings, export
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.store_behaviour import BINARY, records
from benchmarks.stores.made_up import CHUNK_ROWS

DAY, FOLDER = "2024-03-10", "made_up/predictions/date=2024-03-10/run=0123456789abcdef"


def committed(storage: LocalStorage, rows: int) -> Manifest:
    """Chunks of made-up rows as a night commits them, and what a manifest says of them."""
    files = list[ManifestFile]()
    for number, start in enumerate(range(0, rows, CHUNK_ROWS)):
        keys = pa.array(2 * np.arange(start, min(start + CHUNK_ROWS, rows)))
        stored = records(BINARY, len(keys), seed=number)
        data = as_parquet(predictions_table(pa.table({"user": keys}), stored, "v1", DAY))
        name, count = f"chunk-{number:05d}.parquet", len(keys)
        storage.create(f"{FOLDER}/{name}", data)
        values = keyed_digest(keys, stored.flat())
        files.append(ManifestFile(name=name, size=data.size, rows=count, scored=count, values=values, rejects=None))
    said = {"pipeline": "made_up", "partition": DAY, "run_id": "0123456789abcdef", "folder": FOLDER, "record": BINARY}
    values = sum((file.values for file in files), start=Digest())
    return Manifest.model_construct(**said, files=tuple(files), scored=rows, values=values)


def main() -> None:
    """Write, export, and say how that was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--shards", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        manifest = committed(storage, options.rows)
        contract = FeatureContract(key=(Key(name="user", dtype="int64"),), columns=(Column(name="x"),))
        began = time.monotonic()
        with MemoryWatch() as memory:
            before = memory.peak
            export(storage, ExportSettings(shards=options.shards), manifest, contract, None, datetime(2024, 3, 11, tzinfo=UTC))
        seconds = time.monotonic() - began
    found = {"rows": options.rows, "shards": options.shards, "seconds": round(seconds, 1)}
    print(json.dumps({**found, "peak_mb": round((memory.peak - before) / 1e6)}))


if __name__ == "__main__":
    main()
