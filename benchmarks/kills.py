"""Runs killed at random moments, each resumed: the digest of every one must be the undisturbed run's.

    python benchmarks/kills.py [--kills 100] [--seed 1] [--rows 500000] [--bucket 0.02]

Victims in turn: a worker (the run must go on by itself), the driver alone, the driver with all its processes, and a node of a
two-node cluster (the run must go on by itself). A kill comes when a random number of chunks is committed, and a random moment
later. With `--bucket` the root is in a bucket of a versitygw of its own (`make servers`), behind a proxy that tells 503, drops
an answer after the request was carried out, sends half of one, or waits, for that share of all requests of a run. Prints one
line a kill and a summary; exits 1 if any digest differs or a run that should survive does not. Everything
runs on this machine; a run that takes longer than three minutes is an error.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import DAY, Workload

CHUNK_ROWS = 8_192
VICTIMS = ("worker", "driver", "everything", "node")
LIMIT_SECONDS = 180


class Failed(Exception):
    """A run did not end as it must."""


def main() -> None:
    """Kill and resume, or be one run's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--bucket", type=float, metavar="SHARE")
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    parser.add_argument("--run", choices=["local", "ray", "node"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(_run(Workload(options.data, options.rows, options.root), options.run, options.at)))
        return
    seeded = random.Random(options.seed)  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        workload, environment = Workload(Path(folder), options.rows), dict[str, str]()
        if options.bucket is not None:
            from batch_assets_tests.servers import S3Gateway
            from batch_assets_tests.servers.faulty_proxy import FaultyProxy

            gateway = servers.enter_context(S3Gateway())
            proxy = servers.enter_context(FaultyProxy(gateway.url, options.bucket, options.seed))
            os.environ.update(gateway.environment)
            workload = Workload(Path(folder), options.rows, gateway.new_bucket())
            environment = {"AWS_ENDPOINT_URL": proxy.url, "BATCH_ASSETS_CACHE": f"{folder}/copies"}
        _kill(workload, options.kills, seeded, environment)


def _kill(workload: Workload, kills: int, source: random.Random, environment: dict[str, str]) -> None:
    workload.freeze()
    workload.register()
    chunks = -(-workload.rows // CHUNK_ROWS)
    expected = _finish(_start(workload, "ray", environment))["digest"]
    print(f"undisturbed: {chunks} chunks, digest {expected}", flush=True)
    outcomes: Counter[str] = Counter()
    for number in range(kills):
        workload.forget_runs()
        victim, at, later = VICTIMS[number % len(VICTIMS)], source.randrange(chunks), source.random() * 0.03
        engine = "node" if victim == "node" else "local" if victim == "driver" and number % 8 == 1 else "ray"
        process = _start(workload, engine, environment, at)
        said = ""
        if victim != "node":
            said = _strike(workload, process, victim, at, later, source)
        if victim in ("worker", "node"):
            found = _finish(process)
        else:
            _end(process)
            committed = workload.committed()
            found = _finish(_start(workload, "local" if engine == "local" else "ray", environment))
            late = found["resumed_chunks"] - committed  # puts of the dead may still be on their way to a bucket
            if late and not (late > 0 and environment):
                raise Failed(f"{found['resumed_chunks']} chunks were resumed, {committed} were committed.")
        same = found["digest"] == expected and found["rows"] == workload.rows
        outcomes[f"{victim}, {'equal' if same else 'DIFFERENT'}"] += 1
        how = f"at {at:>3} of {chunks}" if victim in ("worker", "node") else f"resumed {found['resumed_chunks']:>3} of {chunks}"
        lost = f", {found['workers_lost']} workers lost" if victim in ("worker", "node") else ""
        print(f"{number + 1:>4} {victim:<10} {engine:<5} {how}{lost} {said} {'equal' if same else found}", flush=True)
    print(json.dumps({"kills": kills, **dict(sorted(outcomes.items()))}))
    if any("DIFFERENT" in outcome for outcome in outcomes):
        sys.exit(1)


def _start(workload: Workload, engine: str, environment: dict[str, str], at: int = 0) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        __file__,
        "--run",
        engine,
        "--rows",
        str(workload.rows),
        "--data",
        str(workload.data),
        "--at",
        str(at),
        *(["--root", workload.root] if workload.root else []),
    ]
    said = {**os.environ, **environment}
    return subprocess.Popen(  # noqa: S603 - our own script
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=said
    )


def _finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        _end(process)
        raise Failed(f"A run took longer than {LIMIT_SECONDS} s.") from None
    if process.returncode:
        raise Failed(f"A run ended with {process.returncode}:\n{stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return found


def _strike(
    workload: Workload, process: "subprocess.Popen[str]", victim: str, at: int, later: float, source: random.Random
) -> str:
    """Kill when so many chunks are committed, and a moment later; or when the run is over."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and workload.committed() < at:
        if time.monotonic() > deadline:
            raise Failed("The run makes no progress.")
        time.sleep(0.002)
    time.sleep(later)
    if victim == "worker":
        workers = [one for one in _tree(process) if "ray::Worker" in " ".join(_command(one))]
        if not workers:
            return "(no worker was there)"
        with suppress(psutil.NoSuchProcess):
            source.choice(workers).kill()
    elif victim == "driver":
        process.kill()
    else:
        _end(process)
    return ""


def _end(process: "subprocess.Popen[str]") -> None:
    """SIGKILL a run and every process that it started, and wait until they are gone."""
    family = [*_tree(process), *_session(process.pid)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def _tree(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(leader: int) -> list[psutil.Process]:
    """Processes that a driver which is dead already has left in its session."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(one.pid) == leader:
                found.append(one)
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _run(workload: Workload, engine: str, at: int) -> dict[str, object]:
    from batch_assets.engines.local_engine import LocalEngine
    from batch_assets.engines.ray_engine import RayEngine
    from batch_assets.models.registry import Registry
    from batch_assets.nightly.night import Night
    from batch_assets.nightly.score import score

    config, storage = workload.config, workload.storage
    config = config.model_copy(update={"scoring": config.scoring.model_copy(update={"chunk_rows": CHUNK_ROWS})})
    model = Registry(storage).resolve(config.model)
    ray, heard = RayEngine(), Heard()
    close = _lose_a_node(workload, at) if engine == "node" else ray.close
    try:
        night = Night.open(config, storage, DAY, model)
        scored = score(night, LocalEngine() if engine == "local" else ray, heard)
    finally:
        close()
    return {
        "digest": scored.manifest.values.hex(),
        "rows": scored.manifest.rows,
        "resumed_chunks": scored.resumed_chunks,
        "workers_lost": sum("was lost" in line for line in heard.said),
    }


class Heard:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        """One line."""
        self.said.append(message)

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Nobody looks."""


def _lose_a_node(workload: Workload, at: int):  # type: ignore[no-untyped-def]
    """A cluster of two nodes with a worker each; one is killed when so many chunks are committed, another one joins."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    over = threading.Event()

    def lose() -> None:
        while workload.committed() < at and not over.is_set():
            time.sleep(0.002)
        if not over.is_set():
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1)

    thread = threading.Thread(target=lose)
    thread.start()

    def close() -> None:
        over.set()
        thread.join()
        ray.shutdown()
        cluster.shutdown()

    return close


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
