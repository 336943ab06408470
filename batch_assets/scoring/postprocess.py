"""From raw model outputs to what is served: probability, decile and label, vectorized over a chunk.

A model gives logits or probabilities, as its card says. Of two classes it gives one value a row, the positive class's, or one
for each class; its probability is that of the positive class. Of three or more classes it gives one value a class; its
probability is that of the most likely class, which is the label.

The one cannot be told from the other by their shape, and logits that are probabilities already would be squashed twice. So
outputs are looked at, when a model is registered and on the first chunk of a night: what looks like something else than the
card says is refused, until a person confirms it.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.arrow import as_arrow, as_numpy, as_text

Returns = Literal["logits", "probabilities"]

MOST_CLASSES = 127
"""A label is kept in one byte."""

CONFIRM = "confirm it: models register … --confirm-outputs"
"""How a person says that outputs are what the card says, whatever they look like."""

ENOUGH = 64
"""Rows; what fewer look like says nothing."""

_ROUNDING = 1e-6
"""By how much a probability may be outside of [0, 1] because it was rounded; it is cut off."""

_SUM_ROUNDING = 2**-8
"""By how much the probabilities of a row may miss 1 because they were rounded, perhaps to the 8 bits of bfloat16."""


class Outputs(BaseModel):
    """What a classifier's outputs mean. It is frozen into the model's card, so no second pass over the data is needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    returns: Returns = Field(
        description="What the model gives: logits, or probabilities, if it ends in a sigmoid or softmax itself."
    )
    labels: tuple[str, ...] = Field(description="Names of the classes; of two, the negative one comes first.", min_length=2)
    per_class: bool = Field(
        False, description="Of two classes: whether the model gives one value for each, not only the positive one's."
    )
    threshold: float | None = Field(
        None, description="Of two classes: the probability from which on the positive label is given.", gt=0, lt=1
    )
    decile_edges: tuple[float, ...] = Field(
        description="The 0.1 … 0.9 quantiles of the probability on the baseline day.", min_length=9, max_length=9
    )
    confirmed: bool = Field(
        False, description="Whether a person said that outputs which look like something else are what `returns` says."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Outputs":
        if len(self.labels) > MOST_CLASSES:
            raise ValueError(
                f"there are {len(self.labels)} labels and at most {MOST_CLASSES} can be told apart, as a label is kept in one "
                "byte: put rare classes together, or split the model"
            )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have the same name")
        if (self.threshold is not None) != (len(self.labels) == 2):
            raise ValueError("a threshold belongs to two classes, and only to two")
        if self.per_class and len(self.labels) != 2:
            raise ValueError("per_class is said of two classes; of more, the model always gives one value for each")
        return self

    @property
    def width(self) -> int:
        """How many values the model gives a row."""
        return 1 if len(self.labels) == 2 and not self.per_class else len(self.labels)

    @property
    def spoken(self) -> str:
        """What the model gives a row, in words."""
        if self.width > 1:
            return f"{self.width} {self.returns}"
        return "one logit" if self.returns == "logits" else "one probability"


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


def probability_of(values: npt.NDArray[np.float32], returns: Returns) -> npt.NDArray[np.float32]:
    """The probability in float32, shape (rows,), of a model's outputs of shape (values, rows).

    It is the positive class's of one value or two, the largest of more. Logits become one by the logistic function or the
    softmax. It is NaN where a logit is not finite (an infinite one would look like a good 0 or 1), and where what should be
    probabilities are none: outside of [0, 1], or with another sum than 1.
    """
    if returns == "probabilities":
        chosen = values[-1] if len(values) <= 2 else values.max(axis=0)
        return np.where(no_probabilities(values), np.float32(np.nan), chosen.clip(0, 1)).astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = values[1:] - values[:1] if len(values) == 2 else values
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


def no_probabilities(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which rows of outputs of shape (values, rows) cannot be probabilities: outside of [0, 1], or with another sum than 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        inside = np.logical_and.reduce((values >= -_ROUNDING) & (values <= 1 + _ROUNDING), axis=0)  # NaN is not
        if len(values) > 1:
            inside = np.logical_and(inside, np.abs(values.sum(axis=0) - 1) <= _SUM_ROUNDING)
    wrong: npt.NDArray[np.bool_] = np.logical_not(inside)
    return wrong


def looks_otherwise(values: npt.NDArray[np.float32], outputs: Outputs) -> str:
    """What a model's outputs of shape (values, rows) look like instead of what its card says, as a sentence; or nothing.

    Rows that are not finite say nothing. Outputs that cannot be probabilities are told even if a person has confirmed what they
    look like: there is nothing to confirm.
    """
    finite = values[:, np.isfinite(values).all(axis=0)]
    rows = finite.shape[1]
    if not rows:
        return ""
    if outputs.returns == "probabilities":
        wrong = no_probabilities(finite)
        if wrong.any():
            row = ", ".join(f"{value:.6g}" for value in finite[:8, np.flatnonzero(wrong)[0]])
            sums = "" if outputs.width == 1 else " that sum to 1"
            return (
                f"its card says that it returns probabilities, but {wrong.sum():,} of {rows:,} rows are not between 0 and 1"
                f"{sums} (one is {row}): if these are logits, say returns: logits in the card, as in make_card(…, "
                'returns="logits")'
            )
    if outputs.confirmed or rows < ENOUGH:
        return ""
    confirm = f"if they are {outputs.returns} all the same, {CONFIRM}"
    if (finite == finite[:, :1]).all():
        value = ", ".join(f"{one:.6g}" for one in finite[:8, 0])
        return f"it gives {value} to each of {rows:,} rows: a model that says the same of everybody says nothing; {confirm}"
    kinds = np.unique(finite)
    if len(kinds) <= max(2, len(outputs.labels)) and (kinds == np.round(kinds)).all():
        numbers = ", ".join(f"{kind:g}" for kind in kinds[:8])
        return (
            f"its card says that it returns {outputs.returns}, but all it gives to {rows:,} rows is {numbers}, as numbers of "
            f"classes are: export the module without its argmax or threshold; {confirm}"
        )
    if outputs.returns == "logits" and kinds[0] >= 0 and kinds[-1] <= 1 + _ROUNDING:
        sums = " and sum to 1" if outputs.width > 1 and not no_probabilities(finite).any() else ""
        return (
            f"its card says that it returns logits, but what it gives to {rows:,} rows all lies between 0 and 1{sums}, as "
            "probabilities do, and they would be squashed twice: if it ends in a sigmoid or softmax, say returns: "
            f'probabilities in the card, as in make_card(…, returns="probabilities"); {confirm}'
        )
    return ""


def postprocess(values: npt.NDArray[np.float32], outputs: Outputs) -> Predictions:
    """Outputs of shape (values, rows) to predictions; the probability is NaN where it is not known, see `probability_of`."""
    probability = probability_of(values, outputs.returns)
    decile = np.ones(len(probability), dtype=np.int8)
    for edge in outputs.decile_edges:
        decile += probability >= np.float32(edge)
    if len(outputs.labels) == 2:
        return Predictions(probability, decile, (probability >= np.float32(outputs.threshold or 0.5)).astype(np.int8))
    label, largest = np.zeros(len(probability), dtype=np.int8), values[0]
    for number, one in enumerate(values[1:], start=1):
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
