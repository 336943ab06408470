"""What was found when a run was proven: keys, values, and a lower precision. How it is found is in `proof`."""

from pydantic import BaseModel, ConfigDict

from batch_assets.digest import Digest
from batch_assets.errors import PrecisionRejected

ONE_IN_A_HUNDRED = "one row in a hundred, anywhere"
"""A kind of fault, as `Audit.detects` calls it."""


class Proof(BaseModel):
    """What was proven: the digest of all keys of the snapshot, found again in the committed files, chunk by chunk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    chunks: int
    keys: Digest


class Audit(BaseModel):
    """What was compared and found equal. `detects` is the probability of finding a fault of a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_groups: int = 0
    rows: int = 0
    bit_equal: int = 0
    detects: dict[str, float] = {}


class Agreement(BaseModel):
    """How a precision's scores compare with float32's on the same rows.

    `largest_difference` is of the score, in the unit that its head says (`Head.spread`); `rank_agreement` is Spearman's rank
    correlation; `same_label` is the share of rows with the same label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: str
    rows: int
    largest_difference: float
    rank_agreement: float
    same_label: float

    def require(self, max_difference: float, min_rank_agreement: float) -> None:
        """Raise PrecisionRejected unless the scores agree as the pipeline's scoring settings say that they must."""
        if self.largest_difference > max_difference or self.rank_agreement < min_rank_agreement:
            raise PrecisionRejected(
                f"{self.precision} differs from float32 by up to {self.largest_difference:.3g} with rank agreement "
                f"{self.rank_agreement:.6f} on {self.rows:,} rows; allowed are {max_difference:.3g} and "
                f"{min_rank_agreement}: take float32, or allow more in the pipeline's scoring settings."
            )
