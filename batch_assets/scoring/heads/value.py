"""A number: what somebody will spend, how many days until they come back."""

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from batch_assets.records import RecordField, Records, RecordType
from batch_assets.scoring.heads.head import Head, Values

_RECORD = RecordType(fields=(RecordField(name="value", dtype="f4"), RecordField(name="decile", dtype="i1")), score="value")


class Value(Head):
    """Regression: the number that the model gives, as it is, and its decile on the baseline day."""

    kind: Literal["value"] = "value"
    fields: ClassVar[tuple[str, ...]] = _RECORD.names

    @property
    @override
    def width(self) -> int:
        return 1

    @property
    @override
    def record(self) -> RecordType:
        return _RECORD

    @property
    @override
    def spoken(self) -> str:
        return "one number"

    @override
    def score_of(self, values: Values) -> npt.NDArray[np.float32]:
        return np.where(np.isfinite(values[0]), values[0], np.float32(np.nan)).astype(np.float32, copy=False)

    @override
    def records(self, values: Values) -> Records:
        value = self.score_of(values)
        return Records(_RECORD, {"value": value, "decile": self.deciles(value)})

    @override
    def spread(self, scores: npt.NDArray[np.float32]) -> float:
        """Their standard deviation: dollars and days have no unit in common."""
        finite = scores[np.isfinite(scores)]
        return float(np.std(finite, dtype=np.float64)) if len(finite) and finite.min() < finite.max() else 1.0
