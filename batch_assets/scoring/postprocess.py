"""From raw model outputs to what is served: probability, decile and label, vectorized over a chunk.

A binary classifier gives one logit a row; its probability is that of the positive class. A classifier of three or more classes
gives one logit a class; its probability is that of the most likely class, which is the label.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.arrow import as_arrow, as_numpy, as_text


class Outputs(BaseModel):
    """What a classifier's logits mean. It is frozen into the model's card, so no second pass over the data is needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = Field(
        description="Names of the classes; of two, the negative one comes first.", min_length=2, max_length=127
    )
    threshold: float | None = Field(
        None, description="Of two classes: the probability from which on the positive label is given.", gt=0, lt=1
    )
    decile_edges: tuple[float, ...] = Field(
        description="The 0.1 … 0.9 quantiles of the probability on the baseline day.", min_length=9, max_length=9
    )

    @model_validator(mode="after")
    def _threshold_is_for_two(self) -> "Outputs":
        if (self.threshold is not None) != (len(self.labels) == 2):
            raise ValueError("a threshold belongs to two classes, and only to two")
        return self

    @property
    def logits(self) -> int:
        """How many logits the model gives a row."""
        return 1 if len(self.labels) == 2 else len(self.labels)


class Predictions(NamedTuple):
    """Columns of shape (rows,): probability in [0, 1], decile 1 (lowest) … 10, and the label's index."""

    probability: npt.NDArray[np.float32]
    decile: npt.NDArray[np.int8]
    label: npt.NDArray[np.int8]

    def take(self, rows: "slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]") -> "Predictions":
        """The predictions of some rows."""
        return Predictions(self.probability[rows], self.decile[rows], self.label[rows])

    def by_label(self, outputs: Outputs) -> tuple[int, ...]:
        """How many rows have each of the labels, in their order."""
        return tuple(np.bincount(self.label, minlength=len(outputs.labels)).tolist())


RECORD_DTYPE = np.dtype([("probability", "<f4"), ("decile", "i1"), ("label", "i1")])
"""One prediction as a store keeps it: 6 bytes, without padding."""


def probability_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The probability in float32, shape (rows,), of logits of shape (logits, rows): logistic of one, largest softmax of more.

    It is NaN where a logit is not finite: an infinite one would look like a good 0 or 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if len(logits) == 1:
            probability = np.float32(1) / (np.float32(1) + np.exp(-logits[0]))
        else:
            largest = logits.max(axis=0)
            probability = np.float32(1) / np.exp(logits - largest).sum(axis=0)
        total = logits.sum(axis=0)
    if not np.isfinite(total.sum()):
        probability = np.where(np.isfinite(logits).all(axis=0), probability, np.float32(np.nan))
    found: npt.NDArray[np.float32] = probability.astype(np.float32, copy=False)
    return found


def postprocess(logits: npt.NDArray[np.float32], outputs: Outputs) -> Predictions:
    """Logits of shape (logits, rows) to predictions; the probability is NaN where a logit is not finite."""
    probability = probability_of(logits)
    decile = np.ones(len(probability), dtype=np.int8)
    for edge in outputs.decile_edges:
        decile += probability >= np.float32(edge)
    if len(logits) == 1:
        return Predictions(probability, decile, (probability >= np.float32(outputs.threshold or 0.5)).astype(np.int8))
    label, largest = np.zeros(len(probability), dtype=np.int8), logits[0]
    for number, one in enumerate(logits[1:], start=1):
        label = np.where(one > largest, np.int8(number), label)
        largest = np.maximum(largest, one)
    return Predictions(probability, decile, label)


def prediction_table(keys: pa.Array, key: str, predictions: Predictions, outputs: Outputs, version: str, day: str) -> pa.Table:
    """The rows of a predictions file; every record carries the model version and the partition."""
    rows = len(keys)
    constant = as_arrow(np.zeros(rows, dtype=np.int8))
    return pa.table(
        {
            key: keys,
            "probability": as_arrow(predictions.probability),
            "decile": as_arrow(predictions.decile),
            "label": _named(as_arrow(predictions.label), list(outputs.labels)),
            "model_version": _named(constant, [version]),
            "partition": _named(constant, [day]),
        }
    )


def predictions_of(table: pa.Table, outputs: Outputs) -> Predictions:
    """The inverse of `prediction_table`, for reading files back."""
    labels = as_text(outputs.labels)
    label = table.column("label").combine_chunks().cast(pa.string())
    return Predictions(
        as_numpy(table.column("probability")),
        as_numpy(table.column("decile")),
        as_numpy(pc.index_in(label, labels)).astype(np.int8),
    )


def _named(places: pa.Array, names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(places, as_text(names))
