"""Which run of a day is accepted: the one that later days are compared with and that may be published."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel

from batch_assets.features.snapshot import days_of
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.nightly.verdict import Verdict
from batch_assets.runs.commit import day_folder
from batch_assets.runs.manifest import Manifest, latest_manifest
from batch_assets.storage import Storage


class Accepted(BaseModel):
    """A day's accepted run, the approval under which it was accepted, and whether later days are compared with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    folder: str
    approval: int
    is_yardstick: bool


class TakenBack(BaseModel):
    """A day has no accepted run any more: the run that was `withdrawn` is not good, judged again under an approval.

    Or a person went back from its release: then it is not accepted again, however it is judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: None = None
    withdrawn: str
    approval: int
    by_person: bool = False


class Acceptance(RootModel[Accepted | TakenBack]):
    """One or the other."""

    model_config = ConfigDict(frozen=True)


def accepted_log(storage: Storage, pipeline: str, day: str) -> NumberedLog[Acceptance]:
    """Which run of a day is accepted; the highest entry is in force."""
    return NumberedLog(storage, f"{day_folder(pipeline, day)}/_current", Acceptance)


def accepted_run(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> Accepted | None:
    """The run of a day that is accepted, leaving out what was accepted under approvals that were withdrawn since."""
    return next(_standing(storage, pipeline, day, withdrawn), None)


def accepted_before(storage: Storage, pipeline: str, day: str, approval: int, withdrawn: Collection[int]) -> Accepted | None:
    """The run of a day that was accepted under the newest approval before one, leaving out what was withdrawn."""
    earlier = (one for one in _standing(storage, pipeline, day, withdrawn) if one and one.approval < approval)
    return next(earlier, None)


def accepted_day_before(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> str | None:
    """The newest day before one whose accepted run is kept, leaving out what was withdrawn; None if there is none."""
    for earlier in reversed([one for one in days_of(storage, pipeline) if one < day]):
        accepted = accepted_run(storage, pipeline, earlier, withdrawn)
        if accepted is not None and _kept(storage, accepted):
            return earlier
    return None


def _standing(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> Iterator[Accepted | None]:
    """A day's acceptances under approvals that stand, newest first; None is one that was taken back."""
    log, taken_back = accepted_log(storage, pipeline, day), set[str]()
    for entry in log.history():
        body = entry.body.root
        if isinstance(body, TakenBack):
            taken_back.add(body.withdrawn)
        if body.approval not in withdrawn and body.run_id not in taken_back:
            yield body if isinstance(body, Accepted) else None


def _gone_back_from(now: Accepted | TakenBack | None, run_id: str) -> bool:
    return isinstance(now, TakenBack) and now.by_person and now.withdrawn == run_id


def take_back(storage: Storage, pipeline: str, day: str, run_id: str, why: str) -> None:
    """Let a day have no accepted run any more, if it is this one: a person went back from its release."""

    def decide(latest: LogEntry[Acceptance] | None) -> LogEntry[Acceptance] | Change[Acceptance] | None:
        now = latest.body.root if latest else None
        if not isinstance(now, Accepted) or now.run_id != run_id:
            return latest
        return Change(Acceptance(TakenBack(withdrawn=run_id, approval=now.approval, by_person=True)), why)

    accepted_log(storage, pipeline, day).update(decide)


def accept_again(storage: Storage, pipeline: str, day: str, run_id: str, why: str) -> None:
    """Let a run that was taken back by a person be the day's accepted one again."""
    log = accepted_log(storage, pipeline, day)

    def decide(latest: LogEntry[Acceptance] | None) -> LogEntry[Acceptance] | Change[Acceptance] | None:
        if latest is None or not _gone_back_from(latest.body.root, run_id):
            return latest
        before = (entry.body.root for entry in log.history())
        body = next((one for one in before if isinstance(one, Accepted) and one.run_id == run_id), None)
        return Change(Acceptance(body), why) if body else latest

    log.update(decide)


def _kept(storage: Storage, acceptance: Accepted | TakenBack) -> bool:
    """Whether the run that an acceptance names is still there; a withdrawal names none and stands."""
    return isinstance(acceptance, TakenBack) or latest_manifest(storage, acceptance.folder) is not None


def accept(
    storage: Storage,
    manifest: Manifest,
    approval: int,
    verdict: Verdict,
    withdrawn: Collection[int],
    seen: Sequence[NumberedLog[Any]] = (),
) -> None:
    """Let the day's acceptance follow a verdict.

    A good run becomes the accepted one, unless its approval was withdrawn or a later approval's run is; a run that was pruned
    does not count. An accepted run that is judged again and is not good any more is withdrawn: no later day is compared with
    it. What is live stays live until another release is published. `seen` are the logs that it follows from.

    Raises:
        LostEntry: an entry of the log, or one that its newest entry follows from, is missing.
    """
    log = accepted_log(storage, manifest.pipeline, manifest.partition)

    def decide(latest: LogEntry[Acceptance] | None) -> LogEntry[Acceptance] | Change[Acceptance] | None:
        now = log.require_seen(latest).body.root if latest else None
        body: Accepted | TakenBack
        if verdict.good:
            body = Accepted(
                run_id=manifest.run_id, folder=manifest.folder, approval=approval, is_yardstick=verdict.is_yardstick
            )
            later = now is not None and now.approval > approval and now.approval not in withdrawn and _kept(storage, now)
            settled = approval in withdrawn or later or now == body or _gone_back_from(now, manifest.run_id)
        else:
            body = TakenBack(withdrawn=manifest.run_id, approval=approval)
            standing = accepted_run(storage, manifest.pipeline, manifest.partition, withdrawn)
            settled = standing is None or standing.run_id != manifest.run_id
        why = f"verdict {'good' if verdict.good else 'blocked'}, model {manifest.model.version}"
        return latest if settled else Change(Acceptance(body), why, seen)

    log.update(decide)
