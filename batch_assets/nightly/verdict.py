"""The verdict: everything that was judged of a snapshot or a run, in a numbered log beside it.

Dagster's checks, the command line, the serving gate and the alerts read it; none of them computes its own. A verdict is kept as
long as its subject would be compared with the same; it is appended only when it says something new, so that judging again costs
little and history stays readable.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from batch_assets.clock import utc_now
from batch_assets.errors import LostRace, NotFound, OverrideInvalid
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.quality.outcome import Asset, CheckOutcome, Finding, Override, none_blocks
from batch_assets.storage import Storage

OLDEST = 28
"""How many days an override may hold."""

Decision = tuple[str, Finding]
"""A check's name and one of its findings, which somebody overrode."""


class Verdict(BaseModel):
    """Every outcome on one subject (a snapshot or a run of a partition), and the runs or snapshots that it was compared with.

    `basis` is a digest of everything that it depends on beside the subject itself: settings, and what was compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    partition: str
    basis: str
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

    def of(self, asset: Asset) -> tuple[CheckOutcome, ...]:
        """The outcomes of the checks on one asset."""
        return tuple(outcome for outcome in self.outcomes if outcome.asset == asset)

    def outcome(self, name: str) -> CheckOutcome:
        """One outcome by its check's name. Raises NotFound: a check that did not run has not passed."""
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise NotFound(f"The verdict on {self.subject} says nothing about {name}: judge it again.")

    @property
    def overridden(self) -> tuple[Decision, ...]:
        """The findings that somebody overrode. Nothing later is compared with what they are about."""
        return tuple((one.name, finding) for one in self.outcomes for finding in one.findings if finding.override)

    @property
    def is_yardstick(self) -> bool:
        """Whether others may be compared with the subject: not if a finding was overridden that is about everything of it."""
        return all(finding.subject or finding.of_rows for _, finding in self.overridden)


@dataclass(frozen=True)
class Recorded:
    """The verdict in force on the snapshot or the run in a folder, and the entry that holds it."""

    folder: str
    entry: LogEntry[Verdict]

    @property
    def verdict(self) -> Verdict:
        """What it says."""
        return self.entry.body


def verdict_log(storage: Storage, folder: str) -> NumberedLog[Verdict]:
    """The verdicts on a snapshot or a run, by its folder; the highest is in force."""
    return NumberedLog(storage, f"{folder}/_verdict", Verdict)


def recorded_verdict(storage: Storage, folder: str) -> Recorded | None:
    """The verdict in force on a snapshot or a run, by its folder, with its entry.

    Raises:
        LostEntry: a verdict was written and is missing, or the manifest that it is about is.
    """
    log = verdict_log(storage, folder)
    entry = log.latest()
    return Recorded(folder, log.require_seen(entry)) if entry else None


def read_verdict(storage: Storage, folder: str) -> Verdict | None:
    """The verdict in force on a snapshot or a run, by its folder."""
    found = recorded_verdict(storage, folder)
    return found.verdict if found else None


def record(
    storage: Storage, folder: str, judged: Callable[[Verdict | None], Verdict], seen: Sequence[NumberedLog[Any]] = ()
) -> Verdict:
    """Append what is to be said after the verdict in force (None: there is none), unless that says the same.

    `seen` are the logs that it is made from.
    """

    def decide(latest: LogEntry[Verdict] | None) -> LogEntry[Verdict] | Change[Verdict]:
        verdict = judged(latest.body if latest else None)
        if latest is not None and verdict == latest.body:
            return latest
        return Change(verdict, "good" if verdict.good else "blocked", seen)

    return verdict_log(storage, folder).update(decide).body


