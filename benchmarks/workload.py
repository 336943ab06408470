"""What every subject reads: made-up rows, frozen once as a snapshot of batch-assets; the peers read the same part files.

A workload is a storage root of its own, kept under the data folder by its number of rows, so it is written only once.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.features.provenance import Provenance, keep_provenance, sha256_of
from batch_assets.features.snapshot import ROWS_PER_GROUP, CurrentSnapshot, current_log, snapshot_folder, write_snapshot
from batch_assets.nightly.freeze import frozen
from batch_assets.runs.commit import day_folder
from batch_assets.storage import LocalStorage, open_storage

DAY = "2024-03-10"
KEY = "id"
COLUMNS = [f"f{number:02d}" for number in range(64)]
LABELS = ("a", "b", "c")
CHUNK_ROWS = 131_072


@dataclass(frozen=True)
class Workload:
    """`rows` rows x 64 float32 columns and a model, under a storage root in the data folder, or another one (`s3://bucket`)."""

    data: Path
    rows: int
    root: str = ""

    @property
    def storage(self) -> LocalStorage:
        """The root that holds the snapshot, the model and the runs."""
        # Who asks for local paths has a local root.
        return cast(LocalStorage, open_storage(self.root or str(self.data / f"rows-{self.rows}")))

    @property
    def config(self) -> PipelineConfig:
        """The pipeline. Its source is never asked, because the day is frozen already."""
        contract = {"key": {"name": KEY, "dtype": "int64"}, "columns": [{"name": name} for name in COLUMNS]}
        return PipelineConfig.model_validate(
            {
                "name": "bench",
                "partitions": {"start": DAY, "end": DAY},
                "features": {"source": {"kind": "duckdb", "query": "frozen.sql", "tables": {}}, "contract": contract},
                "model": {"name": "mlp"},
                "answers": {"kind": "classes", "labels": LABELS},
                "scoring": {"chunk_rows": CHUNK_ROWS},
            }
        )

    @property
    def files(self) -> list[Path]:
        """The part files."""
        snapshot = frozen(self.config, self.storage, DAY)
        folder = self.storage.local_path(snapshot.folder)
        return [folder / file.name for file in snapshot.snapshot.files]

    @property
    def predictions(self) -> Path:
        """Where batch-assets keeps its runs; deleted before and after each of them."""
        return Path(self.storage.root, "bench", "predictions")

    def committed(self) -> int:
        """How many chunks of the day are committed, in all runs."""
        day = day_folder(self.config.name, DAY)
        return sum(name.startswith("chunk-") for run in self.storage.names(day) for name in self.storage.names(f"{day}/{run}"))

    def forget_runs(self) -> None:
        """Remove all runs of the day."""
        self.storage.discard(day_folder(self.config.name, DAY))

    @property
    def model_file(self) -> Path:
        """The exported program."""
        return Path(self.storage.root, "models", "mlp", "v1", "model.pt2")

    def prepare(self) -> None:
        """Freeze the rows if they are not frozen yet, and register the model anew."""
        try:
            frozen(self.config, self.storage, DAY)
        except (NotFound, SnapshotChanged):
            shutil.rmtree(self.storage.root, ignore_errors=True)
            self.freeze()
        shutil.rmtree(Path(self.storage.root, "models"), ignore_errors=True)
        self.register()

    def warm(self) -> None:
        """Read the part files once, so that every subject finds them in the page cache."""
        for path in self.files:
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass

    def freeze(self) -> None:
        """Write the snapshot."""
        storage, name = self.storage, self.config.name
        schema = pa.schema([(KEY, pa.int64()), *((column, pa.float32()) for column in COLUMNS)])
        with storage.scratch() as scratch:
            (scratch / "snapshot").mkdir()
            reader = pa.RecordBatchReader.from_batches(schema, _batches(self.rows, schema))
            snapshot = write_snapshot(scratch / "snapshot", reader, [KEY], ROWS_PER_GROUP)
            folder = snapshot_folder(name, DAY, snapshot.digest)
            tokens = storage.adopt(scratch / "snapshot", folder)
        made_up = Provenance(day=date.fromisoformat(DAY), timezone="UTC", settings_sha256=sha256_of("made up"), tables=())
        keep_provenance(storage, folder, made_up)
        current_log(storage, name, DAY).append(CurrentSnapshot(digest=snapshot.digest, tokens=tokens), after=0, why="made up")

    def register(self) -> None:
        """Register the model and approve it."""
        from model import mlp

        from batch_assets.histogram import Histogram
        from batch_assets.models.card import Card
        from batch_assets.models.registry import Registry
        from batch_assets.models.runtimes.pytorch.export import export_model
        from batch_assets.models.runtimes.torch_runtime import PT2
        from batch_assets.scoring.heads.classifier import Classes

        model = export_model(mlp(inplace=False), len(COLUMNS))
        edges = np.linspace(0.34, 0.42, 9).tolist()
        card = Card(
            description="A made-up classifier of three classes.",
            model_sha256=hashlib.sha256(model).hexdigest(),
            runtime=PT2,
            contract=self.config.features.contract,
            head=Classes(returns="logits", labels=LABELS, decile_edges=tuple(edges)),
            baseline_partition=DAY,
            baseline=Histogram.of(np.full(1, 0.35), edges),
            metrics={},
            training={},
        )
        registry = Registry(self.storage)
        registry.register("mlp", "v1", card, model)
        registry.approve("mlp", self.config.model.alias, "v1", why="benchmark", by="the benchmark")


def _batches(rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Standard normal rows with ascending keys. A row is the same in workloads of every size."""
    for start in range(0, rows, CHUNK_ROWS):
        random = np.random.default_rng([1, start])
        columns = [random.standard_normal(CHUNK_ROWS, dtype=np.float32) for _ in COLUMNS]
        batch = pa.record_batch([np.arange(start, start + CHUNK_ROWS), *columns], schema=schema)
        yield batch.slice(0, rows - start)
