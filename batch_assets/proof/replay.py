"""Dead letters, scored again: a file beside the chunk that holds only rows that were dead; nothing that exists is changed."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch_assets.arrow import as_arrow
from batch_assets.digest import Digest
from batch_assets.errors import AlreadyExists, CommitBroken
from batch_assets.features.keys import identity
from batch_assets.histogram import Histogram
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import RejectsFile, as_parquet, predictions_table, read_committed, read_keys
from batch_assets.runs.rejects import DEAD_LETTER, Rejects
from batch_assets.scoring.scorer import Scorer
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Replay:
    """Places of a chunk to be scored again."""

    chunk: Chunk
    places: tuple[int, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return f"the replay of {self.chunk.name}"


@dataclass(frozen=True)
class Replayed:
    """What became of them: the file with those that could be scored now, if any, and why the others could not."""

    chunk: Chunk
    file: str
    size: int
    scored: int
    values: Digest
    histogram: Histogram
    labels: tuple[int, ...]
    still_dead: dict[int, str]


def replay_chunk(scorer: Scorer, replay: Replay) -> Replayed:
    """Score a chunk's dead rows again, and write those that succeed to a file that counts once a manifest names it."""
    task, chunk = scorer.task, replay.chunk
    staged, rows = scorer.sampled(chunk, replay.places)
    passed = scorer.passed(staged, rows, chunk, {})
    records, histogram = scorer.finished(passed, rows)
    histogram = histogram.model_copy(update={"non_finite": 0})  # those were counted when they were dead-lettered first
    scored = rows.rejects.scored
    still_dead = {place: _why(rows.rejects, number) for number, place in enumerate(replay.places) if not scored[number]}
    values = rows.hashes.take(scored).with_values(records.flat()).digest()
    labels = records.by_label()
    if not scored.any():
        return Replayed(chunk, "", 0, 0, values, histogram, labels, still_dead)
    data = as_parquet(predictions_table(rows.columns.filter(as_arrow(scored)), records, task.model_version, task.day))
    number = 1
    while True:
        name = f"{chunk.name}.replay-{number:03d}.parquet"
        try:
            task.storage.create(f"{task.run_folder}/{name}", data)
        except AlreadyExists:
            number += 1  # an earlier replay's, or one that no manifest names
            continue
        return Replayed(chunk, name, len(data), len(records), values, histogram, labels, still_dead)


def dead_letters(storage: Storage, folder: str, rejects: RejectsFile, replays: Iterable[str], key: Sequence[str]) -> pa.Table:
    """The rows of a chunk that are dead letters still: those of its rejects file that no replay has scored.

    Raises:
        CommitBroken: the rejects file was changed.
    """
    path = f"{folder}/{rejects.name}"
    if hashlib.sha256(storage.read(path)).hexdigest() != rejects.sha256:
        raise CommitBroken(
            f"{path} was changed after it was committed: remove it and run again, then its chunk is scored again."
        )
    table = read_committed(storage, path)
    dead = np.array([kind == DEAD_LETTER for kind in table.column("kind").to_pylist()], dtype=bool)
    scored = {value for name in replays for value in read_keys(storage, f"{folder}/{name}", key).to_pylist()}
    dead &= np.array([value not in scored for value in identity(table, key).to_pylist()], dtype=bool)
    return table.filter(as_arrow(dead))


def _why(rejects: Rejects, place: int) -> str:
    reason = rejects.dead.get(place, "")
    return f"{reason} ({rejects.errors[place]})" if place in rejects.errors else reason
