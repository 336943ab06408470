"""The look-up service beside an empty answer of the same server, at saturation and at a steady rate, in the same run.

    python benchmarks/serve.py [--rows 1000000] [--rounds 5] [--seconds 5] [--rate 1000] [--server granian] [--json]
    python benchmarks/serve.py --soak 3600 [--rate 500]

Made-up keys with records of 6 bytes in the Arrow store, one worker. wrk (one thread, 32 connections) asks as fast as it is
answered, in alternation for random keys (`GET /v1/benchmark/KEY`) and for the empty answer (`GET /healthz`); rates are medians.
Then vegeta asks for random keys at a steady rate, whatever is answered. `--server uvicorn` runs the same application on uvicorn
(httptools, uvloop), as it was chosen from. With `--soak`, vegeta asks for so many seconds while two releases go live in turn,
every 5 s; what the worker holds is compared between the first tenth and the end. wrk and vegeta must be on the PATH. Both run
on the same cores as the service. Not compared: other stores, networks, TLS, several workers.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "stores"))

from embedded_table import RECORD
from made_up import made_up, release_of

from batch_assets.config import PipelineConfig
from batch_assets.service.options import OPTIONS, ServiceOptions
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.serving.build import require_equal
from batch_assets.serving.live import go_live, roll_back
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage

NAME = "benchmark"
SWAP_SECONDS = 5
PROGRAMS = {
    "granian": "import os; from batch_assets.service.options import *; from batch_assets.service.server import serve; "
    "serve(ServiceOptions.model_validate_json(os.environ[OPTIONS]), print)",
    "uvicorn": "import os, uvicorn; from batch_assets.service.options import *; "
    "port = ServiceOptions.model_validate_json(os.environ[OPTIONS]).port; "
    "uvicorn.run('batch_assets.service.app:from_environment', factory=True, port=port, access_log=False, "
    "loop='uvloop', http='httptools')",
}


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=int)
    parser.add_argument("--server", choices=sorted(PROGRAMS), default="granian")
    parser.add_argument("--soak", type=int, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    missing = [name for name in ("wrk", "vegeta") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} must be on the PATH.")
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        releases = [published(storage, said.rows, f"2024-03-1{day}") for day in range(2 if said.soak else 1)]
        with serving(storage, said.server) as (port, worker):
            found = soaked(storage, releases, port, worker, said) if said.soak else measured(port, said, Path(folder))
    if said.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:<44}{value:>14,.2f}" if isinstance(value, float) else f"{name:<44}{value:>14}")


def config() -> PipelineConfig:
    """A pipeline of such keys; nobody runs it."""
    contract = {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": "x"}]}
    source = {"kind": "duckdb", "query": "none.sql", "tables": {"rows": "none.parquet"}}
    return PipelineConfig.model_validate(
        {
            "name": NAME,
            "partitions": {"start": "2024-01-01"},
            "features": {"source": source, "contract": contract},
            "model": {"name": NAME},
            "answers": {"kind": "binary", "labels": ["no", "yes"]},
        }
    )


def published(storage: LocalStorage, rows: int, day: str) -> Release:
    """A release that is live."""
    batches, store = made_up(rows, RECORD), ArrowStore.model_validate({})
    said = release_of(store, batches).model_copy(update={"pipeline": NAME, "partition": day, "name": f"{day}-0123456789abcdef"})
    release = said.model_copy(update={"built": store.build(storage, said, iter(batches))})
    require_equal(storage, release)
    storage.create(release.description, release.model_dump_json().encode())
    go_live(storage, [release], 1)
    return release


@contextmanager
def serving(storage: LocalStorage, server: str) -> Iterator[tuple[int, psutil.Process]]:
    """A service of one worker: its port, and that worker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ServiceOptions(root=storage.location, models=storage.location, pipelines=(config(),), port=port)
    environment = {**os.environ, OPTIONS: options.model_dump_json(), "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAMS[server]], env=environment, stdout=2)  # noqa: S603
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise SystemExit("the service has ended") from None
                time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [one for one in children if "resource_tracker" not in " ".join(one.cmdline())]
        yield port, workers[0] if workers else psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measured(port: int, said: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rates at saturation in alternation, and what answers take at a steady rate."""
    base, keys, empty = f"http://127.0.0.1:{port}", folder / "keys.lua", folder / "empty.lua"
    for script, path in ((keys, f"/v1/{NAME}/"), (empty, "/healthz?")):
        script.write_text(
            f'request = function() return wrk.format("GET", "{path}" .. 2 * math.random(0, {said.rows - 1})) end\n'
        )
    rates: dict[str, list[float]] = {"look-ups": [], "empty answers": []}
    for _ in range(said.rounds):
        rates["look-ups"].append(saturated(base, said.seconds, keys))
        rates["empty answers"].append(saturated(base, said.seconds, empty))
    look_ups, answers = (statistics.median(some) for some in rates.values())
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    rate = said.rate or 1_000
    results = folder / "results.bin"
    took = reported(attack(base, said.rows, rate, 10 * said.seconds, results), results)
    return {
        "server": said.server,
        "look-ups/s at saturation": look_ups,
        "empty answers/s at saturation": answers,
        "look-ups : empty answers, median of rounds": statistics.median(ratios),
        "look-ups : empty answers, least, most": f"{min(ratios):.2f}, {max(ratios):.2f}",
        **{f"at {rate:,}/s, {name}": value for name, value in took.items()},
    }


def saturated(url: str, seconds: int, script: Path) -> float:
    """Answers per second as fast as they come. Raises SystemExit if one is no success."""
    wrk = shutil.which("wrk") or ""
    said = subprocess.run(  # noqa: S603
        [wrk, "-t1", "-c32", f"-d{seconds}s", "-s", str(script), url], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    (line,) = [one for one in said.splitlines() if one.startswith("Requests/sec")]
    return float(line.split()[-1])


def attack(base: str, rows: int, rate: int, seconds: int, results: Path) -> "subprocess.Popen[bytes]":
    """vegeta, at a steady rate; its results are in a file."""
    targets = "".join(f"GET {base}/v1/{NAME}/{2 * random.randrange(rows)}\n" for _ in range(20_000))  # noqa: S311
    file = results.with_suffix(".targets")
    file.write_text(targets)
    vegeta = shutil.which("vegeta") or ""
    command = [vegeta, "attack", "-rate", str(rate), "-duration", f"{seconds}s", "-targets", str(file)]
    return subprocess.Popen([*command, "-output", str(results)])  # noqa: S603


def reported(process: "subprocess.Popen[bytes]", results: Path) -> dict[str, Any]:
    """What answers took at a steady rate, in ms. Raises SystemExit if one is no success."""
    process.wait()
    vegeta = shutil.which("vegeta") or ""
    said = subprocess.run(  # noqa: S603
        [vegeta, "report", "-type", "json", str(results)], capture_output=True, check=True
    ).stdout
    found = json.loads(said)
    if found["success"] != 1:
        raise SystemExit(f"not every answer was a success: {found['status_codes']} {found['errors']}")
    latencies = {name: found["latencies"][name] / 1e6 for name in ("50th", "99th", "max")}
    return {"answers": found["requests"], **{f"{name} ms": value for name, value in latencies.items()}}


def soaked(
    storage: LocalStorage, releases: list[Release], port: int, worker: psutil.Process, said: argparse.Namespace
) -> dict[str, Any]:
    """What the worker holds while releases go live in turn under a steady rate of look-ups."""
    results = Path(storage.location, "results.bin")
    process = attack(f"http://127.0.0.1:{port}", said.rows, said.rate or 500, said.soak, results)
    held, swaps, began = list[tuple[int, int]](), 0, time.monotonic()
    while time.monotonic() - began < said.soak - 1:
        time.sleep(SWAP_SECONDS)
        roll_back(storage, NAME, "soak", releases[swaps % 2].name, ())
        swaps += 1
        held.append((worker.memory_info().rss >> 20, worker.num_fds()))
    tenth = held[: max(len(held) // 10, 1)]
    return {
        **reported(process, results),
        "swaps": swaps,
        "MB held at most, first tenth": max(one[0] for one in tenth),
        "MB held at most, in all": max(one[0] for one in held),
        "files open at most, first tenth": max(one[1] for one in tenth),
        "files open at most, in all": max(one[1] for one in held),
    }


if __name__ == "__main__":
    main()
