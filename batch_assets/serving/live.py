"""Which release is live: a numbered log, whose highest entry readers see, all at once and in every store.

Order is (partition, number of the model's approval): an older day, or the same day by an earlier approval, gets its release
but does not replace what is live.
"""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import NoPrediction, NotPublishable, ReleaseBroken, ServingError, StoreUnavailable
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.serving.release import in_stores, read_release, stores_of
from batch_assets.serving.store import Release
from batch_assets.storage import Storage


class InStore(BaseModel):
    """A store that has the live release, and the fingerprint of the description there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    description: str


class Live(BaseModel):
    """Which release is live, the approval under which it was published, and the stores that have it.

    The first of those is asked by look-ups. A store of the pipeline that is not among them lags: its own readers see what they
    saw. `withdrawn` is the release that a person went back from with this entry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    partition: str
    approval: int
    stores: tuple[InStore, ...] = Field(min_length=1)
    withdrawn: str | None = None


def current_log(storage: Storage, pipeline: str) -> NumberedLog[Live]:
    """Which releases went live; the highest entry is in force."""
    return NumberedLog(storage, f"{pipeline}/serving/_current", Live)


def live_release(storage: Storage, pipeline: str) -> Release | None:
    """What look-ups see, or None if nothing was ever published. Raises ReleaseBroken if it is not what went live."""
    entry = current_log(storage, pipeline).latest()
    return named_release(storage, pipeline, entry) if entry else None


def named_release(storage: Storage, pipeline: str, entry: LogEntry[Live], store: str | None = None) -> Release:
    """The release that an entry let go live, in a store, by default the first. Raises ReleaseBroken if it is another now."""
    there = next(one for one in entry.body.stores if store in (None, one.store))
    release = read_release(storage, pipeline, entry.body.release, there.store)
    if release.fingerprint() != there.description:
        raise ReleaseBroken(
            f"The description of release {release.name} in {there.store} is not the one that went live: publish it again."
        )
    return release


def go_live(
    storage: Storage,
    releases: Sequence[Release],
    approval: int,
    withdrawn: Collection[int] = (),
    seen: Sequence[NumberedLog[Any]] = (),
    why: str = "",
) -> LogEntry[Live]:
    """Let readers see a release, unless a newer one is live; returns the entry that is in force then.

    What went live under an approval that was withdrawn since does not count as newer; what was live before it does.

    Args:
        storage: the storage root.
        releases: the same release in each store that has it, in the order of the pipeline's stores.
        approval: the number of the approval under which it is published.
        withdrawn: the approvals that were withdrawn.
        seen: the logs that say what is published: the run's manifest, the day's accepted run, the approval.
        why: a person's reason to publish what a person went back from.

    Raises:
        NotPublishable: a person went back from this release, and nobody gives a reason.
    """
    release = releases[0]
    log = current_log(storage, release.pipeline)
    body = Live(release=release.name, partition=release.partition, approval=approval, stores=_in_stores(releases))

    def decide(latest: LogEntry[Live] | None) -> LogEntry[Live] | Change[Live]:
        stood = _stepped_back(log, release.pipeline, latest, withdrawn)
        if stood is not None:
            live = stood.body
            same = (live.release, live.stores) == (body.release, body.stores) and live.approval >= approval
            newer = (live.partition, live.approval) > (body.partition, approval) and live.approval not in withdrawn
            if same or newer:
                return stood
        if not why:
            require_not_withdrawn(storage, release.pipeline, release.name, *release.instead_of)
        return Change(body, why or f"run {release.run_id} was accepted", seen)

    step_back(storage, release.pipeline, withdrawn)
    return follow(storage, release.pipeline, log.update(decide))


def require_not_withdrawn(storage: Storage, pipeline: str, *names: str) -> None:
    """Raises NotPublishable if a person went back from a release of one of these names, and nobody has published it since."""
    for entry in current_log(storage, pipeline).history():
        if entry.body.release in names:
            return
        if entry.body.withdrawn in names:
            raise NotPublishable(
                f"{entry.who} went back from release {entry.body.withdrawn} of {pipeline} on {entry.when[:16]} ({entry.why}): "
                "`batch-assets releases publish` with a reason publishes it again."
            )


