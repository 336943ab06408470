"""The forward pass over a chunk: batch by batch, out of memory halved, poison isolated, what passes by itself waited for."""

import logging
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from batch_assets.errors import BatchAssetsError, DeviceLost, OutOfMemory
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET, Array, Batch, Staged
from batch_assets.scoring.poison import Breaker, fails_whole, first_line, isolate, raised_by
from batch_assets.scoring.retry import is_transient, patiently

Logits = npt.NDArray[np.float32]


class Predictor(Protocol):
    """A loaded model. `environment` says what its bits depend on: device, CPU capability, precision, library version."""

    @property
    def environment(self) -> dict[str, str]:
        """Part of every commit."""

    def forward(self, batches: Iterable[tuple[Array, ...]]) -> Iterator[Logits]:
        """Batches, each the model's inputs of shape (width, rows), to outputs of shape (values, rows), in order.

        It may look ahead by one batch to overlap copies with work; what a batch raises comes in its turn all the same.
        """

    def copying(self) -> float:
        """Seconds that the caller spent on copies to a device since the last call."""

    def peak_memory(self) -> int:
        """The most bytes that the device (or, on a CPU, the process) has held."""

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error means that the batch was too large for the memory."""

    def lost(self) -> bool:
        """Whether this process cannot use the device any more, after an error; only a new process can."""


@dataclass(frozen=True)
class Passed:
    """What became of a chunk's rows: outputs of shape (values, rows) and what the model raised on which row.

    `smallest` is the batch size in the end, in rows: the setting, or less if that did not fit; `calls` counts the passes.
    """

    logits: Logits
    raised: dict[int, str]
    smallest: int
    calls: int


class ForwardPass:
    """Scores chunks with one predictor. A batch size that was too large stays halved for the chunks that follow."""

    def __init__(self, predictor: Predictor, outputs: int, batch_rows: int, max_failed: float) -> None:
        self._predictor = predictor
        self._outputs = outputs
        self._batch_rows = batch_rows
        self._max_failed = max_failed
        self.passes = 0

    def __call__(self, staged: Staged, scored: npt.NDArray[np.bool_], chunk: str) -> Passed:
        """Score the rows of a mask.

        Raises:
            ModelFails: the model raises on too many of them.
            DeviceLost: after a pass that raised, no other one can be made in this process.
            OutOfMemory: not even the smallest batch fits.
            StillFailing: an error that should pass did not.
        """
        logits = np.full((self._outputs, staged.rows), np.nan, dtype=np.float32)
        batch_rows = self._batch_rows
        batches = staged.batches(scored, batch_rows)
        breaker = Breaker(chunk, staged.rows, self._max_failed)
        raised: dict[int, str] = {}
        position, calls = 0, 0

        def run(batch: Batch) -> None:
            nonlocal calls, batch_rows
            calls += 1
            self.passes += 1
            try:
                _keep(logits, batch, *self._predictor.forward([staged.arrays(batch)]))
                return
            except Exception as error:
                self._after(error, chunk)
                if not self._predictor.out_of_memory(error):
                    raise
                batch_rows = min(batch_rows, self._too_large(batch, chunk, error))
            for half in _halves(batch):
                run(half)

        def patient(batch: Batch) -> None:
            patiently(lambda: run(batch), f"The model's forward pass over {chunk}")

        while position < len(batches):
            try:
                for outputs in self._predictor.forward(staged.arrays(batch) for batch in batches[position:]):
                    _keep(logits, batches[position], outputs)
                    position, calls = position + 1, calls + 1
                    self.passes += 1
            except BatchAssetsError:
                raise
            except Exception as error:  # noqa: BLE001 - what the model raises: its row is dead-lettered, or the run stops
                self._after(error, chunk)
                batch, calls, first = batches[position], calls + 1, position == 0
                if self._predictor.out_of_memory(error):
                    batch_rows = min(batch_rows, self._too_large(batch, chunk, error))
                    batches[position:] = [half for one in batches[position:] for half in _halves(one)]
                    continue
                position += 1
                found = raised_by(patient, batch) if is_transient(error) else error
                if found is None:
                    continue
                if first and self._max_failed < 1 and fails_whole(patient, batch):
                    raise breaker.whole(found) from found
                raised |= isolate(patient, batch, found, breaker)
        return Passed(logits, raised, batch_rows, calls)

    def alone(self, staged: Staged, batch: Batch, chunk: str) -> None:
        """Run one batch for what it does to the process; its outputs and other errors are of no matter here.

        Raises DeviceLost.
        """
        try:
            list(self._predictor.forward([staged.arrays(batch)]))
        except Exception as error:  # noqa: BLE001 - the worker lives, so this batch is not what is looked for
            self._after(error, chunk)
            logging.getLogger(__name__).debug("A batch of %s raises while what kills is looked for: %s", chunk, error)

    def _after(self, error: Exception, chunk: str) -> None:
        """Let go what a pass that raised still holds, or the next one has less memory. Raises DeviceLost if there is none."""
        traceback.clear_frames(error.__traceback__)
        if self._predictor.lost():
            raise DeviceLost(
                f"After a pass over {chunk} this process cannot use its device any more ({type(error).__name__}: "
                f"{first_line(error)}); what is committed stays, and with `engine: {{kind: ray}}` the row is found."
            ) from error

    def _too_large(self, batch: Batch, chunk: str, error: Exception) -> int:
        """Remember that a batch did not fit; the batch size from now on. Raises OutOfMemory if it is the smallest shape."""
        if batch.size <= SHAPE:
            raise OutOfMemory(f"Not even {SHAPE} rows of {chunk} fit into the memory: {type(error).__name__}.") from error
        rows = max(half.size for half in batch.halves()) * max(batch.length, SHORTEST_BUCKET) // SHORTEST_BUCKET
        self._batch_rows = min(self._batch_rows, max(SHAPE, rows // SHAPE * SHAPE))
        return self._batch_rows


def _halves(batch: Batch) -> list[Batch]:
    """The halves of a batch that have rows; the smallest shape stays as it is."""
    return [half for half in batch.halves() if len(half.rows)] if batch.size > SHAPE else [batch]


def _keep(logits: Logits, batch: Batch, outputs: Logits) -> None:
    if len(batch.rows) == batch.size and batch.rows[-1] - batch.rows[0] + 1 == batch.size:
        logits[:, batch.rows[0] : batch.rows[0] + batch.size] = outputs
    else:
        logits[:, batch.rows] = outputs[:, batch.slots]
