"""One chunk: read | convert | forward | post-process | write, overlapped with the chunks before and after it.

The scorer knows neither Ray nor Dagster nor the library that computes with the model. It gets plain values, opens its own files
and writes its own commit, so nothing large passes a driver. Several threads may score a chunk each: one at a time reads, as
many as there are lanes run the model, one at a time writes, so that a worker's disk waits while its model works. There are
lanes + 1 staging buffers: that is what bounds a worker's memory.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from batch_assets.arrow import as_arrow
from batch_assets.digest import RowHashes, hash_keys
from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.features.keys import identity
from batch_assets.features.snapshot import Snapshot, SnapshotReader
from batch_assets.histogram import Histogram
from batch_assets.records import Records
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import ChunkCommit, RejectsFile, Written, predictions_table, write_commit, write_rejects
from batch_assets.runs.rejects import KILLED_WORKER, MODEL_RAISED, Rejects
from batch_assets.runs.stage_timer import StageTimer
from batch_assets.scoring.forward import ForwardPass, Passed, Predictor
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.inputs import Batch, Staged, Staging
from batch_assets.scoring.poison import few
from batch_assets.scoring.retry import patiently
from batch_assets.scoring.settings import Device, Precision, ScoringSettings
from batch_assets.storage import Storage

SCORING_FORMAT = 3
"""Raise it when the code of this room starts to give other values or other files: it is part of every run id."""

TO_DEVICE = "host-to-device"


class Load(Protocol):
    """Loads the model; picklable."""

    def __call__(self, device: Device, precision: Precision) -> Predictor:
        """The model on a device, computing in a precision."""


@dataclass(frozen=True)
class ScoringTask:
    """Everything a worker must know, in picklable values: what to read, with what to score, where to write.

    `library` is the one that computes with the model, and its version, as in `torch-2.13.0`.
    """

    storage: Storage
    snapshot: Snapshot
    snapshot_folder: str
    contract: FeatureContract
    head: Head
    histogram_edges: tuple[float, ...]
    settings: ScoringSettings
    run_id: str
    run_folder: str
    day: str
    model_version: str
    model_sha256: str
    library: str
    load: Load

    def open(self, lanes: int = 1, predictor: Predictor | None = None) -> "Scorer":
        """A scorer with the model loaded, unless it was loaded before; `lanes` threads may run it at the same time."""
        return Scorer(self, lanes, predictor)


@dataclass(frozen=True)
class Rows:
    """Some rows of a chunk and what is known about them before the model runs: what they are about, and what is kept of them.

    `keys` are their identities, `columns` those of the key, the item, and what is carried.
    """

    keys: pa.Array
    columns: pa.Table
    hashes: RowHashes
    rejects: Rejects


class Scorer:
    """Scores chunks of one run."""

    def __init__(self, task: ScoringTask, lanes: int = 1, predictor: Predictor | None = None) -> None:
        self.timer = StageTimer()
        self.task = task
        with self.timer.stage("start-up", {}):
            self.predictor = predictor or task.load(task.settings.device, task.settings.precision)
            settings = task.settings
            self.forward_pass = ForwardPass(self.predictor, task.head.width, settings.batch_rows, settings.max_failed)
            self._reader = SnapshotReader(task.storage, task.snapshot_folder, task.snapshot)
            self._reading, self._writing = threading.Lock(), threading.Lock()
            self._running = threading.Semaphore(lanes)
            self._buffers: queue.SimpleQueue[Staging | None] = queue.SimpleQueue()
            for _ in range(lanes + 1):
                self._buffers.put(None)  # made when they are first needed

    @property
    def passes(self) -> int:
        """How many forward passes were made: what moves while a worker works."""
        return self.forward_pass.passes

    def score(self, chunk: Chunk, crashing: tuple[int, ...] = ()) -> ChunkCommit:
        """Score a chunk and commit it; returns the commit that is in force, which may be another writer's.

        Args:
            chunk: what to score.
            crashing: places of rows that are known to kill a worker; they are dead-lettered without being scored.

        Raises:
            SnapshotChanged: the frozen rows are not what they were.
            ModelFails: the model raises on too many rows.
            ModelMisfit: its outputs look like something else than its card says.
            OutOfMemory, StillFailing, StorageFull: what they say.
        """
        task, clock = self.task, dict[str, float]()
        with self.staged(chunk, clock) as (staged, rows):
            rows.rejects.dead_letter(dict.fromkeys(crashing, KILLED_WORKER))
            passed = self.passed(staged, rows, chunk, clock)
        if chunk.number == 0:
            self.require_fitting(passed)
        with self._writing:
            with self.timer.stage("postprocess", clock):
                records, histogram = self.finished(passed, rows)
                scored = rows.rejects.scored
                values = rows.hashes.take(scored).with_values(records.flat()).digest()
                kept = rows.columns.filter(as_arrow(scored))
                output = predictions_table(kept, records, task.model_version, task.day)
            with self.timer.stage("write", clock):
                rejects = None if scored.all() else self._write_rejects(chunk, rows)
            commit = ChunkCommit(
                run_id=task.run_id,
                number=chunk.number,
                file=chunk.file,
                start=chunk.start,
                rows=len(rows.keys),
                scored=len(kept),
                excluded=len(rows.rejects.excluded),
                dead_lettered=len(rows.rejects.dead),
                keys=rows.hashes.digest(),
                values=values,
                rejects=rejects,
                histogram=histogram,
                labels=records.by_label(),
                model_version=task.model_version,
                model_sha256=task.model_sha256,
                batch_rows=passed.smallest,
                environment=self.predictor.environment,
                seconds=_rounded(clock),
                attempt=chunk.attempt,
                written=Written.here(),
            )
            with self.timer.stage("write", clock):
                winner = patiently(
                    lambda: write_commit(task.storage, task.run_folder, chunk, output, commit), f"Committing {chunk.name}"
                )
        return winner.model_copy(update={"seconds": _rounded(clock)}) if winner is commit else winner

    def sampled(self, chunk: Chunk, places: Sequence[int]) -> tuple[Staged, Rows]:
        """A few rows of a chunk, by their places; what is said of them counts from 0 in this order."""
        first, last = min(places), max(places)
        with self._reading:
            table = self._read(replace(chunk, start=chunk.start + first, rows=last - first + 1))
        table = table.take(pa.array([place - first for place in places], pa.int64()))
        staged = Staging(self.task.contract, len(places)).fill(table)
        return staged, self._rows(table, staged)

    @contextmanager
    def staged(self, chunk: Chunk, clock: dict[str, float]) -> Iterator[tuple[Staged, Rows]]:
        """A chunk's features in a staging buffer that is theirs for the time of the block, and its rows."""
        with ExitStack() as stack:
            with self._reading:
                with self.timer.stage("read", clock):
                    table = self._read(chunk)
                staging = stack.enter_context(self._buffer(len(table)))
                with self.timer.stage("convert", clock):
                    staged = staging.fill(table)
                    rows = self._rows(table, staged)
            del table
            yield staged, rows

    @contextmanager
    def _buffer(self, rows: int) -> Iterator[Staging]:
        buffer = self._buffers.get()
        try:
            if buffer is None:
                capacity = max(rows, min(self.task.settings.chunk_rows, self.task.snapshot.rows))
                buffer = Staging(self.task.contract, capacity)
            yield buffer
        finally:
            self._buffers.put(buffer)

    def passed(self, staged: Staged, rows: Rows, chunk: Chunk, clock: dict[str, float]) -> Passed:
        """Run the model over the rows that are to be scored; those on which it raises are dead-lettered."""
        with self._running, self.timer.stage("forward", clock):
            passed = self.forward_pass(staged, rows.rejects.scored, chunk.name)
            copying = self.predictor.copying()
        if copying:
            self.timer.reassign("forward", TO_DEVICE, copying, clock)
        rows.rejects.dead_letter(dict.fromkeys(passed.raised, MODEL_RAISED), passed.raised)
        return passed

    def require_fitting(self, passed: Passed) -> None:
        """Refuse outputs that look like something else than the card says; a few that are no probabilities are dead letters.

        Raises ModelMisfit.
        """
        task, rows = self.task, passed.logits.shape[1]
        values = passed.logits[:, np.isfinite(passed.logits).all(axis=0)]
        wrong = task.head.impossible(values)
        if wrong.sum() <= few(rows, task.settings.max_failed):
            values = values[:, ~wrong]
        if (values == values[:, :1]).all():
            return  # rows that are alike get the same score; `scores` looks whether all rows of the night do
        seen = task.head.misfit(values)
        if seen:
            raise ModelMisfit(f"The model {task.model_version} does not fit its card on {task.day}: {seen}.")

    def finished(self, passed: Passed, rows: Rows) -> tuple[Records, Histogram]:
        """Records of the rows that are scored after all, and the histogram of all scores; the rest is dead-lettered."""
        head = self.task.head
        records = head.records(passed.logits)
        score = records.score
        if rows.rejects.scored.all():
            histogram = Histogram.of(score, self.task.histogram_edges)
        else:
            histogram = Histogram.of(score[rows.rejects.scored], self.task.histogram_edges)
        if histogram.non_finite:
            bad = np.flatnonzero(rows.rejects.scored & np.isnan(score))
            rows.rejects.dead_letter({place: head.why_not(passed.logits[:, place]) for place in bad.tolist()})
        return (records if rows.rejects.scored.all() else records.take(rows.rejects.scored)), histogram

    def probe(self, chunk: Chunk, crashing: tuple[int, ...] = (), batch: int | None = None) -> Iterator[int]:
        """Run a chunk's forward passes and say before each one what it is about, to find what kills a worker.

        Without `batch`, yields the numbers of batches; with one, the places of its rows, each of which is run alone. Rows
        that are known to kill are left out.
        """
        with self.staged(chunk, {}) as (staged, rows):
            rows.rejects.dead_letter(dict.fromkeys(crashing, KILLED_WORKER))
            batches = staged.batches(rows.rejects.scored, self.task.settings.batch_rows)
            passes: list[tuple[int, Batch]] = list(enumerate(batches))
            if batch is not None and batches:
                one = batches[batch]
                passes = [(int(place), one.take(slice(n, n + 1))) for n, place in enumerate(one.rows)]
            for said, each in passes:
                yield said
                self.forward_pass.alone(staged, each, chunk.name)

    def _write_rejects(self, chunk: Chunk, rows: Rows) -> RejectsFile:
        task = self.task
        table = rows.rejects.table(
            rows.columns.select(task.contract.identity), task.snapshot.files[chunk.file].name, chunk.start
        )
        return patiently(
            lambda: write_rejects(task.storage, task.run_folder, chunk, table), f"Writing the rejects of {chunk.name}"
        )

    def _read(self, chunk: Chunk) -> pa.Table:
        contract = self.task.contract
        columns = [*contract.identity, *contract.names, *(one.name for one in contract.carry)]
        return patiently(
            lambda: self._reader.rows(chunk.file, chunk.start, chunk.rows, columns), f"Reading the rows of {chunk.name}"
        )

    def _rows(self, table: pa.Table, staged: Staged) -> Rows:
        rejects = Rejects(np.ones(len(table), dtype=bool))
        for rule in self.task.settings.exclude:
            rejects.exclude(rule.applies(staged.scalars[rule.column]), rule.reason)
        if staged.faults:
            faulty = np.logical_or.reduce([mask for _, mask in staged.faults]) & rejects.scored
            rejects.dead_letter(staged.reasons(faulty))
        contract = self.task.contract
        columns = table.select([*contract.identity, *(one.name for one in contract.carry)])
        keys = identity(columns, contract.identity)
        return Rows(keys, columns, hash_keys(keys), rejects)


def _rounded(clock: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in clock.items()}
