"""Rows that make the model raise: found by bisection, so that only they are dead-lettered.

A pass that raises is halved, each half in the full shape with the other half's rows replaced, until single rows are left. k
such rows in a batch of B cost at most k (ceil(log2 B) + 1) passes that raise, and as many that score the good halves. A model
that raises on everything is not bisected for hours: the circuit breaker stops the run with the model's own error.
"""

import math
from collections.abc import Callable

import numpy as np

from batch_assets.errors import BatchAssetsError, ModelFails
from batch_assets.scoring.inputs import Batch

_PROBES = 16
"""Rows, evenly spread, that must all raise alone before a first batch counts as failing whole."""

_FEW = 5
"""Rows of a chunk that may always raise: a share of a small chunk is less than one row."""


def few(rows: int, max_failed: float) -> int:
    """How many of so many rows a model may fail on as on single bad ones."""
    return max(_FEW, math.floor(rows * max_failed)) if max_failed else 0


class Breaker:
    """Stops a chunk of whose rows too many make the model raise."""

    def __init__(self, chunk: str, rows: int, max_failed: float) -> None:
        self._chunk = chunk
        self._allowed = few(rows, max_failed)
        self._share = max_failed
        self._failed = 0

    def count(self, error: Exception) -> None:
        """One more row. Raises ModelFails."""
        self._failed += 1
        if self._failed > self._allowed:
            raise ModelFails(
                f"The model raises on more than {self._allowed:,} rows ({self._share:.2%}) of {self._chunk} "
                f"({type(error).__name__}: {first_line(error)}): that is not a matter of single rows."
            ) from error

    def whole(self, error: Exception) -> ModelFails:
        """What to raise when a first batch fails whole."""
        return ModelFails(
            f"The model raises on the whole first batch of {self._chunk} ({type(error).__name__}: {first_line(error)})."
        )


def fails_whole(run: Callable[[Batch], None], batch: Batch) -> bool:
    """Whether each of some evenly spread rows of a batch raises alone; a batch of fewer rows says nothing about the model."""
    if len(batch.rows) < _PROBES:
        return False
    probes = np.unique(np.linspace(0, len(batch.rows) - 1, _PROBES).astype(int))
    return all(raised_by(run, batch.take(slice(probe, probe + 1))) is not None for probe in probes.tolist())


def isolate(run: Callable[[Batch], None], batch: Batch, error: Exception, breaker: Breaker) -> dict[int, str]:
    """Score all rows of a batch that raised but those that make it raise.

    Args:
        run: scores a batch and keeps its outputs, or raises what the model raises.
        batch: what raised.
        error: what it raised.
        breaker: counts the rows.

    Returns:
        Row of the chunk -> the error that it causes.

    Raises:
        ModelFails: there are too many.
    """
    found: dict[int, str] = {}
    suspects = [(batch, error)]
    while suspects:
        suspect, error = suspects.pop()
        if len(suspect.rows) == 1:
            breaker.count(error)
            found[int(suspect.rows[0])] = f"{type(error).__name__}: {first_line(error)}"
            continue
        middle = -(-len(suspect.rows) // 2)
        for half in (suspect.take(slice(middle)), suspect.take(slice(middle, None))):
            raised = raised_by(run, half)
            if raised is not None:
                suspects.append((half, raised))
    return found


def first_line(error: BaseException) -> str:
    """What an error says first, without its end."""
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")[:300]


def raised_by(run: Callable[[Batch], None], batch: Batch) -> Exception | None:
    """What the model raises on a batch, if it does; errors of ours are not the model's and are passed on."""
    try:
        run(batch)
    except BatchAssetsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the model raises; the row that it is about is dead-lettered
        return error
    return None