def roll_back(storage: Storage, pipeline: str, why: str, to: str | None, withdrawn: Collection[int]) -> LogEntry[Live]:
    """Let an earlier release be live again in every store that still has it, at once; nothing is built.

    Args:
        storage: the storage root.
        pipeline: whose releases.
        why: a person's reason; it stands in the log.
        to: the release that is to be live; by default the one before the live one that nobody went back from.
        withdrawn: the approvals that were withdrawn; what was published under one of them never comes back.

    Raises:
        NoPrediction: nothing is live.
        NotPublishable: there is no such release any more, or it may not come back.
        StoreUnavailable, ReleaseBroken: no store can follow.
    """
    log = current_log(storage, pipeline)

    def decide(latest: LogEntry[Live] | None) -> LogEntry[Live] | Change[Live]:
        if latest is None:
            raise NoPrediction(f"Nothing of {pipeline} has been published under {storage.location} yet.")
        live, left = latest.body.release, {latest.body.release}
        for entry in log.history():
            if entry.body.withdrawn and entry.body.release != to:
                left.add(entry.body.withdrawn)
            if entry.body.approval in withdrawn or (not to and entry.body.release in left):
                continue
            found = _still_there(storage, pipeline, entry)
            wanted = found is not None and (found.release == to if to else found.release not in left)
            if found is not None and wanted and found.release != live:
                return Change(found.model_copy(update={"withdrawn": live}), why, log.made_from(entry))
        what = f"release {to} to go back to" if to else f"earlier release than {live}"
        raise NotPublishable(f"{pipeline} has no {what} any more: `batch-assets releases list {pipeline}` shows what there is.")

    return follow(storage, pipeline, log.update(decide))


def follow(storage: Storage, pipeline: str, live: LogEntry[Live]) -> LogEntry[Live]:
    """Let the pointer of each store that an entry names follow it; returns the entry that is in force then.

    A store that does not answer is left out in another entry: it lags. Its readers see what they saw.

    Raises:
        StoreUnavailable, ReleaseBroken: no store that the entry names can follow.
    """
    followed, failed = list[InStore](), list[ServingError]()
    for one in live.body.stores:
        try:
            release = named_release(storage, pipeline, live, one.store)
            release.store.publish(storage, release, live.number)
        except (StoreUnavailable, ReleaseBroken) as error:
            failed.append(error)
        else:
            followed.append(one)
    if not failed:
        return live
    if not followed:
        raise failed[0]
    body = live.body.model_copy(update={"stores": tuple(followed)})

    def without(latest: LogEntry[Live] | None) -> LogEntry[Live] | Change[Live]:
        return latest if latest is not None and latest.number != live.number else Change(body, str(failed[0]))

    entry = current_log(storage, pipeline).update(without)
    return follow(storage, pipeline, entry)


def step_back(storage: Storage, pipeline: str, withdrawn: Collection[int]) -> LogEntry[Live] | None:
    """Where the live release is of an approval that was withdrawn, let the newest one live that stands and is still there.

    Returns the entry that is in force then, or None if nothing was ever published.
    """
    log = current_log(storage, pipeline)
    before = log.latest()
    live = log.update(lambda latest: _stepped_back(log, pipeline, latest, withdrawn))
    return follow(storage, pipeline, live) if live is not None and live != before else live


def _stepped_back(
    log: NumberedLog[Live], pipeline: str, live: LogEntry[Live] | None, withdrawn: Collection[int]
) -> LogEntry[Live] | Change[Live] | None:
    """What should be live before anything else is published: what is, or the newest that stands and is still there."""
    if live is None or live.body.approval not in withdrawn:
        return live
    standing = next((entry for entry in log.history() if entry.body.approval not in withdrawn), None)
    found = _still_there(log.storage, pipeline, standing) if standing else None
    if standing is None or found is None:
        return live
    body = found.model_copy(update={"withdrawn": None})
    return Change(body, f"approval {live.body.approval} was withdrawn", log.made_from(standing))


def _still_there(storage: Storage, pipeline: str, entry: LogEntry[Live]) -> Live | None:
    """What an entry let go live, or what took its place when keys were forgotten, in the stores that have it."""
    there = stores_of(storage, pipeline, entry.body.release)
    stores = tuple(one for one in entry.body.stores if one.store in there)
    if stores:
        return entry.body.model_copy(update={"stores": stores})
    for name in sorted(storage.names(f"{pipeline}/serving/releases"), reverse=True):
        if name.startswith(entry.body.partition):
            others = [one for one in in_stores(storage, pipeline, name) if entry.body.release in one.instead_of]
            if others:
                return entry.body.model_copy(update={"release": name, "stores": _in_stores(others)})
    return None


def _in_stores(releases: Sequence[Release]) -> tuple[InStore, ...]:
    return tuple(InStore(store=one.store.called, description=one.fingerprint()) for one in releases)
