"""A day of as many chunks as a great one has, whose files hold few rows: all that a driver reads and writes of it is real.

A row group has 16 rows instead of 16,384, a chunk four row groups, and a part file 64 chunks. So the snapshot's description,
plan, commits, proof and manifest are those of a day of 65,536 rows a chunk, and the day is made in a minute. The workers of the
product score it by a model, so that every footer is one of theirs; each third chunk has a row that a rule takes out.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.digest import key_digest
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.features.profile import write_profile
from batch_assets.features.provenance import Provenance, keep_provenance, sha256_of
from batch_assets.features.snapshot import CurrentSnapshot, RowGroup, Snapshot, current_log, described, snapshot_folder
from batch_assets.nightly.night import Night
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.nights import SETTINGS as KEPT
from batch_assets_tests.small import DAY, Small, rows

GROUP_ROWS, GROUPS, CHUNKS_OF_FILE = 16, 4, 64
CHUNK_ROWS = GROUP_ROWS * GROUPS

SETTINGS: dict[str, Any] = {
    "scoring": {
        "chunk_rows": CHUNK_ROWS,
        "batch_size": CHUNK_ROWS,
        "exclude": [{"reason": "a rule", "column": "x", "op": ">", "value": 100}],
    },
    **KEPT,
}


def many_chunks(folder: Path, model: bytes, chunks: int, root: str = "", day: str = DAY) -> Small:
    """A small pipeline with a frozen day of so many chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    small = Small(folder, rows(1), model, root=root, **SETTINGS)
    freeze(small, chunks, day)
    return small


def freeze(small: Small, chunks: int, day: str) -> Snapshot:
    """Let a day have been frozen."""
    storage, name = small.storage, small.config.name
    with storage.scratch() as scratch:
        made = scratch / "made"
        made.mkdir()
        parts = [_part(made, first, min(CHUNKS_OF_FILE, chunks - first)) for first in range(0, chunks, CHUNKS_OF_FILE)]
        write_profile(made, ["x", "y", "z"])
        snapshot = described(made, ["user"], _rows(0, 1).schema, *zip(*parts, strict=True))
        folder = snapshot_folder(name, day, snapshot.digest)
        tokens = storage.adopt(made, folder)
    made_up = Provenance(day=date.fromisoformat(day), timezone="UTC", settings_sha256=sha256_of("made up"), tables=())
    keep_provenance(storage, folder, made_up)
    current_log(storage, name, day).append(CurrentSnapshot(digest=snapshot.digest, tokens=tokens), after=0, why="made up")
    return snapshot


def score_some(night: Night, chunks: int, workers: int = 2) -> None:
    """Commit the first chunks of a night, as somebody did who was killed then."""
    names = night.storage.names(night.folder)
    with LocalEngine(workers).open(night.task(), print) as crew:
        for _ in crew.map(Scorer.score, [chunk for chunk in night.plan[:chunks] if f"{chunk.name}.parquet" not in names]):
            pass


def _part(folder: Path, first: int, chunks: int) -> tuple[str, Sequence[RowGroup]]:
    """Write a part file of so many chunks; its name and its row groups."""
    name, table = f"part-{first // CHUNKS_OF_FILE:05d}.parquet", _rows(first, chunks)
    pq.write_table(
        table, folder / name, row_group_size=GROUP_ROWS, compression="lz4", use_dictionary=False, write_statistics=False
    )
    return name, tuple(_groups(table.column("user").combine_chunks()))


def _groups(keys: pa.Array) -> Iterator[RowGroup]:
    for start in range(0, len(keys), GROUP_ROWS):
        yield RowGroup(rows=GROUP_ROWS, keys=key_digest(keys.slice(start, GROUP_ROWS)))


def _rows(first: int, chunks: int) -> pa.Table:
    """The rows of some chunks; the first of each third chunk is one that the rule takes out."""
    numbers = np.arange(first * CHUNK_ROWS, (first + chunks) * CHUNK_ROWS)
    x, y, z = np.random.default_rng(first).standard_normal((3, len(numbers)), dtype=np.float32)
    x[numbers % (3 * CHUNK_ROWS) == 0] = 1_000
    return pa.table({"user": numbers, "x": x, "y": y, "z": z})
