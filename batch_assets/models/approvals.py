"""The approvals of one alias: a numbered log that is the audit trail of what was approved, by whom, when and why.

Two that approve at once cannot both win: each decides on the approval that it saw, and one that comes second is told who
was first. Going back to a version that was in force before is a roll-back: it withdraws the approvals of other versions that
were given since, and nothing is scored or published under an approval that was withdrawn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from batch_assets.errors import ApprovalInvalid, LostRace, NoSuchModel, Withdrawn
from batch_assets.logs import Change, LogEntry, NumberedLog


class Approved(BaseModel):
    """What an entry says: the version, a digest of all its files, who approved it, and what that withdraws and causes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    digest: str
    by: str
    withdraws: tuple[int, ...]
    plan: dict[str, Any] | None


@dataclass(frozen=True)
class Approval:
    """One event of the audit trail.

    `digest` covers all files of the version; `withdraws` are the approvals that it rolled back; `plan` is what it was
    expected to cause, as the person who approved was told.
    """

    number: int
    version: str
    digest: str
    by: str
    when: str
    why: str
    withdraws: tuple[int, ...] = ()
    plan: dict[str, Any] | None = None

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Approvals:
    """The audit trail of one alias of one model."""

    log: NumberedLog[Approved]
    model: str
    alias: str

    def history(self) -> list[Approval]:
        """Every approval, oldest first."""
        return [_approval(entry) for entry in self.log.history()][::-1]

    def latest(self) -> Approval | None:
        """The approval in force, or None if nothing was ever approved."""
        entry = self.log.latest()
        return _approval(entry) if entry else None

    def number(self, number: int) -> Approval:
        """One approval. Raises NotFound."""
        return _approval(self.log.entry(number))

    def approve(
        self, version: str, digest: str, *, why: str, by: str, after: int | None = None, plan: dict[str, Any] | None = None
    ) -> Approval:
        """Append an approval that follows number `after` (0: the first), by default the one that is in force now.

        Raises:
            ApprovalInvalid: it has no reason or no name.
            LostRace: another approval was given meanwhile; names it.
        """
        history = self.history()
        change = self.change(history, version, digest, why=why, by=by, plan=plan)
        seen = (history[-1].number if history else 0) if after is None else after
        winner = next((later for later in history if later.number == seen + 1), None)
        if winner is None:
            try:
                return _approval(self.log.append(change.body, after=seen, why=change.why))
            except LostRace:
                winner = self.number(seen + 1)
        raise LostRace(
            f"{self.model} {version} was not approved: approval {winner.number} for {self.alias} went to {winner.version} by "
            f"{winner.by} in the same moment ({winner.why}); look at it and decide again."
        )

    def change(
        self,
        history: Sequence[Approval],
        version: str,
        digest: str,
        *,
        why: str,
        by: str,
        plan: dict[str, Any] | None = None,
    ) -> Change[Approved]:
        """What is appended when a version is approved after others. Raises ApprovalInvalid: it has no reason or no name."""
        for what, said in (("a reason", why), ("the name of who gives it", by)):
            if not said.strip():
                raise ApprovalInvalid(f"An approval of {self.model} {version} needs {what}.")
        withdraws = tuple(undone(history, version))
        return Change(Approved(version=version, digest=digest, by=by, withdraws=withdraws, plan=plan), why)

    def withdrawn(self) -> frozenset[int]:
        """The numbers of the approvals that were rolled back until now."""
        return frozenset(number for approval in self.history() for number in approval.withdraws)

    def require_in_force(self, number: int) -> None:
        """Raises Withdrawn if a later approval rolled this one back, naming it."""
        history = self.history()
        later = next((approval for approval in history if number in approval.withdraws), None)
        if later is not None:
            version = next(approval.version for approval in history if approval.number == number)
            raise Withdrawn(
                f"Approval {number} of {self.model} {version} for {self.alias} was withdrawn: {later.by} went back to "
                f"{later.version} with approval {later.number} ({later.why}); nothing is scored or published with it."
            )

    def as_of(self, moment: datetime) -> Approval:
        """The approval that was in force at a moment. Raises NoSuchModel if there was none yet."""
        for approval in reversed(self.history()):
            if datetime.fromisoformat(approval.when) <= moment:
                return approval
        raise NoSuchModel(f"No version of {self.model} was approved for {self.alias} yet at {moment:%Y-%m-%d %H:%M %Z}.")


def undone(history: Sequence[Approval], version: str) -> list[int]:
    """The approvals that going back to a version withdraws: those of other versions since it was last in force."""
    places = [place for place, approval in enumerate(history) if approval.version == version]
    before = {number for approval in history for number in approval.withdraws}
    return [later.number for later in history[places[-1] + 1 :] if later.number not in before] if places else []


def _approval(entry: LogEntry[Approved]) -> Approval:
    body = entry.body
    return Approval(
        number=entry.number,
        version=body.version,
        digest=body.digest,
        by=body.by,
        when=entry.when,
        why=entry.why,
        withdraws=body.withdraws,
        plan=body.plan,
    )
