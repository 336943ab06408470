"""Score a sample of a day's snapshot with a model version, here and now; nothing is written."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.config import PipelineConfig
from batch_assets.features.snapshot import SnapshotReader
from batch_assets.nightly.freeze import frozen
from batch_assets.nightly.night import Night
from batch_assets.proof.audit import Drawn, draw
from batch_assets.runs.chunks import plan_chunks
from batch_assets.storage import Storage

GROUPS = 64
ROWS = 256
"""So many rows of each of so many row groups are taken: 16,384 in all, or all there are."""

_TRIED_GROUPS, _TRIED_ROWS = 16, 64
"""Row groups, and rows of each, on which a model is tried before it is registered."""


@dataclass(frozen=True)
class Sampled:
    """What became of the sampled rows: `scores` has shape (rows,), NaN where a row was not scored.

    `seconds` are those of the forward passes alone.
    """

    scores: npt.NDArray[np.float32]
    excluded: int
    dead: int
    seconds: float

    @property
    def scored(self) -> npt.NDArray[np.float32]:
        """The scores that are there."""
        return self.scores[np.isfinite(self.scores)]


def places(night: Night) -> Drawn:
    """Random rows of the night's snapshot."""
    return draw(night.frozen.snapshot, night.plan, GROUPS, ROWS)


def rows_of_day(config: PipelineConfig, storage: Storage, day: str) -> pa.Table:
    """Features of some rows of a frozen day, from all over it.

    Raises:
        NotFound: the day is not frozen.
        SnapshotChanged: a file is not what was frozen.
        ContractBroken: it has other columns than the pipeline's contract says.
    """
    found, contract = frozen(config, storage, day), config.features.contract
    reader = SnapshotReader(storage, found.folder, found.snapshot)
    contract.require(reader.schema(), f"The snapshot of {config.name} {day}")
    drawn = draw(found.snapshot, plan_chunks(found.snapshot, config.scoring.chunk_rows), _TRIED_GROUPS, _TRIED_ROWS)
    pieces = [
        reader.rows(chunk.file, chunk.start + rows[0], rows[-1] - rows[0] + 1, contract.names).take(
            pa.array([row - rows[0] for row in rows], pa.int64())
        )
        for chunk, rows in drawn
    ]
    return pa.concat_tables(pieces) if pieces else reader.rows(0, 0, 0, contract.names)


def score_sample(night: Night, sample: Drawn) -> Sampled:
    """Score sampled rows with the model of a night.

    Raises:
        ContractBroken: the model does not take the columns that are there.
    """
    model = night.model
    night.config.features.contract.require_same(model.card.contract, f"{model.name} {model.version}")
    scorer = night.task().open()
    found, excluded, dead, seconds = [], 0, 0, 0.0
    for chunk, rows_of_chunk in sample:
        staged, rows = scorer.sampled(chunk, rows_of_chunk)
        started = time.perf_counter()
        passed = scorer.passed(staged, rows, chunk, {})
        seconds += time.perf_counter() - started
        records, _ = scorer.finished(passed, rows)
        scores = np.full(len(rows_of_chunk), np.nan, dtype=np.float32)
        scores[rows.rejects.scored] = records.score
        found.append(scores)
        excluded, dead = excluded + len(rows.rejects.excluded), dead + len(rows.rejects.dead)
    return Sampled(np.concatenate(found) if found else np.empty(0, dtype=np.float32), excluded, dead, seconds)
