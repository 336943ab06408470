"""The commits of a run as they come: what they add up to, and of each only what is asked for until the run is finished.

A great day has thousands of chunks, and a footer says a lot: a histogram, an environment, seconds by stage. What is a sum in
the manifest is added up here, so that whoever finishes a run holds some hundred bytes a chunk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import override

from batch_assets.digest import Digest
from batch_assets.histogram import Histogram
from batch_assets.records import RecordType
from batch_assets.runs.commit import ChunkCommit, RejectsFile


@dataclass(frozen=True, slots=True)
class Committed:
    """What is kept of a chunk's commit, as its footer says it; those of one environment share it."""

    rows: int
    scored: int
    keys: Digest
    values: Digest
    rejects: RejectsFile | None
    batch_rows: int
    environment: dict[str, str]


class Commits(Mapping[int, Committed]):
    """The commits of a run by the number of their chunk, and the sums of what their footers say; `digest` is of the values.

    Args:
        edges: of the histograms.
        record: what is said of each row.
    """

    def __init__(self, edges: Sequence[float], record: RecordType) -> None:
        self.rows = self.scored = self.excluded = self.dead_lettered = 0
        self.digest, self.histogram = Digest(), Histogram.empty(edges)
        self.labels: tuple[int, ...] = (0,) * len(record.labels)
        self.seconds: dict[str, float] = {}
        self._kept: dict[int, Committed] = {}
        self._environments: list[dict[str, str]] = []

    def add(self, commit: ChunkCommit) -> None:
        """Add a commit; a chunk that is told of twice counts once, as the first writer's commit is the one in force."""
        if commit.number in self._kept:
            return
        self._kept[commit.number] = Committed(
            rows=commit.rows,
            scored=commit.scored,
            keys=commit.keys,
            values=commit.values,
            rejects=commit.rejects,
            batch_rows=commit.batch_rows,
            environment=self._shared(commit.environment),
        )
        self.rows += commit.rows
        self.scored += commit.scored
        self.excluded += commit.excluded
        self.dead_lettered += commit.dead_lettered
        self.digest += commit.values
        self.histogram += commit.histogram
        self.labels = tuple(map(sum, zip(self.labels, commit.labels, strict=True)))
        for stage, seconds in commit.seconds.items():
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 6)

    def _shared(self, environment: dict[str, str]) -> dict[str, str]:
        for known in self._environments:
            if known == environment:
                return known
        self._environments.append(environment)
        return environment

    @override
    def __getitem__(self, number: int) -> Committed:
        return self._kept[number]

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    @override
    def __len__(self) -> int:
        return len(self._kept)
