"""From raw model outputs to what is served: probability, decile and label, vectorized over a chunk."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field


class Outputs(BaseModel):
    """What a binary classifier's logit means. It is frozen into the model's card, so no second pass over the data is needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, str] = Field(description="Names of the negative and the positive class.")
    threshold: float = Field(description="Probability from which on the positive label is given.", gt=0, lt=1)
    decile_edges: tuple[float, ...] = Field(
        description="The 0.1 … 0.9 quantiles of the probability on the baseline day.", min_length=9, max_length=9
    )


class Predictions(NamedTuple):
    """Columns of shape (rows,): probability in [0, 1], decile 1 (lowest) … 10, and the label's index."""

    probability: npt.NDArray[np.float32]
    decile: npt.NDArray[np.int8]
    label: npt.NDArray[np.int8]

    def take(self, rows: "slice | npt.NDArray[np.bool_]") -> "Predictions":
        """The predictions of some rows."""
        return Predictions(self.probability[rows], self.decile[rows], self.label[rows])


RECORD_DTYPE = np.dtype([("probability", "<f4"), ("decile", "i1"), ("label", "i1")])
"""One prediction as a store keeps it: 6 bytes, without padding."""


def probability_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logistic function of logits of shape (rows,), in float32."""
    with np.errstate(over="ignore"):
        probability: npt.NDArray[np.float32] = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return probability


def postprocess(logits: npt.NDArray[np.float32], outputs: Outputs) -> Predictions:
    """Logits of shape (rows,) to predictions."""
    probability = probability_of(logits)
    edges = np.asarray(outputs.decile_edges, dtype=np.float32)
    decile = (np.searchsorted(edges, probability, side="right") + 1).astype(np.int8)
    label = (probability >= np.float32(outputs.threshold)).astype(np.int8)
    return Predictions(probability, decile, label)


def prediction_table(keys: pa.Array, key: str, predictions: Predictions, outputs: Outputs, version: str, day: str) -> pa.Table:
    """The rows of a predictions file; every record carries the model version and the partition."""
    rows = len(keys)
    constant = pa.array(np.zeros(rows, dtype=np.int8))
    return pa.table(
        {
            key: keys,
            "probability": pa.array(predictions.probability),
            "decile": pa.array(predictions.decile),
            "label": pa.DictionaryArray.from_arrays(pa.array(predictions.label), list(outputs.labels)),
            "model_version": pa.DictionaryArray.from_arrays(constant, [version]),
            "partition": pa.DictionaryArray.from_arrays(constant, [day]),
        }
    )


def predictions_of(table: pa.Table, outputs: Outputs) -> Predictions:
    """The inverse of `prediction_table`, for reading files back."""
    labels = pa.array(outputs.labels, pa.string())
    label = table.column("label").combine_chunks().cast(pa.string())
    return Predictions(
        _numpy(table.column("probability")),
        _numpy(table.column("decile")),
        _numpy(pc.index_in(label, labels)).astype(np.int8),
    )


def _numpy(column: "pa.Array | pa.ChunkedArray") -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = pa.chunked_array([column]).to_numpy() if isinstance(column, pa.Array) else column.to_numpy()
    return array
