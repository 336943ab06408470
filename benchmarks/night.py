"""A whole night of made-up rows by the command line, second by second: frozen, scored, judged, published, checked.

    python benchmarks/night.py [--rows 20000000] [--columns 16] [--engine auto] [--text-keys] [--sparse] [--json]
    python benchmarks/night.py --png docs/night.png

A project with one pipeline is made in a folder that is removed afterwards. Its query makes the rows (numbers from hashes, keys
from 1), so the features are computed, not read; `--sparse` makes three of four columns zero in 15 of 16 rows, as counts of
rare events are, so that a snapshot of many columns fits on a small disk. The model is an MLP columns-64-64-1. The table has
every stage that the command shows, what it is of the whole, and rows a second; below it what the process at work and its Ray
workers took of memory (the most at once, sampled every 100 ms, without pages of files, which the system takes back when it
needs them; DuckDB may take its `memory_limit` of it) and of disk. Not compared with other systems.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import psutil
import report

DAY = "2024-03-10"
MEMORY_LIMIT = "2GB"
STAGES = ("start-up", "features", "scoring", "publishing", "checks", "dagster", "summary", "total")


def main() -> None:
    """Make the project, run the night, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--engine", choices=["auto", "ray", "local"], default="auto")
    parser.add_argument("--text-keys", action="store_true", help="keys as user-0000000001 instead of int64")
    parser.add_argument("--sparse", action="store_true", help="three of four columns are zero in 15 of 16 rows")
    parser.add_argument("--folder", type=Path, help="where to make the project; by default the system's temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--png", type=Path, help="draw its stages beside those of night_before.json into a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="night-") as folder:
        project = make_project(Path(folder), options)
        set_rows(project, options.rows)
        found = run_night(project, options.engine)
    if options.png:
        before = json.loads((Path(__file__).parent / "night_before.json").read_text())
        report.draw_nights({before["name"]: before["seconds"], "now": found["seconds"]}, options.png)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{options.rows:,} rows x {options.columns}: {found['engine']}")
    print(f"{'stage':<12}{'s':>9}{'share':>8}{'rows/s':>14}")
    for stage in STAGES:
        seconds = found["seconds"][stage]
        rate = options.rows / seconds if seconds else 0
        print(f"{stage:<12}{seconds:>9.1f}{seconds / found['seconds']['total']:>8.0%}{rate:>14,.0f}")
    print(f"wall time {found['wall']:.1f} s; on the disk {found['disk_mb']:,.0f} MB, the release {found['release_mb']:,.0f}")
    most = ", ".join(f"{megabytes:,} in {stage}" for stage, megabytes in found["driver_mb"].items())
    print(f"memory, MB: process at work {most} (DuckDB may {MEMORY_LIMIT}); workers {found['workers_mb']}")


def set_rows(project: Path, rows: int) -> None:
    """From now on a day has so many rows."""
    duckdb.sql(f"SELECT {rows} AS count").write_parquet(str(project / "counts.parquet"))


def make_project(folder: Path, options: argparse.Namespace, **settings: Any) -> Path:
    """A project whose query makes the rows, with an approved model; `settings` are more of the pipeline's."""
    import numpy as np
    import torch

    from batch_assets import Binary, open_storage
    from batch_assets.histogram import Histogram
    from batch_assets.models.card import Card
    from batch_assets.models.registry import Registry
    from batch_assets.models.runtimes.pytorch.export import export_model
    from batch_assets.models.runtimes.torch_runtime import PT2
    from batch_assets.orchestration.catalog import pipeline

    defs = folder / "theirs" / "defs" / "night"
    defs.mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "theirs"\n')
    for package in (folder / "theirs", folder / "theirs" / "defs"):
        (package / "__init__.py").touch()
    names = [f"f{number:02d}" for number in range(options.columns)]
    hashes = [f"hash(n * {options.columns} + {number})" for number in range(options.columns)]
    values = ", ".join(
        f"(CASE WHEN {options.sparse and number % 4 > 0} AND {one} >> 60 > 0 THEN 0 "
        f"ELSE ({one} % 2000001)::FLOAT / 1000000 - 1 END)::FLOAT AS {name}"
        for number, (name, one) in enumerate(zip(names, hashes, strict=True))
    )
    key = "format('user-{:010d}', n)" if options.text_keys else "n"
    query = f"SELECT {key} AS user, {values} FROM (SELECT unnest(range(1, count + 1)) AS n FROM counts)"
    (defs / "features.sql").write_text(f"{query} WHERE $partition IS NOT NULL")
    attributes = {
        "name": "night",
        "partitions": {"start": "2024-03-01", "end": "2024-03-31"},
        "features": {
            "source": {
                "kind": "duckdb",
                "query": str(defs / "features.sql"),
                "tables": {"counts": str(folder / "counts.parquet")},
                "memory_limit": MEMORY_LIMIT,
            },
            "contract": {
                "key": {"name": "user", "dtype": "string" if options.text_keys else "int64"},
                "columns": [{"name": name} for name in names],
            },
        },
        "model": {"name": "night"},
        "answers": {"kind": "binary", "labels": ["no", "yes"]},
        **settings,
    }
    (defs / "defs.yaml").write_text(json.dumps({"type": "batch_assets.ScoringPipeline", "attributes": attributes}))
    os.environ |= {"BATCH_ASSETS_PROJECT": str(folder), "BATCH_ASSETS_ROOT": str(folder / "data")}
    os.environ.pop("DAGSTER_HOME", None)
    torch.manual_seed(0)
    linear = torch.nn.Linear
    layers = [linear(options.columns, 64), torch.nn.ReLU(), linear(64, 64), torch.nn.ReLU(), linear(64, 1)]
    model = export_model(torch.nn.Sequential(*layers).eval(), options.columns)
    edges = np.linspace(0.4, 0.6, 9).tolist()
    config = pipeline("night")
    card = Card(
        description="made up",
        model_sha256=hashlib.sha256(model).hexdigest(),
        runtime=PT2,
        contract=config.features.contract,
        head=Binary(returns="logits", labels=("no", "yes"), decile_edges=tuple(edges)),
        baseline_partition=DAY,
        baseline=Histogram.of(np.full(1, 0.5), edges),
        metrics={},
        training={},
    )
    registry = Registry(open_storage(str(folder / "data")))
    registry.register("night", "v1", card, model)
    registry.approve("night", config.model.alias, "v1", why="benchmark", by="the benchmark")
    return folder


def run_night(project: Path, engine: str, day: str = DAY) -> dict[str, Any]:
    """Run a day and watch its processes."""
    arguments = ["run", "night", "--partition", day, "--engine", engine, "--json"]
    program = [sys.executable, "-c", "from batch_assets.cli import main; main()", *arguments]
    started, driver, workers = time.perf_counter(), list[tuple[float, int]](), dict[int, int]()
    with (project / "answer").open("w") as answer:
        process = subprocess.Popen(program, cwd=project, stdout=answer)  # noqa: S603
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                for one in watched.children(recursive=True):
                    found = one.memory_info()
                    own = found.rss - found.shared
                    if one.ppid() == process.pid:
                        driver.append((time.perf_counter() - started, own))
                    elif "ray::" in one.name():
                        workers[one.pid] = max(workers.get(one.pid, 0), own)
            time.sleep(0.1)
    wall = time.perf_counter() - started
    said: dict[str, Any] = json.loads((project / "answer").read_text())
    sizes = {path: path.stat().st_size for path in (project / "data").rglob("*") if path.is_file()}
    release = sum(size for path, size in sizes.items() if "releases" in path.parts)
    return {
        **{name: said[name] for name in ("engine", "seconds", "scored_rows", "digest")},
        "wall": wall,
        "driver_mb": _most(driver, said["seconds"]),
        "workers_mb": [round(one / 1e6) for one in workers.values()],
        "release_mb": release / 1e6,
        "disk_mb": sum(sizes.values()) / 1e6,
    }


def _most(samples: list[tuple[float, int]], seconds: dict[str, float]) -> dict[str, int]:
    """The most MB in the first stages and in all that come after them, by when these ended, from bytes at some seconds."""
    found, begin = {}, 0.0
    for stage in ("start-up", "features", "scoring", "the rest"):
        end = begin + seconds.get(stage, float("inf"))
        found[stage] = round(max((own for when, own in samples if begin <= when < end), default=0) / 1e6)
        begin = end
    return found


if __name__ == "__main__":
    main()
