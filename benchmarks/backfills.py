"""What a day of a backfill costs: in one process, and by the daemon beside three assets that do nothing.

    python benchmarks/backfills.py [--days 30]

The demo's last days are scored from nothing, in folders of their own: by `batch-assets run --from --to`, and by a backfill
launched through GraphQL beside `batch-assets ui`. Three empty assets with the same partitions and instance settings are
backfilled by a daemon of their own. One day's snapshot is damaged before each of ours: it must fail alone. Nothing is compared
with other systems.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LAST = date(1998, 6, 30)

EMPTY = """
import dagster as dg

days = dg.DailyPartitionsDefinition(start_date="1997-01-01", end_date="1998-07-01")

@dg.asset(partitions_def=days)
def first() -> None: ...

@dg.asset(partitions_def=days, deps=[first])
def second() -> None: ...

@dg.asset(partitions_def=days, deps=[second])
def third() -> None: ...

defs = dg.Definitions([first, second, third], executor=dg.in_process_executor)
"""


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it, and so would children
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--only", choices=["run", "empty", "ui"])
    options = parser.parse_args()
    days = [(LAST - timedelta(days=n)).isoformat() for n in reversed(range(options.days))]
    bad = days[len(days) // 2]
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        if options.only in (None, "run"):
            _in_one_process(_root(top / "run"), days, bad)
        if options.only in (None, "empty"):
            print(f"empty backfill by the daemon: {_empty(_root(top / 'empty'), days):.2f} s a day", flush=True)
        if options.only in (None, "ui"):
            print(f"our backfill by the daemon: {_by_daemon(_root(top / 'ui'), days, bad):.2f} s a day", flush=True)


def _root(folder: Path) -> dict[str, str]:
    """A storage root and a Dagster home of their own."""
    (folder / "home").mkdir(parents=True)
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", folder / "home")
    return {**os.environ, "BATCH_ASSETS_ROOT": str(folder / "data"), "DAGSTER_HOME": str(folder / "home")}


def _begun(environment: dict[str, str], bad: str) -> None:
    """The demo's model is there, and one day's frozen features are damaged."""
    subprocess.run([BIN / "batch-assets", "demo", "--train", "v1"], env=environment, check=True, capture_output=True)
    approve = ["models", "approve", "customer_propensity", "v1", "--why", "benchmark", "--by", "benchmark"]
    subprocess.run([BIN / "batch-assets", *approve], env=environment, check=True, capture_output=True)
    freeze = [
        "import os",
        "from batch_assets.orchestration.catalog import pipeline",
        "from batch_assets.nightly.freeze import freeze",
        "from batch_assets.storage import open_storage",
        "from batch_assets.cli.terminal import TerminalProgress",
        "storage = open_storage(os.environ['BATCH_ASSETS_ROOT'])",
        f"frozen = freeze(pipeline('customer_propensity'), storage, {bad!r}, TerminalProgress())",
        "path = storage.local_path(f'{frozen.folder}/part-00000.parquet')",
        "data = bytearray(path.read_bytes()); data[len(data) // 2] ^= 255; path.write_bytes(data)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(freeze)], env=environment, check=True, capture_output=True)


def _in_one_process(environment: dict[str, str], days: list[str], bad: str) -> None:
    _begun(environment, bad)
    started = time.perf_counter()
    program = [BIN / "batch-assets", "run", "customer_propensity", "--from", days[0], "--to", days[-1], "--json"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    found = json.loads(done.stdout)
    seconds = [day["seconds"] for day in found["days"] if day["seconds"]]
    failed = [day["partition"] for day in found["days"] if day["error"]]
    print(f"run --from --to: exit {done.returncode}, {len(seconds)} published, failed {failed} (damaged: {bad})")
    later = seconds[1:]
    print(f"  first day {seconds[0]:.2f} s, each later one {sum(later) / len(later):.2f} s (at most {max(later):.2f} s)")
    print(f"  {wall:.1f} s in all; live is {found['live_release']}", flush=True)


def _empty(environment: dict[str, str], days: list[str]) -> float:
    folder = Path(environment["DAGSTER_HOME"]).parent
    (folder / "empty.py").write_text(EMPTY)
    port = _free_port()
    program = [BIN / "dagster", "dev", "-f", "empty.py", "-h", "127.0.0.1", "-p", str(port)]
    with _running(program, environment, folder, port):
        seconds, succeeded = _backfill(port, [["first"], ["second"], ["third"]], days)
    if succeeded != len(days):
        raise SystemExit(f"only {succeeded} of {len(days)} empty runs succeeded")
    return seconds / len(days)


def _by_daemon(environment: dict[str, str], days: list[str], bad: str) -> float:
    _begun(environment, bad)
    port = _free_port()
    with _running([BIN / "batch-assets", "ui", "--port", str(port)], environment, PROJECT, port):
        names = [["customer_propensity", name] for name in ("user_features", "predictions", "serving_table")]
        seconds, succeeded = _backfill(port, names, days)
    if succeeded != len(days) - 1:
        print(succeeded)
        raise SystemExit(Path(environment["DAGSTER_HOME"], "../log.txt").read_text()[:60_000])
    print(f"backfill by the daemon: {succeeded} of {len(days)} days succeeded (damaged: {bad})")
    log = Path(environment["BATCH_ASSETS_ROOT"]) / "customer_propensity" / "serving" / "_current"
    print(f"  live is {json.loads(sorted(log.glob('*.json'))[-1].read_text())['body']['release']}")
    return seconds / len(days)


@contextmanager
def _running(program: list[Any], environment: dict[str, str], folder: Path, port: int) -> Iterator[None]:
    with (Path(environment["DAGSTER_HOME"]).parent / "log.txt").open("w") as log:
        process = subprocess.Popen(program, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{program[0]} did not come up; see {log.name}")
                time.sleep(0.2)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _backfill(port: int, names: list[list[str]], days: list[str]) -> tuple[float, int]:
    """Launch a backfill; returns the seconds until its last run was over, and how many runs succeeded."""
    launch = """mutation($keys: [AssetKeyInput!]!, $days: [String!]!) {
      launchPartitionBackfill(backfillParams: {assetSelection: $keys, partitionNames: $days}) {
        ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    started = time.time()
    answer = _ask(port, launch, {"keys": [{"path": name} for name in names], "days": days})
    backfill = answer["launchPartitionBackfill"]["backfillId"]
    query = """query($tag: [ExecutionTag!]!) { runsOrError(filter: {tags: $tag}) {
        ... on Runs { results { status endTime tags { key value } } } } }"""
    while True:
        tag = [{"key": "dagster/backfill", "value": backfill}]
        runs = _ask(port, query, {"tag": tag})["runsOrError"]["results"]
        over = [run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]
        if len(over) == len(days):
            return max(run["endTime"] for run in over) - started, sum(run["status"] == "SUCCESS" for run in over)
        time.sleep(0.5)


def _ask(port: int, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    if "errors" in answer:
        raise SystemExit(str(answer["errors"]))
    data: dict[str, Any] = answer["data"]
    return data


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
