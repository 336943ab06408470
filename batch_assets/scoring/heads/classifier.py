"""Classes: from logits or probabilities to a probability, its decile and a label, vectorized over a chunk.

A model gives logits or probabilities, as its card says. Of two classes it gives one value a row, the positive class's, or one
for each class; its probability is that of the positive class. Of three or more classes it gives one value a class; its
probability is that of the most likely class, which is the label.

The one cannot be told from the other by their shape, and logits that are probabilities already would be squashed twice. So
outputs are looked at, when a model is registered and on the first chunk of a night: what looks like something else than the
card says is refused, until a person confirms it.
"""

from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator
from typing_extensions import override

from batch_assets.records import MOST_NAMES, RecordField, Records, RecordType
from batch_assets.runs.rejects import NO_PROBABILITIES, NON_FINITE_OUTPUT
from batch_assets.scoring.heads.head import CONFIRM, Head, Values

Returns = Literal["logits", "probabilities"]

_ROUNDING = 1e-6
"""By how much a probability may be outside of [0, 1] because it was rounded; it is cut off."""

_SUM_ROUNDING = 2**-8
"""By how much the probabilities of a row may miss 1 because they were rounded, perhaps to the 8 bits of bfloat16."""


class _Classifier(Head):
    """What is the same of two classes and of more."""

    decides: ClassVar[tuple[str, ...]] = ("labels",)
    fields: ClassVar[tuple[str, ...]] = ("probability", "decile", "label", "scores")

    returns: Returns = Field(
        description="What the model gives: logits, or probabilities, if it ends in a sigmoid or softmax itself."
    )
    labels: tuple[str, ...] = Field(description="Names of the classes, in the order in which the model gives them.")

    @field_validator("labels")
    @classmethod
    def _told_apart(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) > MOST_NAMES:
            raise ValueError(
                f"there are {len(labels)} labels and at most {MOST_NAMES} can be told apart, as a label is kept in one byte: "
                "put rare classes together, or split the model"
            )
        if len(set(labels)) < len(labels):
            raise ValueError("two labels have the same name")
        return labels

    @cached_property
    def record(self) -> RecordType:
        """Probability, decile and label: 6 bytes."""
        return RecordType(
            fields=(
                RecordField(name="probability", dtype="f4"),
                RecordField(name="decile", dtype="i1"),
                RecordField(name="label", dtype="i1", names=self.labels),
            ),
            score="probability",
        )

    @property
    @override
    def spoken(self) -> str:
        if self.width > 1:
            return f"{self.width} {self.returns}"
        return "one logit" if self.returns == "logits" else "one probability"

    @override
    def unlike(self, given: int) -> str:
        return f"{given} values a row, for the labels {', '.join(self.labels[:8])} it must be {self.spoken}"

    @override
    def score_of(self, values: Values) -> npt.NDArray[np.float32]:
        return probability_of(values, self.returns)

    @override
    def why_not(self, values: Values) -> str:
        return NO_PROBABILITIES if self.returns == "probabilities" and np.isfinite(values).all() else NON_FINITE_OUTPUT

    @override
    def impossible(self, values: Values) -> npt.NDArray[np.bool_]:
        return no_probabilities(values) if self.returns == "probabilities" else super().impossible(values)

    @property
    @override
    def usual(self) -> float:
        """Logits near 0 are sums of larger numbers, but of rare events all probabilities are small."""
        return 1.0 if self.returns == "logits" else 0.01

    @property
    @override
    def _confirm(self) -> str:
        return f"if they are {self.returns} all the same, {CONFIRM}"

    @override
    def _looks_impossible(self, finite: Values) -> str:
        wrong = self.impossible(finite)
        if not wrong.any():
            return ""
        row = ", ".join(f"{value:.6g}" for value in finite[:8, np.flatnonzero(wrong)[0]])
        sums = "" if self.width == 1 else " that sum to 1"
        return (
            f"its card says that it returns probabilities, but {wrong.sum():,} of {len(wrong):,} rows are not between 0 and 1"
            f"{sums} (one is {row}): if these are logits, say returns: logits in the head of its card, as "
            f'in {type(self).__name__}(returns="logits", …)'
        )

    @override
    def _looks_otherwise(self, finite: Values) -> str:
        kinds, rows = np.unique(finite), finite.shape[1]
        if len(kinds) <= max(2, len(self.labels)) and (kinds == np.round(kinds)).all():
            numbers = ", ".join(f"{kind:g}" for kind in kinds[:8])
            return (
                f"its card says that it returns {self.returns}, but all it gives to {rows:,} rows is {numbers}, as numbers of "
                f"classes are: export the module without its argmax or threshold; {self._confirm}"
            )
        if self.returns == "logits" and kinds[0] >= 0 and kinds[-1] <= 1 + _ROUNDING:
            sums = " and sum to 1" if self.width > 1 and not no_probabilities(finite).any() else ""
            return (
                f"its card says that it returns logits, but what it gives to {rows:,} rows all lies between 0 and 1{sums}, as "
                "probabilities do, and they would be squashed twice: if it ends in a sigmoid or softmax, say returns: "
                f'probabilities in the head of its card, as in {type(self).__name__}(returns="probabilities", …); '
                f"{self._confirm}"
            )
        return ""


