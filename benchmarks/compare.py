"""Batch inference side by side: batch-assets, Daft, Ray Data, Spark, one `ray.get` per batch, and what the hardware could do.

    python benchmarks/compare.py [--rows 5000000] [--rounds 3] [--subjects ours,daft] [--json] [--png FILE]
    python benchmarks/compare.py --stages --proof --memory --resume

Every subject runs in a fresh process and is timed from its start to its end, start-up included, on the same snapshot files
from the page cache, at N and at N/5 rows in alternating rounds. Steady is (t(N) - t(N/5)) over the 4N/5 rows between, from the
medians; where others use the machine meanwhile (`load_before` says whether they did), it is noise, and can be negative. After
each run its predictions are counted and then removed; subjects that disagree are an error. `--stages`, `--proof`, `--memory`
and `--resume` measure only that unless `--subjects` is given too. Daft's packages are put into the data folder at first,
because it asks for another pyarrow. Not compared: GPUs, clusters, object stores.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import experiments
import packages
import psutil
import report
from bench import Bench
from subjects import PIPELINES, SUBJECTS, Job, Settings
from workload import Workload


def main() -> None:
    """Measure what the command line asks for, or be one subject's process."""
    options = _options()
    settings = Settings(**{one.name: getattr(options, one.name) for one in fields(Settings)})
    if options.subject:
        workload = Workload(options.data, options.rows)
        job = Job(workload, options.limit or options.rows, options.output, settings, options.checkpoint)
        print(json.dumps(SUBJECTS[options.subject](job)))
        return
    found = _measure(options, Bench(options.data, settings))
    if options.png:
        report.draw(found, options.png)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        report.print_table(found)


def _measure(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": options.rows, "rounds": options.rounds, "machine": _machine()}
    only = options.stages or options.proof or options.memory or options.resume
    chosen = options.subjects or ([] if only else [*PIPELINES, "forward_only"])
    found |= bench.compare([name for name in chosen if name in PIPELINES], options.rows, options.rounds)
    if "forward_only" in chosen:
        found["forward_only"] = bench.calculated("forward_only", options.rows, limit=min(options.rows, 1_000_000))
    if options.stages:
        found["stages"] = bench.calculated("stages", options.rows)
    if options.proof:
        found["proof"] = bench.calculated("ours_proof", options.rows)
    if options.memory:
        found["memory"] = experiments.memory(bench, options.memory_rows)
    if options.resume:
        found["resume"] = experiments.resume(bench, options.rows)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BATCH_ASSETS_BENCH") or Path(tempfile.gettempdir(), "batch-assets-bench")
    add = parser.add_argument
    add("--rows", type=int, default=5_000_000)
    add("--rounds", type=int, default=3)
    add("--subjects", type=_subjects, help=f"some of {', '.join(PIPELINES)}, forward_only; by default all")
    add("--stages", action="store_true", help="each stage of scoring alone")
    add("--proof", action="store_true", help="what hashing, counting, rereading and the audit cost")
    add("--memory", action="store_true", help="peak memory of batch-assets at 2M and 20M rows")
    add("--memory-rows", type=int, nargs=2, default=(2_000_000, 20_000_000), help="other sizes for --memory")
    add("--resume", action="store_true", help="killed when all but the last percent is written, then run again")
    add("--data", type=lambda text: Path(text).absolute(), default=Path(default).absolute(), help="folder of the workloads")
    add("--json", action="store_true", help="print one JSON object")
    add("--png", type=Path, help="draw the steady rates into a file")
    for one in fields(Settings):
        add(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    for internal in ("--subject", "--output", "--checkpoint", "--limit"):
        kind = {"--subject": str, "--limit": int}.get(internal, Path)
        add(internal, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def _subjects(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - {*PIPELINES, "forward_only"}
    if unknown:
        raise argparse.ArgumentTypeError(f"no such subject: {', '.join(sorted(unknown))}")
    return names


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **_versions(("batch-assets", "ray", "torch", "pyarrow", "numpy", "pyspark")),
        "packages": packages.OWN,
    }


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    main()
