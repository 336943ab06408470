"""The reference engine: the same work in this process, one chunk after another."""

from collections.abc import Iterator, Sequence

from typing_extensions import override

from batch_assets.engines.engine import Engine
from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit
from batch_assets.scoring.scorer import ScoringTask


class LocalEngine(Engine):
    """Scores in the calling process; what the other engines are compared with."""

    @override
    def score(self, task: ScoringTask, chunks: Sequence[Chunk]) -> Iterator[ChunkCommit]:
        if not chunks:
            return
        scorer = task.open()
        for chunk in chunks:
            yield scorer.score(chunk)
