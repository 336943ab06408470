"""Scores what waits in a file on the Ray that RAY_ADDRESS names: `python node_driver.py TASK`, as a program on a node does."""

import json
import os
import pickle
import sys
from pathlib import Path

from batch_assets.digest import Digest
from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.errors import BatchAssetsError
from batch_assets.scoring.scorer import Scorer


def main(path: str) -> None:
    task, plan = pickle.loads(Path(path).read_bytes())
    said: list[str] = []
    engine = RayEngine(os.environ["RAY_ADDRESS"], EngineSettings(keep_seconds=0))
    try:
        with engine.open(task, said.append) as workers:
            commits = list(workers.map(Scorer.score, plan))
            times = workers.times()
        found = {
            "digest": sum((commit.values for commit in commits), Digest()).hex(),
            "chunks": len({commit.number for commit in commits}),
            "hosts": sorted({commit.written.host for commit in commits}),
            "received": times.received,
        }
    except BatchAssetsError as error:
        found = {"error": str(error)}
    engine.close()
    print(json.dumps({**found, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1])
