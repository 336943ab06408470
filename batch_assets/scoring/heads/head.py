"""PORT Head: raw outputs of shape (values, rows) -> one record for each row, a numpy dtype with named fields.

A head is frozen into the card of a model, so no second pass over a night's data is needed: what it must know of a model's
usual scores, it was told by `fitted` when the card was made. It says which field is the score: what drift, ranks, preflight
and plots look at.

A head of a package of your own, for a model that gives a number of minutes:

    class Minutes(Head):
        kind: Literal["minutes"] = "minutes"
        fields = ("minutes",)

        @property
        def width(self) -> int:
            return 1

        @property
        def record(self) -> RecordType:
            return RecordType(fields=(RecordField(name="minutes", dtype="f4"),), score="minutes")

        def records(self, values: Values) -> Records:
            return Records(self.record, {"minutes": finite(values[0])})

        ...
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.errors import ModelMisfit, NoSuchKind
from batch_assets.ports import Adapter, Port
from batch_assets.records import Records, RecordType
from batch_assets.runs.rejects import NON_FINITE_OUTPUT

Values = npt.NDArray[np.float32]
"""What a model gives: shape (values, rows)."""

CONFIRM = "confirm it: models register … --confirm-outputs"
"""How a person says that outputs are what the card says, whatever they look like."""

ENOUGH = 64
"""Rows; what fewer look like says nothing."""

DECILES = np.arange(1, 10) / 10


class Head(Adapter):
    """What the outputs of a model mean; each kind has its own fields."""

    decides: ClassVar[tuple[str, ...]] = ()
    """The settings that decide the record, which `answers:` of a pipeline fixes for all versions of its model."""

    fields: ClassVar[tuple[str, ...]]
    """The names that fields of the record may have."""

    decile_edges: tuple[float, ...] = Field(
        (), description="The 0.1 … 0.9 quantiles of the score on the baseline day; `fitted` measures them.", max_length=9
    )
    confirmed: bool = Field(
        False, description="Whether a person said that outputs which look like something else are what the card says."
    )

    @property
    @abstractmethod
    def width(self) -> int:
        """How many values the model gives a row."""

    @property
    @abstractmethod
    def record(self) -> RecordType:
        """The record of a row."""

    @property
    @abstractmethod
    def spoken(self) -> str:
        """What the model gives a row, in words: "one logit"."""

    @abstractmethod
    def score_of(self, values: Values) -> npt.NDArray[np.float32]:
        """The score of each row, shape (rows,), NaN where the outputs give none: such a row is dead-lettered."""

    @abstractmethod
    def records(self, values: Values) -> Records:
        """The record of each row; what stands in one whose score is NaN does not matter."""

    def why_not(self, values: Values) -> str:  # noqa: ARG002
        """Why one row's outputs, shape (values,), give no score: the reason of its dead letter."""
        return NON_FINITE_OUTPUT

    def impossible(self, values: Values) -> npt.NDArray[np.bool_]:
        """Which rows, shape (rows,), have finite outputs that cannot be what the card says, whatever a person confirms."""
        return np.zeros(values.shape[1], dtype=bool)

    def misfit(self, values: Values) -> str:
        """What outputs of shape (values, rows) look like instead of what the card says, as a sentence without its end; or "".

        They are looked at when a model is registered and on the first chunk of a night. Rows that are not finite say nothing;
        nor do few rows, or what a person has confirmed.
        """
        finite = values[:, np.isfinite(values).all(axis=0)]
        if not finite.shape[1]:
            return ""
        found = self._looks_impossible(finite)
        if found or self.confirmed or finite.shape[1] < ENOUGH:
            return found
        if (finite == finite[:, :1]).all():
            value = ", ".join(f"{one:.6g}" for one in finite[:8, 0])
            same = f"it gives {value} to each of {finite.shape[1]:,} rows: a model that says the same of everybody says nothing"
            return f"{same}; {self._confirm}"
        return self._looks_otherwise(finite)

    def _looks_impossible(self, finite: Values) -> str:  # noqa: ARG002
        return ""

    def _looks_otherwise(self, finite: Values) -> str:  # noqa: ARG002
        return ""

    @property
    def _confirm(self) -> str:
        return f"if that is right, {CONFIRM}"

    def unlike(self, given: int) -> str:
        """That a model gives another number of values a row than `width`, and what may help, as the end of a sentence."""
        return f"{given} values a row, it must be {self.spoken}"

    @property
    def usual(self) -> float:
        """What outputs are at least, as a rule: how far they may differ from one shape to another is a share of it."""
        return 1.0

    def spread(self, scores: npt.NDArray[np.float32]) -> float:  # noqa: ARG002
        """In which unit differences of scores are told where a lower precision is compared with float32."""
        return 1.0

    @property
    def threshold_of_label(self) -> float | None:
        """The score from which on the second of two labels is given, if there is one."""
        return None

    def fitted(self, values: Values) -> "Head":
        """This head with what it must know of usual scores, from the outputs of a day that the model was not trained on.

        Raises ModelMisfit if they are not what it says of them.
        """
        if len(values) != self.width:
            raise ModelMisfit(f"The model gives {self.unlike(len(values))}.")
        scores = self.score_of(values)
        finite = scores[np.isfinite(scores)]
        misfit = self.misfit(values) or ("" if len(finite) else "it gives no finite value")
        if misfit:
            raise ModelMisfit(f"The model does not fit its card: {misfit.replace(CONFIRM, 'say confirmed=True')}.")
        return self.model_copy(update={"decile_edges": tuple(np.quantile(finite, DECILES).tolist())})

    def deciles(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """1 (lowest) … 10 for each score, by the deciles of the baseline day; shape (rows,)."""
        decile = np.ones(len(scores), dtype=np.int8)
        for edge in self.decile_edges:
            decile += scores >= np.float32(edge)
        return decile


HEADS: Port[Head] = Port(
    "head",
    "batch_assets.heads",
    {
        "binary": "batch_assets.scoring.heads.classifier:Binary",
        "classes": "batch_assets.scoring.heads.classifier:Classes",
        "value": "batch_assets.scoring.heads.value:Value",
    },
)


class Answers(BaseModel):
    """What every version of a pipeline's model answers: the kind of its head, and those of its settings that decide the record.

    They are fixed because readers of the serving table know its fields and labels: another answer is another pipeline, or a
    change that somebody makes in the YAML on purpose.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = Field(description="The kind of head: binary, classes or value.")

    @model_validator(mode="after")
    def _complete(self) -> "Answers":
        try:
            head = HEADS.adapter(self.kind)
        except NoSuchKind as error:
            raise ValueError(str(error).rstrip(".")) from error
        said, deciding = set(self.model_extra or {}), set(head.decides)
        missing = [name for name in head.decides if name not in said and head.model_fields[name].is_required()]
        if missing or said - deciding:
            names = ", ".join(head.decides) or "nothing else"
            raise ValueError(f"answers of the kind {self.kind} say {names}, not {', '.join(sorted(said)) or 'nothing'}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The fields of the record, which no key can be called like."""
        return HEADS.adapter(self.kind).fields

    def differences(self, head: Head) -> list[str]:
        """In what a head answers otherwise, each as a phrase."""
        if head.kind != self.kind:
            return [f"its head is {head.kind}, not {self.kind}"]
        said = {name: head.__class__.model_fields[name].get_default() for name in head.decides} | (self.model_extra or {})
        wanted = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        found = {name: getattr(head, name) for name in head.decides}
        return [f"its {name} are {found[name]}, not {wanted[name]}" for name in head.decides if found[name] != wanted[name]]

    def require(self, head: Head, name: str) -> None:
        """Refuse a model, called `name` in the message, that answers otherwise. Raises ModelMisfit."""
        differences = self.differences(head)
        if differences:
            raise ModelMisfit(
                f"{name} does not answer what the pipeline's readers know: {'; '.join(differences)}; register a version that "
                "does, or change answers in the pipeline's YAML."
            )
