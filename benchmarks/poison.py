"""1,000 poison rows of six kinds scattered over a million: exactly those are dead-lettered, everything else is bit-equal.

    python benchmarks/poison.py [--rows 1000000] [--poison 1000] [--engine ray]

Scores the same night with and without the poison, compares every row, prints one JSON object; exits 1 if anything differs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from batch_assets.engines.engine import Engine
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets_tests.poison_night import compare


def main() -> None:
    """Run both nights and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--poison", type=int, default=1_000)
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    options = parser.parse_args()
    ray = RayEngine()
    engine: Engine = ray if options.engine == "ray" else LocalEngine()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = compare(Path(folder), options.rows, options.poison, 131_072, engine)
        finally:
            ray.close()
    print(json.dumps({**found, "engine": options.engine, "seconds": round(time.perf_counter() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
