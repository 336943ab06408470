"""What scoring will take, before it begins: minutes and cost by what the last accepted runs took, memory by the largest chunk.

Of a stage under way `throughput` says more, and needs no library; the SLA in `orchestration` goes by that once it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from batch_assets.features.snapshot import days_of
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.night import Night
from batch_assets.quality.statistics import Interval
from batch_assets.runs.manifest import latest_manifest
from batch_assets.storage import Storage

_LAST_RUNS = 3
"""From how many runs before the throughput is taken."""


@dataclass(frozen=True)
class Took:
    """What says how fast nights are: so many rows were scored in so many seconds."""

    rows: int
    seconds: float

    def seconds_for(self, rows: int) -> float:
        """How long other rows take at this throughput."""
        return rows * self.seconds / self.rows


def last_runs(storage: Storage, pipeline: str) -> list[Took]:
    """The newest accepted runs that scored something, newest first."""
    found: list[Took] = []
    for day in reversed(days_of(storage, pipeline)):
        accepted = accepted_run(storage, pipeline, day, ())
        manifest = latest_manifest(storage, accepted.folder) if accepted else None
        if manifest is not None and manifest.scored_here:
            found.append(Took(manifest.scored_here, manifest.wall_seconds))
        if len(found) == _LAST_RUNS:
            break
    return found


def minutes(rows: int, runs: Sequence[Took]) -> float | None:
    """How long rows of many days take, at the throughput of some runs together; None if there are none."""
    together = Took(sum(one.rows for one in runs), sum(one.seconds for one in runs))
    return together.seconds_for(rows) / 60 if runs else None


def minutes_between(rows: int, runs: Sequence[Took], slower: float = 1.0) -> Interval | None:
    """How long the rows of a night take: from the fastest to the slowest of some runs, that one `slower` by a factor."""
    seconds = [one.seconds_for(rows) for one in runs]
    if not seconds:
        return None
    return Interval(value=sum(seconds) / len(seconds) / 60, low=min(seconds) / 60, high=max(seconds) * slower / 60)


def memory(night: Night) -> Interval:
    """Bytes of this process with the model in it, and with the largest chunk as table and matrix beside it, read ahead once."""
    now = float(psutil.Process().memory_info().rss)
    width = 4 * (len(night.model.card.contract.columns) + 2)
    chunk = float(max((one.rows for one in night.plan), default=0) * width)
    return Interval(value=now + 2 * chunk, low=now, high=now + 4 * chunk)