class Binary(_Classifier):
    """Two classes; the negative one comes first. The label is the positive one from the threshold on."""

    kind: Literal["binary"] = "binary"
    labels: tuple[str, ...] = Field(description="Names of both classes, the negative one first.", min_length=2, max_length=2)
    per_class: bool = Field(False, description="Whether the model gives one value for each class, not only the positive one's.")
    threshold: float = Field(0.5, description="The probability from which on the positive label is given.", gt=0, lt=1)

    @property
    @override
    def width(self) -> int:
        return 2 if self.per_class else 1

    @property
    @override
    def threshold_of_label(self) -> float | None:
        return self.threshold

    @override
    def fitted(self, values: Values) -> Head:
        """As every head's; a model that gives two values gives one for each class."""
        said = self.model_copy(update={"per_class": True}) if len(values) == 2 else self
        return super(Binary, said).fitted(values)

    @override
    def unlike(self, given: int) -> str:
        advice = "; say per_class: true in the head of its card if it gives one for each class" if given == 2 else ""
        return super().unlike(given) + advice

    @override
    def records(self, values: Values) -> Records:
        probability = self.score_of(values)
        label = (probability >= np.float32(self.threshold)).astype(np.int8)
        return Records(self.record, {"probability": probability, "decile": self.deciles(probability), "label": label})


class Classes(_Classifier):
    """Three or more classes; the label is the most likely one, the probability is its own."""

    decides: ClassVar[tuple[str, ...]] = ("labels", "scores")

    kind: Literal["classes"] = "classes"
    labels: tuple[str, ...] = Field(
        description="Names of the classes, in the order in which the model gives them.", min_length=3
    )
    scores: bool = Field(False, description="Whether the record holds the probability of every class as well.")

    @property
    @override
    def width(self) -> int:
        return len(self.labels)

    @cached_property
    def record(self) -> RecordType:
        """Probability, decile, label and, if asked for, `scores`: the probability of each class."""
        plain = super().record
        if not self.scores:
            return plain
        return plain.model_copy(
            update={"fields": (*plain.fields, RecordField(name="scores", dtype="f4", length=len(self.labels)))}
        )

    @override
    def records(self, values: Values) -> Records:
        probability = self.score_of(values)
        label, largest = np.zeros(len(probability), dtype=np.int8), values[0]
        for number, one in enumerate(values[1:], start=1):
            label = np.where(one > largest, np.int8(number), label)
            largest = np.maximum(largest, one)
        found: dict[str, npt.NDArray[Any]] = {"probability": probability, "decile": self.deciles(probability), "label": label}
        if self.scores:
            found["scores"] = np.ascontiguousarray(probabilities_of(values, self.returns).T)
        return Records(self.record, found)


def probability_of(values: Values, returns: Returns) -> npt.NDArray[np.float32]:
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


def no_probabilities(values: Values) -> npt.NDArray[np.bool_]:
    """Which rows of outputs of shape (values, rows) cannot be probabilities: outside of [0, 1], or with another sum than 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        inside = np.logical_and.reduce((values >= -_ROUNDING) & (values <= 1 + _ROUNDING), axis=0)  # NaN is not
        if len(values) > 1:
            inside = np.logical_and(inside, np.abs(values.sum(axis=0) - 1) <= _SUM_ROUNDING)
    wrong: npt.NDArray[np.bool_] = np.logical_not(inside)
    return wrong


def probabilities_of(values: Values, returns: Returns) -> Values:
    """The probability of each class, shape (values, rows), of three or more; of the most likely one it is `probability_of`."""
    if returns == "probabilities":
        return values.clip(0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(values - values.max(axis=0))
        found: Values = (powers / powers.sum(axis=0)).astype(np.float32, copy=False)
        return found
