"""The dynamic batcher beside one row at a time, at saturation, with the demo's network and customers, in the same run.

    python benchmarks/batcher.py [--rows 100000] [--rounds 5] [--root FOLDER] [--json]

- `one row at a time`: what a service without a batcher does. Everybody who asks waits for a call of the model for one row, not
  padded, on a thread beside the event loop.
- `batcher of N`: everybody asks the batcher; a pass has N rows at most, padded to multiples of 64 as a night's are.
- `row by row in a loop`: a loop calls the model for one row, not padded, and nobody asks: no event loop, no thread.

As many ask at the same time as two passes hold, each again once there is an answer; of one row at a time 512. Subjects take
turns; rows per second are medians of the rounds. Answers are compared: of batches bit by bit. `--root` is where the demo's
model is, or will be: by default it is trained into a temporary folder. Not compared: HTTP, reading features, GPUs.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent.parent))

from batch_assets.config import PipelineConfig
from batch_assets.demo import train as training
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.registry import Registry
from batch_assets.orchestration.catalog import pipeline
from batch_assets.scoring.forward import Predictor
from batch_assets.scoring.inputs import SHAPE
from batch_assets.serving.batcher import BatcherSettings, DynamicBatcher
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet

Row = npt.NDArray[np.float32]

SIZES = (64, 256, 1_024)
ASKING = 512
ALONE, ONE = "row by row in a loop", "one row at a time"
SINGLE_SHARE = 10
"""By how much fewer rows are scored one at a time: these take long, and their rate does not depend on it."""


def main() -> None:
    """Measure, compare the answers, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        predictor, rows = demo(options.root or Path(folder), options.rows)
        rates = measure(predictor, rows, options.rounds)
    found = {
        name: {"rows_per_s": rate, "to_one_row_at_a_time": rate / rates[ONE], "to_row_by_row": rate / rates[ALONE]}
        for name, rate in rates.items()
    }
    if options.json:
        print(json.dumps({"rows": options.rows, "rounds": options.rounds, "subjects": found}, indent=1))
        return
    print(f"{'':<20}{'rows/s':>12}{f': {ONE}':>22}{f': {ALONE}':>20}")
    for name, one in found.items():
        print(f"{name:<20}{one['rows_per_s']:>12,.0f}{one['to_one_row_at_a_time']:>22.2f}{one['to_row_by_row']:>20.2f}")


def demo(root: Path, count: int) -> tuple[Predictor, list[Row]]:
    """The demo's model, trained if it is not there, and so many rows of its customers' features, each of shape (columns,)."""
    config, registry = pipeline(training.PIPELINE), Registry(LocalStorage(str(root)))
    if not registry.versions(config.model.name):
        training.train(config, registry, Quiet())
    version = registry.version(config.model.name, registry.newest(config.model.name))
    predictor = PredictorLoader(version.storage, version.path, version.card.model_sha256, version.card.runtime)()
    features = customers(config)
    return predictor, [features[number % len(features)] for number in range(count)]


def customers(config: PipelineConfig) -> Row:
    """The features of the demo's day, of shape (customers, columns)."""
    contract, day = config.features.contract, training.PARTITION
    with (
        tempfile.TemporaryDirectory() as spill,
        config.features.source.read(day, contract.identity, Path(spill), config.partitions.timezone) as read,
    ):
        table = read.rows.read_all()
    return np.stack([table.column(name).to_numpy().astype(np.float32) for name in contract.names], axis=1)


def measure(predictor: Predictor, rows: list[Row], rounds: int) -> dict[str, float]:
    """Rows per second of each subject, medians of some rounds."""
    few = rows[: max(len(rows) // SINGLE_SHARE, 1)]
    subjects: dict[str, Callable[[], tuple[float, list[float]]]] = {
        ONE: lambda: asyncio.run(one_at_a_time(predictor, few)),
        **{f"batcher of {size:,}": partial(batched, predictor, rows, size) for size in SIZES},
        ALONE: lambda: alone(predictor, few),
    }
    expected = [answer for start in range(0, len(rows), SHAPE) for answer in scored(predictor, rows[start : start + SHAPE])]
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            seconds, answers = subject()
            if len(answers) == len(rows) and answers != expected:
                raise SystemExit(f"{name} gives other answers than single passes of {SHAPE} rows.")
            np.testing.assert_allclose(answers, expected[: len(answers)], rtol=1e-4, atol=1e-5)
            rates[name].append(len(answers) / seconds)
    return {name: statistics.median(some) for name, some in rates.items()}


def scored(predictor: Predictor, rows: list[Row]) -> list[float]:
    """The model's first output for some rows, padded as a night's batches are."""
    inputs = np.empty((len(rows[0]), -(-len(rows) // SHAPE) * SHAPE), dtype=np.float32)
    inputs[:, : len(rows)] = np.frombuffer(b"".join(rows), dtype=np.float32).reshape(len(rows), -1).T
    inputs[:, len(rows) :] = inputs[:, :1]
    (outputs,) = predictor.forward([(inputs,)])
    return outputs[0, : len(rows)].tolist()


def scored_alone(predictor: Predictor, row: Row) -> float:
    """The model's first output for one row, not padded."""
    (outputs,) = predictor.forward([(row[:, None],)])
    return float(outputs[0, 0])


def alone(predictor: Predictor, rows: list[Row]) -> tuple[float, list[float]]:
    """Seconds and answers of a loop."""
    started = time.perf_counter()
    answers = [scored_alone(predictor, row) for row in rows]
    return time.perf_counter() - started, answers


async def one_at_a_time(predictor: Predictor, rows: list[Row]) -> tuple[float, list[float]]:
    """Seconds and answers of a service that calls the model for each row."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        return await answered(rows, ASKING, lambda row: loop.run_in_executor(thread, scored_alone, predictor, row))


def batched(predictor: Predictor, rows: list[Row], size: int) -> tuple[float, list[float]]:
    """Seconds and answers of a batcher."""

    async def ask_it() -> tuple[float, list[float]]:
        settings = BatcherSettings(max_batch_size=size, max_waiting=2 * size)
        batcher: DynamicBatcher[Row, float]
        async with DynamicBatcher(partial(scored, predictor), settings) as batcher:
            return await answered(rows, 2 * size, batcher.ask)

    return asyncio.run(ask_it())


async def answered(rows: list[Row], asking: int, ask: Callable[[Row], Awaitable[float]]) -> tuple[float, list[float]]:
    """Seconds until everybody who asks has all answers, and these in the order of the rows."""
    answers: list[Any] = [None] * len(rows)
    left: Iterator[tuple[int, Row]] = iter(enumerate(rows))

    async def somebody() -> None:
        for number, row in left:
            answers[number] = await ask(row)

    started = time.perf_counter()
    await asyncio.gather(*(somebody() for _ in range(asking)))
    return time.perf_counter() - started, answers


if __name__ == "__main__":
    main()
