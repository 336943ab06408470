"""Which run of a day is accepted: the one that later days are compared with and that may be published."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from batch_assets.errors import LostRace
from batch_assets.features.snapshot import days_of
from batch_assets.logs import LogEntry, NumberedLog
from batch_assets.nightly.verdict import Verdict
from batch_assets.runs.commit import day_folder
from batch_assets.runs.manifest import Manifest, latest_manifest
from batch_assets.storage import Storage


def accepted_log(storage: Storage, pipeline: str, day: str) -> NumberedLog:
    """Which run of a day is accepted: entries with `run_id` (None after a withdrawal), its `folder` and `approval`.

    `is_yardstick` says whether later days are compared with it.
    """
    return NumberedLog(storage, f"{day_folder(pipeline, day)}/_current")


_LAST_RUNS = 3
"""From how many runs before the throughput is taken."""


@dataclass(frozen=True)
class Accepted:
    """A day's accepted run, the approval under which it was accepted, and whether later days are compared with it."""

    run_id: str
    folder: str
    approval: int
    is_yardstick: bool


def accepted_run(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> Accepted | None:
    """The run of a day that is accepted, leaving out what was accepted under approvals that were withdrawn since."""
    return next(_standing(storage, pipeline, day, withdrawn), None)


def accepted_before(storage: Storage, pipeline: str, day: str, approval: int, withdrawn: Collection[int]) -> Accepted | None:
    """The run of a day that was accepted under the newest approval before one, leaving out what was withdrawn."""
    earlier = (one for one in _standing(storage, pipeline, day, withdrawn) if one and one.approval < approval)
    return next(earlier, None)


def _standing(storage: Storage, pipeline: str, day: str, withdrawn: Collection[int]) -> Iterator[Accepted | None]:
    """A day's acceptances under approvals that stand, newest first; None is one that was taken back."""
    log, taken_back = accepted_log(storage, pipeline, day), set[str]()
    for entry in log.history():
        body = entry.body
        if body["run_id"] is None:
            taken_back.add(body["withdrawn"])
        if body["approval"] not in withdrawn and body["run_id"] not in taken_back:
            run = Accepted(body["run_id"], body["folder"], body["approval"], body["is_yardstick"]) if body["run_id"] else None
            yield run


def last_throughputs(storage: Storage, pipeline: str) -> list[tuple[int, float]]:
    """Rows and seconds of the newest accepted runs that scored something, newest first: how fast nights are."""
    found: list[tuple[int, float]] = []
    for day in reversed(days_of(storage, pipeline)):
        accepted = accepted_run(storage, pipeline, day, ())
        manifest = latest_manifest(storage, accepted.folder) if accepted else None
        if manifest is not None and manifest.scored_here:
            found.append((manifest.scored_here, manifest.wall_seconds))
        if len(found) == _LAST_RUNS:
            break
    return found


def _kept(storage: Storage, acceptance: LogEntry) -> bool:
    """Whether the run that an acceptance names is still there; a withdrawal names none and stands."""
    return acceptance.body["run_id"] is None or latest_manifest(storage, acceptance.body["folder"]) is not None


def accept(
    storage: Storage,
    manifest: Manifest,
    approval: int,
    verdict: Verdict,
    withdrawn: Collection[int],
    seen: Sequence[NumberedLog] = (),
) -> None:
    """Let the day's acceptance follow a verdict.

    A good run becomes the accepted one, unless its approval was withdrawn or a later approval's run is; a run that was pruned
    does not count. An accepted run that is judged again and is not good any more is withdrawn: no later day is compared with
    it. What is live stays live until another release is published. `seen` are the logs that it follows from.

    Raises:
        LostEntry: an entry of the log, or one that its newest entry follows from, is missing.
    """
    log = accepted_log(storage, manifest.pipeline, manifest.partition)
    while True:
        latest = log.latest()
        if latest is not None:
            log.require_seen(latest)
        if verdict.good:
            body = {
                "run_id": manifest.run_id,
                "folder": manifest.folder,
                "approval": approval,
                "is_yardstick": verdict.is_yardstick,
            }
            later = latest is not None and latest.body["approval"] > approval
            overruled = later and latest is not None and latest.body["approval"] not in withdrawn and _kept(storage, latest)
            settled = approval in withdrawn or overruled or (latest is not None and latest.body == body)
        else:
            body = {"run_id": None, "withdrawn": manifest.run_id, "approval": approval}
            standing = accepted_run(storage, manifest.pipeline, manifest.partition, withdrawn)
            settled = standing is None or standing.run_id != manifest.run_id
        if settled:
            return
        try:
            why = f"verdict {'good' if verdict.good else 'blocked'}, model {manifest.model.version}"
            log.append(body, after=latest.number if latest else 0, why=why, seen=seen)
        except LostRace:
            continue  # somebody judged the same day in the same moment: decide again
        return
