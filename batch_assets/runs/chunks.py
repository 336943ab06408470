"""Chunks: the units of work and of commit. A snapshot is tiled by row ranges that never cross a file."""

from dataclasses import dataclass, field

from batch_assets.features.snapshot import Snapshot


@dataclass(frozen=True)
class Chunk:
    """Rows [start, start + rows) of one part file; `attempt` counts how often an engine has handed it out."""

    number: int
    file: int
    start: int
    rows: int
    attempt: int = field(default=1, compare=False)

    @property
    def name(self) -> str:
        """The stem of its files, and how messages call it."""
        return f"chunk-{self.number:05d}"


def plan_chunks(snapshot: Snapshot, chunk_rows: int) -> tuple[Chunk, ...]:
    """Cut a snapshot into chunks of about `chunk_rows` rows: huge row groups are cut, small ones are joined."""
    chunks: list[Chunk] = []
    for index, file in enumerate(snapshot.files):
        start = position = 0
        for group in file.row_groups:
            if position > start and position + group.rows - start > chunk_rows:
                chunks.append(Chunk(len(chunks), index, start, position - start))
                start = position
            position += group.rows
            while position - start > chunk_rows:
                chunks.append(Chunk(len(chunks), index, start, chunk_rows))
                start += chunk_rows
        if position > start:
            chunks.append(Chunk(len(chunks), index, start, position - start))
    return tuple(chunks)