def decided(
    outcomes: Iterable[CheckOutcome], day: str, before: Verdict | None, earlier: Callable[[], Iterable[Verdict]]
) -> tuple[CheckOutcome, ...]:
    """Outcomes with the overrides that hold for them, and no others.

    Args:
        outcomes: of the checks on a day.
        day: the partition.
        before: the verdict in force on the same subject. What was overridden there holds for findings that say the very same.
        earlier: the verdicts on days before, oldest first, asked for only where something still blocks: what was overridden
            there until this day or a later one holds for the same findings.
    """
    said = before.overridden if before else ()
    own = {(check, _undecided(one)): one.override for check, one in said if one.override and one.override.day == day}
    found = tuple(_with(one, [own.get((one.name, _undecided(finding))) for finding in one.findings]) for one in outcomes)
    if none_blocks(found):
        return found
    ranges = in_force(earlier(), day)

    def in_range(check: str, finding: Finding) -> Override | None:
        return ranges.get((check, finding.subject, finding.kind)) if finding.blocks else finding.override

    return tuple(_with(one, [in_range(one.name, finding) for finding in one.findings]) if one.blocks else one for one in found)


def in_force(verdicts: Iterable[Verdict], day: str) -> dict[tuple[str, str, str], Override]:
    """What was decided in verdicts that holds on a day, by check, subject and kind; of two decisions the later verdict's."""
    return {
        (check, one.subject, one.kind): one.override
        for verdict in verdicts
        for check, one in verdict.overridden
        if one.override and one.override.day == verdict.partition <= day <= one.override.until
    }


def override(storage: Storage, seen: Recorded, asset: Asset, *, by: str, why: str, until: str) -> tuple[Decision, ...]:
    """Decide that what blocks in a verdict does not: appended with name and reason. Returns what was overridden.

    It holds for these findings as they are: when the subject is judged again and one of them says something else, or another
    one blocks, it blocks. On the days after it, until `until`, it holds for the same findings whatever their numbers.

    Args:
        storage: the storage root.
        seen: the verdict that whoever decides has looked at.
        asset: whose checks' findings are meant; a run's verdict repeats those of its features.
        by: who decides.
        why: the reason.
        until: the last day for which it holds, at least the verdict's own.

    Raises:
        OverrideInvalid: no name or reason is given, or the verdict in force is another one than was seen.
    """
    for what, said in (("a reason", why), ("the name of who decides it", by)):
        if not said.strip():
            raise OverrideInvalid(f"An override needs {what}.")
    verdict, log = seen.verdict, verdict_log(storage, seen.folder)
    when = utc_now().isoformat(timespec="seconds")
    decision = Override(by=by, when=when, why=why, day=verdict.partition, until=until)
    outcomes = tuple(
        _with(one, [decision if finding.blocks else finding.override for finding in one.findings])
        if one.blocks and one.asset == asset
        else one
        for one in verdict.outcomes
    )
    changed = verdict.model_copy(update={"outcomes": outcomes})
    passed = tuple((one.name, finding) for one in verdict.outcomes if one.asset == asset for finding in one.blocking)
    names = ", ".join(in_words(check, finding) for check, finding in passed)
    span = f" until {until}" if until > verdict.partition else ""
    try:
        said = f"overridden{span} by {by}: {why} ({names})"
        log.append(changed, after=seen.entry.number, why=said, seen=log.made_from(seen.entry))
    except LostRace:
        raise OverrideInvalid(
            f"{seen.folder} was judged again since its verdict was shown; nothing is overridden there: look at it again."
        ) from None
    return passed


def in_words(check: str, finding: Finding) -> str:
    """A finding by its name."""
    return " ".join(filter(None, (check, finding.subject, finding.kind if finding.kind != check else "")))


def _with(outcome: CheckOutcome, overrides: Iterable[Override | None]) -> CheckOutcome:
    """An outcome with these overrides of its findings, in their order."""
    found = zip(outcome.findings, overrides, strict=True)
    return outcome.model_copy(update={"findings": tuple(one.model_copy(update={"override": of}) for one, of in found)})


def _undecided(finding: Finding) -> Finding:
    return finding.model_copy(update={"override": None})


def judged_now(outcomes: Iterable[CheckOutcome]) -> tuple[CheckOutcome, ...]:
    """Outcomes that say that they were judged now."""
    now = utc_now().isoformat(timespec="milliseconds")
    return tuple(one.model_copy(update={"judged": now}) for one in outcomes)


def basis_of(*texts: str) -> str:
    """A digest of what decides a verdict."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()
