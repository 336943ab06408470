"""What Ray workers that stay between runs are worth: days scored one after the other, with workers that stay and with new ones.

    python benchmarks/staying_workers.py [--days 8] [--rounds 3]

The demo's last days are frozen once, then scored with `keep_seconds: 300` and with `keep_seconds: 0`, in turns, each on a
local Ray of its own that is started before the clock. Seconds are those of a day's scoring, medians of all days but the first
of a round. Not compared: GPUs, where a worker also loads CUDA and moves the model; clusters, where Ray starts a process on
another host.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

from real_days import Silent

from batch_assets.demo import train as training
from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.orchestration.catalog import pipeline
from batch_assets.storage import open_storage

LAST = date(1998, 6, 30)


def main() -> None:
    """Freeze, score in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    days = [(LAST - timedelta(days=n)).isoformat() for n in reversed(range(options.days))]
    silent, seconds = Silent(), dict[float, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        config, storage = pipeline(training.PIPELINE), open_storage(folder)
        registry = Registry(storage)
        model = training.train(config, registry, silent)
        registry.approve(model.name, config.model.alias, model.version, why="benchmark", by="benchmark", after=0)
        for day in days:
            freeze(config, storage, day, silent)
        for _ in range(options.rounds):
            for keep in (300.0, 0.0):
                engine = RayEngine(settings=EngineSettings(keep_seconds=keep))
                engine.connect()
                shutil.rmtree(Path(folder, config.name, "predictions"), ignore_errors=True)
                for number, day in enumerate(days):
                    started = time.perf_counter()
                    score(Night.open(config, storage, day, registry.resolve(config.model)), engine, silent)
                    if number:
                        seconds.setdefault(keep, []).append(time.perf_counter() - started)
                engine.close()
    stayed, anew = (statistics.median(seconds[keep]) for keep in (300.0, 0.0))
    print(f"a day's scoring after the first: {stayed:.2f} s with workers that stay, {anew:.2f} s with new ones")


if __name__ == "__main__":
    main()
