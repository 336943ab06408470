"""What every engine does, and what can be set about it. Nothing here changes a value: an engine is no part of a run id."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit
from batch_assets.scoring.scorer import ScoringTask

EngineName = Literal["ray", "local"]


class EngineSettings(BaseModel):
    """Where a pipeline is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: EngineName = Field("ray", description="ray: actors of a Ray cluster. local: this process, one chunk after another.")
    workers: int | None = Field(None, description="How many Ray actors; by default one per CPU of the cluster.", ge=1)


class Engine(Protocol):
    """Scores chunks somewhere."""

    def score(self, task: ScoringTask, chunks: Sequence[Chunk]) -> Iterator[ChunkCommit]:
        """Score and commit every chunk, in any order; yields each commit once it is durable. Raises what a chunk raised."""
