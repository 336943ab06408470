"""One chunk: read, convert, forward, post-process, write; timed stage by stage.

The scorer knows neither Ray nor Dagster nor torch. It gets plain values, opens its own files and writes its own commit, so
nothing large passes a driver. Every forward pass has the same shape: the last batch is padded, and rows that must not be
scored are replaced in place, because the same row can give other bits in a batch of another size.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.contract import FeatureContract
from batch_assets.digest import hash_keys
from batch_assets.histogram import Histogram
from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit, write_commit, write_rejects
from batch_assets.scoring.postprocess import Outputs, postprocess, prediction_table
from batch_assets.snapshot import Snapshot, SnapshotReader
from batch_assets.storage import Storage

SCORING_FORMAT = 1
"""Raise it when the code of this room starts to give other values or other files: it is part of every run id."""

Features = npt.NDArray[np.float32]


class Exclusion(BaseModel):
    """A business rule: rows whose feature compares so are not scored, and say why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(description="What the excluded row's record says.", min_length=1)
    column: str = Field(description="A feature of the contract.")
    op: Literal["<", "<=", "==", "!=", ">=", ">"] = Field(description="How the feature is compared with the value.")
    value: float

    def applies(self, column: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which rows are excluded; NaN never is."""
        compare = {"<": np.less, "<=": np.less_equal, "==": np.equal}.get(self.op)
        if compare is None:
            compare = {"!=": np.not_equal, ">=": np.greater_equal, ">": np.greater}[self.op]
        excluded: npt.NDArray[np.bool_] = compare(column, np.float32(self.value)) & ~np.isnan(column)
        return excluded


class ScoringSettings(BaseModel):
    """What decides the values and the files of a run; all of it is part of the run id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk_rows: int = Field(131_072, description="Rows per chunk: the unit of work, of commit and of resume.", ge=1)
    batch_rows: int = Field(1_024, description="Rows per forward pass, always padded to this shape.", ge=64, multiple_of=64)
    exclude: tuple[Exclusion, ...] = Field((), description="Business rules: rows that are not scored, with the reason.")


class Predictor(Protocol):
    """A loaded model. `environment` says what its bits depend on: device, CPU capability, library version."""

    @property
    def environment(self) -> dict[str, str]:
        """Part of every commit."""

    def logits(self, features: Features) -> npt.NDArray[np.float32]:
        """Features of shape (columns, rows), rows a multiple of the batch shape, to raw outputs of shape (rows,)."""


@dataclass(frozen=True)
class ScoringTask:
    """Everything a worker must know, in picklable values: what to read, with what to score, where to write."""

    storage: Storage
    snapshot: Snapshot
    snapshot_folder: str
    contract: FeatureContract
    outputs: Outputs
    histogram_edges: tuple[float, ...]
    settings: ScoringSettings
    run_id: str
    run_folder: str
    day: str
    model_version: str
    model_sha256: str
    load: Callable[[], Predictor]

    def open(self) -> "Scorer":
        """Load the model, once per worker."""
        return Scorer(self, self.load(), SnapshotReader(self.storage, self.snapshot_folder, self.snapshot))


class _Sorted(NamedTuple):
    """Which rows are scored, and for the others: their kind, reason and place."""

    scored: npt.NDArray[np.bool_]
    reasons: npt.NDArray[np.object_]
    excluded: npt.NDArray[np.bool_]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Scorer:
    """Scores chunks of one run, one after another."""

    def __init__(self, task: ScoringTask, predictor: Predictor, reader: SnapshotReader) -> None:
        self._task = task
        self._predictor = predictor
        self._reader = reader

    def score(self, chunk: Chunk) -> ChunkCommit:
        """Score a chunk and commit it; returns the commit that is in force, which may be another writer's."""
        task, clock = self._task, _Clock()
        with clock.stage("read"):
            table = self._reader.rows(chunk.file, chunk.start, chunk.rows, [task.contract.key.name, *task.contract.names])
            keys = table.column(task.contract.key.name).combine_chunks()
        with clock.stage("convert"):
            features = self._staged(table)
            rows = self._sort_out(features[:, : len(keys)])
            features[:, : len(keys)][:, ~rows.scored] = 0.0
            hashes = hash_keys(keys)
        with clock.stage("forward"):
            logits = self._predictor.logits(features)
        with clock.stage("postprocess"):
            predictions = postprocess(logits, task.outputs).take(slice(len(keys)))
            probability = np.where(np.isfinite(logits[: len(keys)]), predictions.probability, np.float32(np.nan))
            histogram = Histogram.of(probability[rows.scored], task.histogram_edges)
            rows = _without_non_finite(rows, probability)
            predictions = predictions.take(rows.scored)
            values = hashes.take(rows.scored).with_values(predictions).digest()
        with clock.stage("write"):
            rejects = write_rejects(task.storage, task.run_folder, chunk, _rejects(task, chunk, keys, rows))
            scored_keys = keys.filter(pa.array(rows.scored))
            output = prediction_table(
                scored_keys, task.contract.key.name, predictions, task.outputs, task.model_version, task.day
            )
        commit = ChunkCommit(
            run_id=task.run_id,
            number=chunk.number,
            file=chunk.file,
            start=chunk.start,
            rows=len(keys),
            scored=int(rows.scored.sum()),
            excluded=int(rows.excluded.sum()),
            dead_lettered=int((~rows.scored & ~rows.excluded).sum()),
            keys=hashes.digest(),
            values=values,
            rejects=rejects,
            histogram=histogram,
            model_version=task.model_version,
            model_sha256=task.model_sha256,
            batch_rows=task.settings.batch_rows,
            environment=self._predictor.environment,
            seconds=_rounded(clock),
        )
        with clock.stage("commit"):
            winner = write_commit(task.storage, task.run_folder, chunk, output, commit)
        return winner.model_copy(update={"seconds": _rounded(clock)}) if winner is commit else winner

    def _staged(self, table: pa.Table) -> Features:
        """The features, column by column in one buffer of shape (columns, rows padded to whole batches); missing is NaN."""
        batch = self._task.settings.batch_rows
        padded = -(-len(table) // batch) * batch
        buffer = np.zeros((len(self._task.contract.columns), padded), dtype=np.float32)
        for row, name in enumerate(self._task.contract.names):
            buffer[row, : len(table)] = table.column(name).cast(pa.float32(), safe=False).to_numpy()
        return buffer

    def _sort_out(self, features: Features) -> _Sorted:
        reasons = np.full(features.shape[1], None, dtype=object)
        excluded = np.zeros(features.shape[1], dtype=bool)
        for rule in self._task.settings.exclude:
            applies = rule.applies(features[self._task.contract.names.index(rule.column)]) & ~excluded
            reasons[applies] = rule.reason
            excluded |= applies
        finite = np.isfinite(features).all(axis=0)
        if not finite.all():
            for position in np.flatnonzero(~finite & ~excluded):
                bad = np.flatnonzero(~np.isfinite(features[:, position]))
                names = ", ".join(self._task.contract.names[index] for index in bad)
                reasons[position] = f"missing or non-finite feature: {names}"
        return _Sorted(finite & ~excluded, reasons, excluded)


def _rounded(clock: _Clock) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in clock.seconds.items()}


def _without_non_finite(rows: _Sorted, probability: npt.NDArray[np.float32]) -> _Sorted:
    bad = rows.scored & np.isnan(probability)
    rows.reasons[bad] = "non-finite output of the model"
    return _Sorted(rows.scored & ~bad, rows.reasons, rows.excluded)


def _rejects(task: ScoringTask, chunk: Chunk, keys: pa.Array, rows: _Sorted) -> pa.Table:
    """The rows that were not scored: key, kind, reason and where the row stands."""
    places = np.flatnonzero(~rows.scored)
    return pa.table(
        {
            task.contract.key.name: keys.take(pa.array(places)),
            "kind": pa.array(np.where(rows.excluded[places], "excluded", "dead_letter").tolist(), pa.string()),
            "reason": pa.array(rows.reasons[places].tolist(), pa.string()),
            "file": pa.array([task.snapshot.files[chunk.file].name] * len(places), pa.string()),
            "row": pa.array(chunk.start + places, pa.int64()),
        }
    )
