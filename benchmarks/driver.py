"""The driver whose memory `control_plane.py --driver-memory` samples: it finishes a day with one worker of Ray.

    python benchmarks/driver.py FOLDER DAY

It is a process without a model's library, as a driver is whose workers are elsewhere.
"""

import sys
from contextlib import closing
from pathlib import Path

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineSettings
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import Scored, score
from batch_assets.storage import open_storage


class Quiet:
    """Progress that nobody looks at."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Show nothing."""


def finish(folder: Path, day: str) -> Scored:
    """Finish the day that lies in a folder, beside the configuration of its pipeline."""
    config = PipelineConfig.model_validate_json((folder / "config.json").read_text())
    storage = open_storage(str(folder / "root"))
    night = Night.open(config, storage, day, Registry(storage).resolve(config.model))
    with closing(RayEngine(settings=EngineSettings(workers=1))) as engine:
        return score(night, engine, Quiet())


if __name__ == "__main__":
    done = finish(Path(sys.argv[1]), sys.argv[2])
    print(f"{len(done.manifest.files):,} chunks, {done.resumed_chunks:,} of them resumed", file=sys.stderr)
