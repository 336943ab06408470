"""Scores what waits in a file, as a program of its own: `python driver.py TASK SETTINGS`, the engine's settings as JSON."""

import json
import os
import pickle
import sys
from pathlib import Path

from batch_assets.digest import Digest
from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.engines.spark_engine import SparkEngine
from batch_assets.errors import BatchAssetsError
from batch_assets.scoring.scorer import Scorer


def main(path: str, said_of_engine: str) -> None:
    task, plan = pickle.loads(Path(path).read_bytes())
    said: list[str] = []

    def notice(message: str) -> None:
        said.append(message)
        Path(f"{path}.said").write_text("\n".join(said))

    settings = EngineSettings.model_validate_json(said_of_engine)
    engine = SparkEngine(settings) if settings.kind == "spark" else RayEngine(os.environ.get("RAY_ADDRESS"), settings)
    try:
        with engine.open(task, notice) as workers:
            commits = list(workers.map(Scorer.score, plan))
            times = workers.times()
        found = {
            "digest": sum((commit.values for commit in commits), Digest()).hex(),
            "chunks": len({commit.number for commit in commits}),
            "hosts": sorted({commit.written.host for commit in commits}),
            "received": times.received,
            "workers": times.workers,
        }
    except BatchAssetsError as error:
        found = {"error": str(error)}
    engine.close()
    print(json.dumps({**found, "said": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
