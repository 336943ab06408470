"""One judgement: what was observed, what was allowed, and how bad it is."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

Asset = Literal["user_features", "predictions", "serving_table"]
Severity = Literal["error", "warn", "info"]

FEWER_ROWS, MORE_ROWS, UNSCORED_ROWS = "fewer_rows", "more_rows", "unscored_rows"
"""The kinds of findings that are about how many rows there are, and not about what is in them."""


class Override(BaseModel):
    """Who decided, when and why, that a finding on a day does not block; it holds for the same finding until another day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    when: str
    why: str
    day: str
    until: str

    def __str__(self) -> str:
        span = f" for {self.day} until {self.until}" if self.until > self.day else ""
        return f"Overridden{span} by {self.by} on {self.when[:10]}: {self.why}"


class Finding(BaseModel):
    """One thing that a check found: of which column (empty: of the rows, or of everything), of what kind, in words.

    Findings of one check with the same subject and kind, on two days, are the same finding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = ""
    kind: str
    message: str
    severity: Literal["error", "warn"] = "error"
    override: Override | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing may be published on it."""
        return self.severity == "error" and self.override is None

    @property
    def of_rows(self) -> bool:
        """Whether it is about how many rows there are."""
        return self.kind in (FEWER_ROWS, MORE_ROWS, UNSCORED_ROWS)


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

    `severity` is that of the worst finding: a failed `error` blocks unless somebody overrode each of its findings, a failed
    `warn` is shown, `info` says that there was nothing to judge.
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
    findings: tuple[Finding, ...] = ()
    """What the message is made of, one by one; a check that has but one thing to find need not say it twice."""

    table: str = ""
    """Details as a Markdown table, offending rows first."""

    shares: Shares | None = None
    judged: str = ""
    """When, in UTC; a verdict is kept as long as it would be compared with the same."""

    @model_validator(mode="before")
    @classmethod
    def _failed_for_a_reason(cls, said: Any) -> Any:
        """A failed check that lists no findings has one, about everything: its message."""
        if not isinstance(said, Mapping) or said.get("passed") or said.get("findings") or said.get("severity") == "info":
            return said
        whole = {"kind": said.get("name"), "message": said.get("message"), "severity": said.get("severity")}
        return {**said, "findings": (whole,)}

    @property
    def blocks(self) -> bool:
        """Whether nothing may be published on this outcome."""
        decided = any(one.override for one in self.findings) and not any(one.blocks for one in self.findings)
        return not self.passed and self.severity == "error" and not decided

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings that block."""
        return tuple(one for one in self.findings if one.blocks) if self.blocks else ()

    @property
    def override(self) -> Override | None:
        """The decision by which a failed check does not block (of several the first); None if it blocks, or never did."""
        return next((one.override for one in self.findings if one.override), None) if not self.blocks else None

    def as_mapping(self, began: str = "") -> dict[str, Any]:
        """Plain values for the command line and its JSON; the UI shows tables and pictures. `began`: see `explained`."""
        override = self.override.model_dump(mode="json") if self.override else None
        said = self.model_dump(mode="json", exclude={"table", "shares"})
        return {**said, "message": self.explained(began), "override": override}

    def explained(self, began: str = "") -> str:
        """The message, and what of it somebody overrode; and when it was judged, if that was before something `began`."""
        decided: dict[Override, list[str]] = {}
        for finding in self.findings:
            if finding.override:
                decided.setdefault(finding.override, []).append(finding.subject)
        whole = len(decided) == 1 and not self.blocks
        said = (str(one) if whole else f"{', '.join(filter(None, of)) or self.name}: {one}" for one, of in decided.items())
        kept = (
            (f"(Judged {self.judged[:10]} {self.judged[11:16]} UTC, not now.)",) if self.judged < began and self.judged else ()
        )
        return " ".join((self.message, *said, *kept))


def none_blocks(outcomes: Iterable[CheckOutcome]) -> bool:
    """Whether there is at least one outcome, and none that blocks."""
    found = list(outcomes)
    return bool(found) and not any(outcome.blocks for outcome in found)
