"""The catalogue of gates: every check there is, in the order in which a night meets them.

A new gate is one file in this room, which judges and makes its outcome by `GATES["its name"].outcome(…)`; one line here; and
the place in `nightly` where it is asked. Dagster's checks, and a test of the README's table, are made from this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batch_assets.quality.outcome import Asset, CheckOutcome, Finding, Severity, Shares


@dataclass(frozen=True)
class Gate:
    """A question that a night must pass: of which asset, in words, and whether it may block."""

    name: str
    asset: Asset
    description: str
    blocks: bool = True

    def outcome(
        self,
        *,
        passed: bool,
        severity: Severity,
        message: str,
        observed: float | None = None,
        threshold: float | None = None,
        figures: Mapping[str, float] | None = None,
        findings: Sequence[Finding] = (),
        table: str = "",
        shares: Shares | None = None,
    ) -> CheckOutcome:
        """What was found; see `CheckOutcome`."""
        return CheckOutcome(
            name=self.name,
            asset=self.asset,
            passed=passed,
            severity=severity,
            message=message,
            observed=observed,
            threshold=threshold,
            figures=dict(figures or {}),
            findings=tuple(findings),
            table=table,
            shares=shares,
        )


_ALL = (
    Gate("contract", "user_features", "The columns are those that were agreed: names, order, types."),
    Gate(
        "sources",
        "user_features",
        "Every table has rows of the day, about as many as are usual, and the features are not those of an earlier day.",
    ),
    Gate(
        "expectations",
        "user_features",
        "great-expectations on the column profile: rows, missing values, permitted ranges, the team's own.",
    ),
    Gate(
        "changes",
        "user_features",
        "Nothing is suddenly otherwise than on comparable good days: rows, units, filled columns, missing values.",
    ),
    Gate(
        "feature_drift",
        "user_features",
        "PSI, KS and Jensen-Shannon of each feature against the nearest comparable good day before.",
    ),
    Gate("full_scan", "user_features", "great-expectations on every row."),
    Gate("complete", "predictions", "Every row is accounted for, by proof, and enough of them were scored."),
    Gate("dead_letters", "predictions", "Few enough rows could not be scored; it only warns.", blocks=False),
    Gate("one_model", "predictions", "Every chunk was scored by the approved version and program."),
    Gate("audit", "predictions", "Some rows were scored again, alone, and are what is about to be published."),
    Gate("scores", "predictions", "Scores are finite and not all the same, and not all rows have one label."),
    Gate("drift", "predictions", "PSI, KS and Jensen-Shannon against the nearest comparable day that the same model scored."),
    Gate("ranks", "predictions", "By and large, keys rank as on the newest accepted day that the same model scored."),
    Gate("previous_model", "predictions", "The same against the version before, beyond what its approval was told to expect."),
    Gate("baseline", "predictions", "The same against the model card's baseline; it only warns.", blocks=False),
    Gate("feature_baseline", "predictions", "The features against the model card's baseline; it only warns.", blocks=False),
    Gate("published_matches", "serving_table", "The release holds what the manifest says."),
    Gate("sla", "serving_table", "The day, or a newer one, went live by the deadline of its SLA.", blocks=False),
)

GATES: Mapping[str, Gate] = {gate.name: gate for gate in _ALL}
"""Every gate by its name. `full_scan` and `sla` are asked where a pipeline says so."""


def gates_of(asset: Asset, *without: str) -> list[Gate]:
    """The gates of one asset, but for some."""
    return [gate for gate in GATES.values() if gate.asset == asset and gate.name not in without]
