"""Several machines that share nothing but a bucket: how they are lost, and what a second one is worth.

    python benchmarks/nodes.py --kills 50 --cuts 20 [--rows 200000] [--seed 1]
    python benchmarks/nodes.py --executors 20
    python benchmarks/nodes.py --speed 5000000 [--rounds 3] [--share 0.6]

The machines are network namespaces of this one, each with an address, folders and a cache of its own (root and iproute2 are
needed); the bucket is a versitygw (`make servers`). `--kills` ends all processes of a machine of a Ray cluster at a random
moment of a run, `--cuts` takes one off the network, and puts every second one back while the run goes on; another one joins
each time. `--executors` kills an executor of a Spark cluster of two. The digest must be the undisturbed run's each time: exits
1 if it is not. `--speed` scores with one machine of one core, and with two: whole calls, with workers that are there already.
The bucket's server and the driver, which elsewhere are on machines of their own, have nothing of their own here if two machines
take both cores; with `--share` each machine has no more than that share of its core, and they have the rest.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from kills import Failed, Heard

sys.path.insert(0, str(Path(__file__).parent.parent))

from workload import DAY, Workload

from batch_assets_tests.servers.ray_nodes import Machine, RayNodes, ray_nodes

SMALL_CHUNKS, LARGE_CHUNKS = 2_048, 65_536
LIMIT_SECONDS = 300


def main() -> None:
    """Disturb runs, time them, or be one run's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cuts", type=int, default=0)
    parser.add_argument("--executors", type=int, default=0)
    parser.add_argument("--speed", type=int, default=0, metavar="ROWS")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of a core, for each machine that --speed times")
    parser.add_argument("--seed", type=int, default=1)
    for hidden in ("--run", "--root", "--data"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--chunk-rows", type=int, default=SMALL_CHUNKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        workload = Workload(Path(options.data), options.rows, options.root)
        print(json.dumps(_scored(workload, options.run, options.chunk_rows)))
        return
    same = True
    if options.kills or options.cuts:
        same &= _disturb(options)
    if options.executors:
        same &= _kill_executors(options)
    if options.speed:
        _time(options)
    sys.exit(0 if same else 1)


def _disturb(options: argparse.Namespace) -> bool:
    """Kill and cut off machines of a Ray cluster."""
    source = random.Random(options.seed)  # noqa: S311 - not for secrets
    with _cluster(options.rows) as (nodes, workload):
        living = [nodes.add(), nodes.add()]
        expected = _finished(_driver(nodes, workload))["digest"]
        print(f"undisturbed: {_chunks(workload)} chunks, digest {expected}", flush=True)
        outcomes: Counter[str] = Counter()
        for number, how in enumerate(["kill"] * options.kills + ["cut"] * options.cuts):
            workload.forget_runs()
            process, at = _driver(nodes, workload), source.randrange(_chunks(workload) * 3 // 4)
            _await(workload, process, at)
            victim = living.pop(source.randrange(len(living)))
            victim.kill() if how == "kill" else victim.cut()
            living.append(nodes.add())
            if how == "cut" and number % 2:
                how = "cut, put back"
                victim.mend()
            found = _finished(process)
            victim.remove()
            same = found["digest"] == expected and found["rows"] == workload.rows
            outcomes[f"{how}: {'equal' if same else 'DIFFERENT'}"] += 1
            print(
                f"{number + 1:>4} {how:<14} at {at:>3}, {found['workers_lost']} lost  {'equal' if same else found}", flush=True
            )
    print(json.dumps(dict(sorted(outcomes.items()))))
    return not any("DIFFERENT" in outcome for outcome in outcomes)


def _kill_executors(options: argparse.Namespace) -> bool:
    """Kill an executor of a Spark cluster of this machine in each run."""
    import pyspark

    source, equal = random.Random(options.seed), 0  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "spark")  # Spark keeps what executors write in its own folder
        home.mkdir()
        for name in ("bin", "jars"):
            (home / name).symlink_to(Path(pyspark.__file__).parent / name)
        environment = {**os.environ, "SPARK_HOME": str(home)}
        workload = Workload(Path(folder), options.rows)
        workload.freeze()
        workload.register()
        expected = _finished(_start(workload, "local", environment))["digest"]
        print(f"undisturbed: {_chunks(workload)} chunks, digest {expected}", flush=True)
        for number in range(options.executors):
            workload.forget_runs()
            process, at = _start(workload, "spark", environment), source.randrange(_chunks(workload) * 3 // 4)
            _await(workload, process, at)
            victims = _executors(process)
            if victims:
                source.choice(victims).kill()
            found = _finished(process)
            same = found["digest"] == expected and found["rows"] == workload.rows and bool(victims)
            equal += same
            print(f"{number + 1:>4} executor at {at:>3} {'equal' if same else found}", flush=True)
    print(json.dumps({"executors killed": options.executors, "equal": equal}))
    return equal == options.executors


def _time(options: argparse.Namespace) -> None:
    """Score with one machine of one core, and with two, in alternation."""
    with _cluster(options.speed) as (nodes, workload):
        first = _of_one_core(nodes, 0, options.share)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            second: Machine | None = None
            for machines in (1, 2):
                if machines == 2:
                    second = _of_one_core(nodes, 1, options.share)
                for warm in (False, True):
                    workload.forget_runs()
                    found = _finished(_driver(nodes, workload, LARGE_CHUNKS))
                    if warm:
                        seconds[machines].append(found["seconds"])
                        received = found["received"] / 1e6
                        said = f"{found['seconds']:.1f} s, {received:,.0f} MB over the network, {found['workers']} workers"
                        print(f"round {number + 1}, {machines} machine(s): {said}", flush=True)
            if second is not None:
                second.kill()
                second.remove()
        ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
        timed = {"rows": options.speed, "share": options.share, "seconds": seconds}
        print(json.dumps({**timed, "two : one": round(statistics.median(ratios), 3)}))
        first.kill()


def _of_one_core(nodes: RayNodes, core: int, share: float) -> Machine:
    machine = nodes.add(core=core)
    if share < 1:
        machine.share(share)
    return machine


@contextmanager
def _cluster(rows: int) -> Iterator[tuple[RayNodes, Workload]]:
    """A head, and a bucket with a workload in it."""
    with tempfile.TemporaryDirectory() as folder, ray_nodes() as (nodes, gateway):
        os.environ.update({**gateway.environment, "BATCH_ASSETS_CACHE": f"{folder}/copies"})
        workload = Workload(Path(folder), rows, gateway.new_bucket())
        workload.freeze()
        workload.register()
        yield nodes, workload


def _command(workload: Workload, engine: str, chunk_rows: int) -> list[str]:
    said = ["--run", engine, "--rows", str(workload.rows), "--data", str(workload.data), "--root", workload.root]
    return [sys.executable, __file__, *said, "--chunk-rows", str(chunk_rows)]


def _driver(nodes: RayNodes, workload: Workload, chunk_rows: int = SMALL_CHUNKS) -> "subprocess.Popen[str]":
    return nodes.driver(_command(workload, "ray", chunk_rows))


def _start(workload: Workload, engine: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
    command = _command(workload, engine, SMALL_CHUNKS)
    return subprocess.Popen(  # noqa: S603 - our own script
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def _chunks(workload: Workload) -> int:
    return -(-workload.rows // SMALL_CHUNKS)


def _await(workload: Workload, process: "subprocess.Popen[str]", chunks: int) -> None:
    """Until so many chunks are committed, or the run is over."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and workload.committed() < max(1, chunks):
        if time.monotonic() > deadline:
            raise Failed("The run makes no progress.")
        time.sleep(0.01)


def _finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=LIMIT_SECONDS)
    if process.returncode:
        raise Failed(f"A run ended with {process.returncode}:\n{stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return found


def _executors(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [one] if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in one.cmdline() else []
    return found


def _scored(workload: Workload, kind: str, chunk_rows: int) -> dict[str, object]:
    from batch_assets.engines.engine import Engine, EngineSettings
    from batch_assets.engines.local_engine import LocalEngine
    from batch_assets.engines.ray_engine import RayEngine
    from batch_assets.engines.spark_engine import SparkEngine
    from batch_assets.models.registry import Registry
    from batch_assets.nightly.night import Night
    from batch_assets.nightly.score import score

    config, storage, heard = workload.config, workload.storage, Heard()
    config = config.model_copy(update={"scoring": config.scoring.model_copy(update={"chunk_rows": chunk_rows})})
    night = Night.open(config, storage, DAY, Registry(storage).resolve(config.model))
    master = EngineSettings(kind="spark", master="local-cluster[2,1,1024]")
    engines: dict[str, Engine] = {"local": LocalEngine(), "spark": SparkEngine(master)}
    engine = engines.get(kind) or RayEngine(os.environ["RAY_ADDRESS"])
    try:
        scored = score(night, engine, heard)
    finally:
        if isinstance(engine, RayEngine | SparkEngine):
            engine.close()
    return {
        "digest": scored.manifest.values.hex(),
        "rows": scored.manifest.rows,
        "seconds": scored.seconds_now,
        "received": scored.manifest.work.received,
        "workers": scored.manifest.work.workers,
        "workers_lost": sum("was lost" in line for line in heard.said),
    }


if __name__ == "__main__":
    main()
