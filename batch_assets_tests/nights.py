"""A few published nights of a small pipeline, and what is left of them after some were pruned."""

from pathlib import Path
from typing import Any

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import Published
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import Verdict
from batch_assets.operations.prune import Pruned, prune
from batch_assets.serving.reader import Reader
from batch_assets.storage import Storage
from batch_assets_tests.small import Small

DAYS = ["2024-03-06", "2024-03-07", "2024-03-08", "2024-03-09"]
SETTINGS = {"quality": {"drift": {"trailing_days": 2}, "changes": {"compare_days": 2}}, "retention": {"keep_days": 2}}


def judged(small: Small, day: str) -> Verdict:
    freeze(small.config, small.storage, day, small.progress)
    score(small.opened(day), LocalEngine(1), small.progress)
    return judge(small.opened(day))


def night(small: Small, day: str) -> Published:
    return small.night(day)


def pruned(small: Small, *, dry_run: bool = False, storage: Storage | None = None, progress: Any = None) -> Pruned:
    return prune(small.config, storage or small.storage, None, dry_run, progress or small.progress)


def probability(storage: Storage, key: int) -> float:
    """What readers are told."""
    reader = Reader.open("small", storage)
    try:
        return float(reader.lookup(key).record["probability"])
    finally:
        reader.close()


def files(root: Path | str) -> dict[str, int]:
    """Every file and its size; what is being written or thrown away is not counted."""
    found = {path.relative_to(root): path for path in Path(root).rglob("*") if path.is_file()}
    return {str(name): path.stat().st_size for name, path in found.items() if name.parts[0] != "_tmp"}


def folders(root: Path | str) -> dict[str, set[str]]:
    """The days of which there are releases, runs and snapshots."""
    top = Path(root, "small")
    return {
        "releases": {path.name[:10] for path in top.glob("serving/releases/*")},
        "runs": {path.parent.name.removeprefix("date=") for path in top.glob("predictions/*/run=*")},
        "snapshots": {path.parent.name.removeprefix("date=") for path in top.glob("user_features/*/snapshot=*")},
    }
