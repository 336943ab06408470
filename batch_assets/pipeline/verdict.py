"""The verdict: everything that was judged of a snapshot or a run, in a numbered log beside it.

Dagster's checks, the command line, the serving gate and the alerts read it; none of them computes its own. A verdict is
appended only when it says something new, so that judging again costs nothing and history stays readable.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from batch_assets.clock import utc_now
from batch_assets.errors import LostRace, NotFound, OverrideInvalid
from batch_assets.numbered_log import NumberedLog
from batch_assets.quality.outcome import CheckOutcome, Override, none_blocks
from batch_assets.storage import Storage


class Verdict(BaseModel):
    """Every outcome on one subject (a snapshot or a run), and the runs or snapshots that it was compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    settings: str
    outcomes: tuple[CheckOutcome, ...]
    compared_with: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing blocks."""
        return none_blocks(self.outcomes)

    @property
    def blocking(self) -> tuple[CheckOutcome, ...]:
        """The outcomes that block."""
        return tuple(outcome for outcome in self.outcomes if outcome.blocks)

    def outcome(self, name: str) -> CheckOutcome:
        """One outcome by its check's name. Raises NotFound: a check that did not run has not passed."""
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise NotFound(f"The verdict on {self.subject} says nothing about {name}: judge it again.")

    def with_overrides(self, overrides: Mapping[str, CheckOutcome]) -> "Verdict":
        """The same verdict, where each outcome that somebody overrode, by its check's name, and that says the same still is."""
        outcomes = tuple(
            before if (before := overrides.get(one.name)) and _without_override(before) == one else one for one in self.outcomes
        )
        return self.model_copy(update={"outcomes": outcomes})

    @property
    def overridden(self) -> dict[str, CheckOutcome]:
        """The outcomes that somebody overrode, by the name of their check."""
        return {outcome.name: outcome for outcome in self.outcomes if outcome.override}


def verdict_log(storage: Storage, folder: str) -> NumberedLog:
    """The verdicts on a snapshot or a run, by its folder; the highest is in force."""
    return NumberedLog(storage, f"{folder}/_verdict")


def read_verdict(storage: Storage, folder: str) -> Verdict | None:
    """The verdict in force on a snapshot or a run, by its folder. Raises LostEntry."""
    log = verdict_log(storage, folder)
    entry = log.latest()
    return Verdict.model_validate(log.require_seen(entry).body) if entry else None


def record(storage: Storage, folder: str, verdict: Verdict, seen: Sequence[NumberedLog] = ()) -> Verdict:
    """Append a verdict unless it says what the one in force says. What was overridden and is found again stays overridden.

    `seen` are the logs that it was made from.
    """
    log = verdict_log(storage, folder)
    while True:
        latest = log.latest()
        before = Verdict.model_validate(latest.body) if latest else None
        merged = verdict.with_overrides(before.overridden) if before else verdict
        if before == merged:
            return merged
        try:
            why = "good" if merged.good else "blocked"
            log.append(merged.model_dump(mode="json"), after=latest.number if latest else 0, why=why, seen=seen)
        except LostRace:
            continue  # somebody judged in the same moment: compare with what they wrote
        return merged


def override(storage: Storage, folder: str, *, by: str, why: str) -> tuple[CheckOutcome, ...]:
    """Decide that what blocks now does not: appended to the verdicts with name and reason. Returns what was overridden.

    It holds for these findings as they are: when the subject is judged again and one of them says something else, or another
    one blocks, it blocks.

    Raises:
        NotFound: the subject was not judged.
        OverrideInvalid: there is nothing to override, or no name or reason is given.
        LostRace: it was judged in the same moment; look at the verdict again.
    """
    log = verdict_log(storage, folder)
    latest = log.latest()
    if latest is None:
        raise NotFound(f"{folder} was not judged yet.")
    verdict = Verdict.model_validate(latest.body)
    if not verdict.blocking:
        raise OverrideInvalid(f"The verdict on {verdict.subject} blocks nothing: there is nothing to override.")
    for what, said in (("a reason", why), ("the name of who decides it", by)):
        if not said.strip():
            raise OverrideInvalid(f"An override needs {what}.")
    decided = Override(by=by, when=utc_now().isoformat(timespec="seconds"), why=why)
    changed = tuple(one.model_copy(update={"override": decided}) if one.blocks else one for one in verdict.outcomes)
    body = verdict.model_copy(update={"outcomes": changed}).model_dump(mode="json")
    seen = [NumberedLog(storage, one) for one in latest.seen]
    log.append(body, after=latest.number, why=f"overridden by {by}: {why}", seen=seen)
    return tuple(one for one in changed if one.override == decided)


def _without_override(outcome: CheckOutcome) -> CheckOutcome:
    return outcome.model_copy(update={"override": None})
