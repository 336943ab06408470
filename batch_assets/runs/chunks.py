"""Chunks: the units of work and of commit. A snapshot is tiled by row ranges that never cross a file."""

import math
from dataclasses import dataclass, field

from batch_assets.features.snapshot import ROWS_PER_FILE, ROWS_PER_GROUP, Snapshot


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


def count_chunks(rows: int, chunk_rows: int) -> int:
    """How many chunks a snapshot of so many rows will have that is frozen, and cut, with `chunk_rows`."""
    group = min(chunk_rows, ROWS_PER_GROUP)
    chunk, file = chunk_rows // group * group, math.ceil(ROWS_PER_FILE / group) * group
    files, rest = divmod(rows, file)

    def of_file(there: int) -> int:
        return max(math.ceil((there - (chunk_rows - chunk)) / chunk), min(there, 1))  # a last row group may be small enough

    return files * of_file(file) + of_file(rest)
