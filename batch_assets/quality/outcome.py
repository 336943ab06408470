"""One judgement: what was observed, what was allowed, and how bad it is."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Asset = Literal["user_features", "predictions", "serving_table"]
Severity = Literal["error", "warn", "info"]


class Override(BaseModel):
    """Who decided, when and why, that a finding does not block."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    when: str
    why: str


class Shares(BaseModel):
    """A picture in numbers: what was expected and what was observed, group by group, in a unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    unit: str = "share of rows"
    groups: tuple[str, ...]
    expected: tuple[float, ...]
    observed: tuple[float, ...]


class CheckOutcome(BaseModel):
    """The outcome of one check.

    `severity` is that of the finding: a failed `error` blocks unless somebody overrode it, a failed `warn` is shown, `info`
    says that there was nothing to judge.
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

    shares: Shares | None = None
    override: Override | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing may be published on this outcome."""
        return not self.passed and self.severity == "error" and self.override is None

    def as_mapping(self) -> dict[str, Any]:
        """Plain values for the command line and its JSON; the UI shows tables and pictures."""
        return {**self.model_dump(mode="json", exclude={"table", "shares"}), "message": self.explained()}

    def explained(self) -> str:
        """The message, and who overrode it if somebody did."""
        if self.override is None:
            return self.message
        return f"{self.message} Overridden by {self.override.by} on {self.override.when[:10]}: {self.override.why}"


def none_blocks(outcomes: Iterable[CheckOutcome]) -> bool:
    """Whether there is at least one outcome, and none that blocks."""
    found = list(outcomes)
    return bool(found) and not any(outcome.blocks for outcome in found)
