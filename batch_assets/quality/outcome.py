"""One judgement: what was observed, what was allowed, and how bad it is."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

Asset = Literal["user_features", "predictions", "serving_table"]
Severity = Literal["error", "warn", "info"]


class CheckOutcome(BaseModel):
    """The outcome of one check.

    `severity` is that of the finding: a failed `error` blocks, a failed `warn` is shown, `info` says that there was
    nothing to judge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    asset: Asset
    passed: bool
    severity: Severity
    observed: float | None = None
    threshold: float | None = None
    figures: dict[str, float] = {}
    """Other numbers that were observed, by name; the UI plots them over partitions."""

    message: str
    table: str = ""
    """Details as a Markdown table, offending rows first."""

    @property
    def blocks(self) -> bool:
        """Whether nothing may be published on this outcome."""
        return not self.passed and self.severity == "error"


def none_blocks(outcomes: Iterable[CheckOutcome]) -> bool:
    """Whether there is at least one outcome, and none that blocks."""
    found = list(outcomes)
    return bool(found) and not any(outcome.blocks for outcome in found)
