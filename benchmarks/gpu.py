"""Checks and measures on one GPU what this project does on GPUs; some minutes. NOT YET RUN ON A GPU.

    python benchmarks/gpu.py [--json FILE] [--wheels FOLDER] [--only TEXT …]
    python benchmarks/gpu.py --device cpu --quick      # tries the kit itself; says nothing about a GPU

It needs torch 2.11 or newer, numpy, pydantic and pyarrow, and neither Dagster nor Ray: the scorer's own rooms do the work. What
is missing can be carried along: FOLDER holds wheels, or folders into which they were unpacked. A check passes or fails, a
measurement is `measured`, and what could not be looked at is `not run`. The exit status is 1 if a check failed, 2 if there is
no GPU, else 0.
"""

import argparse
import gc
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_checks import Bench, Check

HEADINGS = ("check", "expected", "seen", "result", "seconds")
WIDEST = 110
"""Characters of a cell; the JSON has all."""

OF_A_CPU = "These are results of a CPU: they say nothing about a GPU."


def main() -> int:
    """Run the checks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the same is written as JSON, after every check")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels, or unpacked ones, of what is not installed")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="checks in whose name one of these stands")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
        sys.path += _unpacked(options.wheels, Path(folder, "wheels")) if options.wheels else []
        import torch

        if options.device == "cuda" and not torch.cuda.is_available():
            print("There is no GPU here that torch can use, so nothing was checked.")
            return 2
        from gpu_checks import CHECKS, Bench

        bench = Bench(options.device, Path(folder), options.quick)
        report: dict[str, Any] = {"machine": _machine(options.device), "checks": []}
        if options.device == "cpu":
            report["note"] = OF_A_CPU
        try:
            for check in (one for one in CHECKS if any(text in one.name for text in options.only)):
                print(f"{check.name} …", file=sys.stderr, flush=True)
                report["checks"].append(_line(check, bench))
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
        finally:
            _print(report)
    return int(any(line["result"] == "fail" for line in report["checks"]))


def _unpacked(wheels: Path, folder: Path) -> list[str]:
    """Folders to be imported from: those in a folder, and one with all of its wheels."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return [str(folder), *(str(one.resolve()) for one in wheels.iterdir() if one.is_dir())]


def _line(check: "Check", bench: "Bench") -> dict[str, Any]:
    """A check's line of the table: `fail` with what was seen or raised, where it is not as expected."""
    import torch
    from gpu_checks import Wrong

    from batch_assets.errors import BatchAssetsError

    reason = check.not_run or ("only of a GPU" if check.cuda_only and bench.device == "cpu" else "")
    started, result = time.perf_counter(), "pass" if check.expected else "measured"
    if check.run is None or reason:
        result, seen = "not run", reason
    else:
        try:
            seen = check.run(bench)
        except (Wrong, BatchAssetsError, RuntimeError, MemoryError) as error:
            result, seen = "fail", " ".join(f"{type(error).__name__}: {error}".removeprefix("Wrong: ").split())[:300]
        gc.collect()
        if bench.device == "cuda" and result != "fail":
            torch.cuda.empty_cache()  # the next check may start a process that needs the memory
    return dict(zip(HEADINGS, (check.name, check.expected, seen, result, time.perf_counter() - started), strict=True))


def _machine(device: str) -> dict[str, Any]:
    import torch

    found = {"device": device, "python": platform.python_version(), "torch": str(torch.__version__)}
    if device == "cpu":
        return {**found, "processor": torch.backends.cpu.get_cpu_capability()}
    about = torch.cuda.get_device_properties(0)
    gpu = {"gpu": about.name, "capability": f"{about.major}.{about.minor}", "memory": about.total_memory}
    return {**found, **gpu, "driver": _driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def _driver() -> str:
    """The version of the GPU's driver, as its own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"  # noqa: S603


def _print(report: dict[str, Any]) -> None:
    lines = [[*HEADINGS], *([*list(one.values())[:-1], f"{one['seconds']:.1f}"] for one in report["checks"])]
    lines = [[cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…" for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    if "note" in report:
        print(report["note"])
    for line in lines:
        *cells, seconds = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([*cells, seconds.strip().rjust(widths[-1])]))


if __name__ == "__main__":
    sys.exit(main())
