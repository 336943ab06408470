"""The same work as others do it: Daft, Ray Data, Spark, and one `ray.get` per batch.

Each reads the snapshot's part files, runs the model, and writes id, probability of the most likely class and its label to
Parquet files in a fresh folder. Every function does all its work in the process that calls it, start-up of the system included.
"""

import functools
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from workload import COLUMNS, KEY

FORWARD_ROWS = 1_024
NAIVE_ROWS = 128


class Model:
    """The eager module with ReLUs in place, on one thread: faster here than TorchScript and than the export."""

    def __init__(self) -> None:
        import torch
        from model import mlp

        torch.set_num_threads(1)
        self._module = mlp(inplace=True)

    def __call__(self, features: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Probability and label of the most likely class, both (rows,), for features of shape (rows, columns)."""
        import torch

        with torch.inference_mode():
            probability, label = self._module(torch.from_numpy(features)).softmax(1).max(1)
        return probability.numpy(), label.numpy().astype(np.int8)

    def columns(self, columns: list[npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """The same for columns of any length, in blocks that fit in the cache: np.stack is twice as fast on those."""
        rows = range(0, len(columns[0]), FORWARD_ROWS)
        parts = [self(np.stack([column[start : start + FORWARD_ROWS] for column in columns], axis=1)) for start in rows]
        probabilities, labels = zip(*parts, strict=True)
        return np.concatenate(probabilities), np.concatenate(labels)


def daft(files: list[Path], output: Path, batch_rows: int, processes: int) -> None:
    """Daft: read_parquet, a batch method of a class, write_parquet; it orders rows as they are read, by its own default.

    Tried, in CPU seconds of a whole process for 1M rows on two cores: threads take 7, two processes 12, because each imports
    torch and gets its rows as IPC streams. Batches of 1,024 rows take 9 to 10, of 4,096 rows 8 to 9; Daft hands out no more
    than 16,384 at once, whatever it is told. Forward passes of 512 or 2,048 rows, morsels of 131,072 rows and rows in any
    order take 7 as well. Its dynamic batches fail with a batch size.

    Args:
        files: the part files.
        output: a folder that does not exist yet.
        batch_rows: at most so many rows are given to the model at once.
        processes: how many score; with 0, threads of this process do, one for each core and a model for each. To name any
            number, also by `max_concurrency` alone, is to ask Daft for processes.
    """
    os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
    os.environ["DAFT_PROGRESS_BAR"] = "0"
    from daft import DataType, cls, col, method, read_parquet

    predicted = DataType.struct({"probability": DataType.float32(), "label": DataType.int8()})

    @cls(max_concurrency=processes or None, use_process=bool(processes))
    class DaftScorer:
        def __init__(self) -> None:
            self._model = Model()

        @method.batch(return_dtype=predicted, unnest=True, batch_size=batch_rows)
        def predict(self, *columns: Any) -> pa.StructArray:
            probability, label = self._model.columns([column.to_arrow().to_numpy() for column in columns])
            return pa.StructArray.from_arrays([pa.array(probability), pa.array(label)], ["probability", "label"])

    scored = read_parquet([str(file) for file in files]).select(col(KEY), DaftScorer().predict(*map(col, COLUMNS)))
    scored.write_parquet(str(output))


class NumpyScorer:
    """Ray Data's actor for batches as a dict of numpy arrays."""

    def __init__(self) -> None:
        self._model = Model()

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Score a batch."""
        probability, label = self._model.columns([batch[name] for name in COLUMNS])
        return {KEY: batch[KEY], "probability": probability, "label": label}


class ArrowScorer:
    """Ray Data's actor for batches as Arrow tables."""

    def __init__(self) -> None:
        self._model = Model()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a batch."""
        probability, label = self._model.columns([batch.column(name).to_numpy() for name in COLUMNS])
        return pa.table({KEY: batch.column(KEY), "probability": probability, "label": label})


def ray_data(files: list[Path], output: Path, batch_format: str, batch_rows: int, cpus: int, checkpoint: Path | None) -> None:
    """Ray Data: read_parquet, map_batches on two actors of one CPU each, write_parquet.

    Args:
        files: the part files.
        output: a folder that does not exist yet, or that of a killed run.
        batch_format: numpy or pyarrow.
        batch_rows: rows that an actor is given at once.
        cpus: what Ray is told to have. On two cores it must be told of more than two: the two actors would take both, no
            read task would ever get a place, and the pipeline would stand still.
        checkpoint: where Ray Data keeps the ids of written rows, so that a killed run can be resumed.
    """
    import ray
    import ray.data

    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, num_cpus=cpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if checkpoint is not None:
        from ray.data.checkpoint import CheckpointConfig

        context.checkpoint_config = CheckpointConfig(KEY, str(checkpoint), delete_checkpoint_on_success=False)
    scorer: Any = {"numpy": NumpyScorer, "pyarrow": ArrowScorer}[batch_format]
    # The folder and not its files: given several paths, Ray Data's threads import fsspec's optional parts at once and fail.
    scored = ray.data.read_parquet(str(files[0].parent)).map_batches(
        scorer,
        batch_format=batch_format,
        batch_size=batch_rows,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    scored.write_parquet(str(output))
    ray.shutdown()


@functools.cache
def _model() -> Model:
    """One model in every Python worker of Spark."""
    return Model()


def _score_arrow(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        probability, label = _model().columns([batch.column(name).to_numpy() for name in COLUMNS])
        yield pa.record_batch({KEY: batch.column(KEY), "probability": probability, "label": label})


def spark(files: list[Path], output: Path, batch_rows: int) -> None:
    """Spark: mapInArrow on local[2], at most `batch_rows` rows in an Arrow batch; the output has Spark's own defaults."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # its Python workers import this file
    builder: Any = SparkSession.builder
    session = (
        builder.master("local[2]")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", batch_rows)
        .getOrCreate()
    )
    rows = session.read.parquet(*map(str, files))
    rows.mapInArrow(_score_arrow, f"{KEY} long, probability float, label byte").write.parquet(str(output))
    session.stop()


class NaiveActor:
    """What a first try looks like: a list of dicts comes in, a list of dicts goes out."""

    def __init__(self) -> None:
        self._model = Model()

    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Score a batch."""
        features = np.array([[row[name] for name in COLUMNS] for row in rows], dtype=np.float32)
        scored = zip(rows, *self._model(features), strict=True)
        return [{KEY: row[KEY], "probability": float(most), "label": int(label)} for row, most, label in scored]


def one_get_per_batch(files: list[Path], output: Path, rows: int) -> None:
    """One `ray.get` for every 128 of the first `rows` rows, one after the other."""
    import ray

    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    actor: Any = ray.remote(num_cpus=1)(NaiveActor).remote()
    predictions: list[dict[str, Any]] = []
    for batch in _first(files, rows):
        predictions += ray.get(actor.predict.remote(batch.to_pylist()))
    output.mkdir()
    pq.write_table(pa.Table.from_pylist(predictions), output / "predictions.parquet")
    ray.shutdown()


def _first(files: list[Path], rows: int) -> Iterator[pa.RecordBatch]:
    """The first `rows` rows in batches of 128."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(NAIVE_ROWS):
            if rows <= 0:
                return
            yield batch.slice(0, rows)
            rows -= len(batch)
