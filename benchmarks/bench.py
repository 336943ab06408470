"""Runs subjects on workloads: in rounds, each in a fresh process, their predictions compared and removed."""

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import packages
import processes
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from subjects import NAIVE_ROWS, Settings
from workload import LABELS, Workload


class Disagreement(Exception):
    """A subject did not predict what the others did."""


class Bench:
    """Runs subjects on workloads in one data folder."""

    def __init__(self, data: Path, settings: Settings) -> None:
        self._data = data
        self._settings = [f"--{one.name.replace('_', '-')}={getattr(settings, one.name)}" for one in fields(settings)]
        self._ready: dict[int, Workload] = {}
        self._agreed: dict[int, dict[str, Any]] = {}

    def compare(self, names: list[str], rows: int, rounds: int) -> dict[str, dict[str, Any]]:
        """Every subject at both sizes, in rounds; every second round the other way round."""
        sizes = {name: min(rows, NAIVE_ROWS) if name == "one_get_per_batch" else rows for name in names}
        runs = [(name, size) for name in names for size in (sizes[name], sizes[name] // 5)]
        seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
        said: dict[tuple[str, int], dict[str, Any]] = {}
        for number in range(rounds):
            for name, size in runs if number % 2 == 0 else reversed(runs):
                with self.job(name, rows if name == "one_get_per_batch" else size, limit=size) as (arguments, output):
                    finished = processes.run(arguments, packages=packages.of(name, self._data))
                    said[name, size] = finished.said | {"predicted": self._agreed_on(name, output)}
                seconds[name, size].append(finished.seconds)
        return {
            name: _rates(size, seconds[name, size], seconds[name, size // 5]) | said[name, size] for name, size in sizes.items()
        }

    def calculated(self, name: str, rows: int, limit: int = 0) -> dict[str, Any]:
        """What a subject says that only calculates."""
        with self.job(name, rows, limit) as (arguments, _):
            return processes.run(arguments).said

    @contextmanager
    def job(self, name: str, rows: int, limit: int = 0) -> Iterator[tuple[list[str], Path]]:
        """The arguments of a subject's process, and where it writes; that is removed before and after."""
        workload = self.prepared(rows)
        with tempfile.TemporaryDirectory(dir=self._data, prefix="run-") as scratch:
            output = workload.predictions if name.startswith("ours") else Path(scratch, "output")
            shutil.rmtree(output, ignore_errors=True)
            sizes = [f"--rows={rows}", f"--limit={limit}", f"--data={self._data}", f"--output={output}"]
            try:
                yield [f"--subject={name}", *sizes, *self._settings], output
            finally:
                shutil.rmtree(output, ignore_errors=True)

    def prepared(self, rows: int) -> Workload:
        """The workload of so many rows, made if need be, its files in the page cache, its model registered by today's code."""
        if rows not in self._ready:
            self._data.mkdir(parents=True, exist_ok=True)
            processes.run(["--subject=prepare", f"--rows={rows}", f"--data={self._data}"])
            self._ready[rows] = Workload(self._data, rows)
            self._ready[rows].warm()
        return self._ready[rows]

    def _agreed_on(self, name: str, output: Path) -> dict[str, Any]:
        """What was predicted. A ten-thousandth of the labels may differ: other batches have other bits. Raises Disagreement."""
        mine = predicted(output)
        other = self._agreed.setdefault(mine["rows"], mine)
        apart = [abs(mine["labels"][label] - other["labels"][label]) for label in LABELS]
        if max(apart) > 1e-4 * mine["rows"] or abs(mine["mean_probability"] - other["mean_probability"]) > 1e-5:
            raise Disagreement(f"{name} predicted {mine}, an earlier subject {other}.")
        return mine


def prediction_files(output: Path) -> list[Path]:
    """The Parquet files of predictions in or below a folder."""
    paths = [path for path in output.rglob("*.parquet") if ".rejects." not in path.name]
    return sorted(path for path in paths if not any(part.startswith("_") for part in path.relative_to(output).parts))


def predicted(output: Path) -> dict[str, Any]:
    """How many rows were predicted, how often each label, and the mean probability."""
    tables = ds.dataset([str(path) for path in prediction_files(output)]).to_table(columns=["probability", "label"])
    label = tables.column("label")
    names = label.cast(pa.string()) if pa.types.is_dictionary(label.type) else pa.array(LABELS).take(label.combine_chunks())
    counts = {str(entry["values"]): entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    return {
        "rows": len(tables),
        "labels": {name: counts.get(name, 0) for name in LABELS},
        "mean_probability": pc.mean(tables.column("probability").cast(pa.float64())).as_py(),
    }


def _rates(rows: int, large: list[float], small: list[float]) -> dict[str, Any]:
    total, total_small = statistics.median(large), statistics.median(small)
    return {
        "rows": rows,
        "steady_rows_per_s": (rows - rows // 5) / (total - total_small),
        "total_rows_per_s": rows / total,
        "total_rows_per_s_small": rows // 5 / total_small,
        "total_s": total,
        "total_s_small": total_small,
        "rounds": [{"total_s": one, "total_s_small": other} for one, other in zip(large, small, strict=True)],
    }
