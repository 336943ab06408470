"""What can be set about scoring, and which part of it decides the values of a run."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batch_assets.scoring.inputs import SHAPE

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16", "tf32"]

DEFAULT_BATCH_ROWS = 1_024
"""What `auto` means for a model that no sweep has measured: its temporaries fit into a core's cache."""


class Exclusion(BaseModel):
    """A business rule: rows whose feature compares so are not scored, and say why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(description="What the excluded row's record says.", min_length=1)
    column: str = Field(description="A feature of the contract with one value a row.")
    op: Literal["<", "<=", "==", "!=", ">=", ">"] = Field(description="How the feature is compared with the value.")
    value: float

    def applies(self, column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which rows are excluded; NaN never is."""
        compare = {"<": np.less, "<=": np.less_equal, "==": np.equal}.get(self.op)
        if compare is None:
            compare = {"!=": np.not_equal, ">=": np.greater_equal, ">": np.greater}[self.op]
        excluded: npt.NDArray[np.bool_] = compare(column, self.value) & ~np.isnan(column)
        return excluded


class ScoringSettings(BaseModel):
    """How a pipeline's rows are scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk_rows: int = Field(131_072, description="Rows per chunk: the unit of work, of commit and of resume.", ge=1)
    batch_size: int | Literal["auto"] = Field(
        "auto", description="Rows per forward pass, always padded to this shape; auto: what `batch-assets sweep` found best."
    )
    device: Device = Field("cpu", description="Where the model runs; cuda takes one GPU per worker.")
    precision: Precision = Field("float32", description="A lower one must agree with float32 on a sample first.")
    max_difference: float = Field(
        0.01,
        description="By how much a score may differ from float32's in a lower precision; of numbers, in standard deviations.",
        gt=0,
        le=1,
    )
    min_rank_agreement: float = Field(
        0.999, description="Rank correlation (Spearman) with float32's scores that a lower precision must reach.", ge=0, le=1
    )
    max_failed: float = Field(
        0.01, description="Share of a chunk's rows on which the model may raise before the run stops.", ge=0, le=1
    )
    audit_groups: int = Field(8, description="Row groups of which rows are scored again before the run counts as proven.", ge=0)
    audit_rows: int = Field(
        40, description="Rows of each such row group; more of each where there are fewer, and all of a small day.", ge=1
    )
    exclude: tuple[Exclusion, ...] = Field((), description="Business rules: rows that are not scored, with the reason.")

    @field_validator("batch_size")
    @classmethod
    def _whole_shapes(cls, batch_size: int | str) -> int | str:
        if isinstance(batch_size, int) and (batch_size < SHAPE or batch_size % SHAPE):
            raise ValueError(f"must be auto or a multiple of {SHAPE}, not {batch_size}")
        return batch_size

    @model_validator(mode="after")
    def _precision_fits_device(self) -> "ScoringSettings":
        if self.precision == "tf32" and self.device == "cpu":
            raise ValueError("tf32 is a precision of GPUs; on a CPU take float32 or bfloat16")
        return self

    @property
    def batch_rows(self) -> int:
        """Rows per forward pass."""
        return DEFAULT_BATCH_ROWS if self.batch_size == "auto" else self.batch_size

    def deciding(self) -> dict[str, Any]:
        """What decides the values of a run and is part of its id; bounds that only stop a run are not."""
        judged = {"max_difference", "min_rank_agreement", "max_failed", "audit_groups", "audit_rows", "batch_size"}
        return {**self.model_dump(mode="json", exclude=judged), "batch_rows": self.batch_rows}
