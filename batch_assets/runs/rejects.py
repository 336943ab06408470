"""Rows that were not scored: excluded by a rule, or dead-lettered with reason, error and place; never filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.arrow import as_arrow

EXCLUDED = "excluded"
DEAD_LETTER = "dead_letter"

MODEL_RAISED = "the model raised"
KILLED_WORKER = "the row kills or hangs the worker that scores it"
NON_FINITE_OUTPUT = "non-finite output of the model"
NO_PROBABILITIES = "output of the model that is no probability: outside of [0, 1], or with another sum than 1"


@dataclass
class Rejects:
    """Why rows of a chunk are not scored, by place in the chunk."""

    scored: npt.NDArray[np.bool_]
    excluded: dict[int, str] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def exclude(self, rows: npt.NDArray[np.bool_], reason: str) -> None:
        """Take rows out by a rule."""
        self.excluded |= dict.fromkeys(np.flatnonzero(rows & self.scored).tolist(), reason)
        self.scored &= ~rows

    def dead_letter(self, reasons: Mapping[int, str], errors: Mapping[int, str] | None = None) -> None:
        """Dead-letter rows, each with its reason and perhaps the error that it caused."""
        self.dead |= reasons
        self.errors |= errors or {}
        self.scored[list(reasons)] = False

    def table(self, keys: pa.Table, file: str, first_row: int) -> pa.Table:
        """One row for each that was not scored: its `keys`, kind, reason, error, and where it stands in the snapshot."""
        places = np.flatnonzero(~self.scored)
        listed = places.tolist()
        return pa.table(
            {
                **dict(zip(keys.column_names, keys.take(as_arrow(places)).columns, strict=True)),
                "kind": pa.array([EXCLUDED if place in self.excluded else DEAD_LETTER for place in listed], pa.string()),
                "reason": pa.array([self.excluded.get(place) or self.dead[place] for place in listed], pa.string()),
                "error": pa.array([self.errors.get(place) for place in listed], pa.string()),
                "file": pa.array([file] * len(listed), pa.string()),
                "row": as_arrow(first_row + places),
            }
        )
