"""Releases by day: which there are and where, publish one, go back from one, and let go of what nobody needs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotPublishable, ServingError, StoreUnavailable
from batch_assets.logs import LogEntry
from batch_assets.models.registry import Registry
from batch_assets.nightly.accepted import accept_again, accepted_log, accepted_run, take_back
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.publish import Published, publish
from batch_assets.nightly.tables import follow
from batch_assets.serving.live import Live, current_log, roll_back
from batch_assets.serving.release import in_stores, release_parts
from batch_assets.serving.retention import Retired, release_names, retire
from batch_assets.serving.store import Release, Store
from batch_assets.storage import Storage


@dataclass(frozen=True)
class ReleaseState:
    """A release as it stands: what it holds, the stores that describe it, and since when it is or was live.

    `state` is live, superseded, never live, or withdrawn (a person went back from it).
    """

    release: str
    partition: str
    model: str
    rows: int
    stores: tuple[str, ...]
    state: str
    live_since: str | None


@dataclass(frozen=True)
class StoreState:
    """A store of a pipeline: the number and release that its readers see, and what is wrong with it, if anything.

    `follows` is the number of the entry of `serving/_current` that it should have, None if nothing was published; `down` says
    whether the store does not even answer.
    """

    store: str
    kind: str
    number: int | None
    release: str | None
    follows: int | None
    trouble: str
    down: bool


def list_releases(config: PipelineConfig, storage: Storage) -> list[ReleaseState]:
    """Every release that is there, the newest day first."""
    history = list(current_log(storage, config.name).history())
    return [
        _state(history, releases)
        for name in release_names(storage, config.name)
        if (releases := list(in_stores(storage, config.name, name)))
    ]


def list_stores(config: PipelineConfig, storage: Storage) -> list[StoreState]:
    """Every store of a pipeline, and what its readers see."""
    live = current_log(storage, config.name).latest()
    return [_store_state(config, storage, store, live) for store in config.stores]


def show_release(config: PipelineConfig, storage: Storage, name: str) -> dict[str, Any]:
    """A release in plain values: its state, where it came from, and whether each store still has it. Raises NotPublishable."""
    releases = list(in_stores(storage, config.name, name))
    if not releases:
        raise NotPublishable(f"{config.name} has no release {name}: `batch-assets releases list {config.name}` shows which.")
    first = releases[0]
    return {
        **asdict(_state(list(current_log(storage, config.name).history()), releases)),
        "run_id": first.run_id,
        "snapshot": first.snapshot,
        "model_sha256": first.model.sha256,
        "digest": first.values.hex(),
        "in_stores": {one.store.called: _there(storage, one) for one in releases},
    }


def publish_day(
    config: PipelineConfig, storage: Storage, registry: Registry, day: str, progress: Progress, why: str = ""
) -> Published:
    """Publish a day's accepted run again, in every store: one that lagged catches up.

    Args:
        config: the pipeline.
        storage: its storage root.
        registry: where its models are.
        day: the partition.
        progress: is told how far it is.
        why: a person's reason to publish what a person went back from.

    Raises:
        NotPublishable: no run of the day is accepted, or a person went back from it and nobody gives a reason.
        ReleaseBroken, StoreUnavailable: as `publish`.
    """
    day = config.partitions.require(day, config.name)
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    if why:
        latest = accepted_log(storage, config.name, day).latest()
        run_id = getattr(latest.body.root, "withdrawn", None) if latest else None
        if run_id:
            accept_again(storage, config.name, day, run_id, why)
    accepted = accepted_run(storage, config.name, day, withdrawn)
    if accepted is None:
        how = f"`batch-assets verdict {config.name} --partition {day}` says why"
        raise NotPublishable(f"No run of {config.name} {day} is accepted: {how}.")
    model = registry.resolve(config.model, accepted.approval)
    return publish(Night.open(config, storage, day, model), progress, why)


@dataclass(frozen=True)
class WentBack:
    """What is live after somebody went back from a release, and the tables that still have that one, and why."""

    live: LogEntry[Live]
    lagging_tables: Mapping[str, str]


def go_back(config: PipelineConfig, storage: Storage, registry: Registry, why: str, to: str | None = None) -> WentBack:
    """Let an earlier release be live again, at once; what was live is not published again by itself, nor compared with.

    The pipeline's tables have nothing of its day any more.

    Raises:
        NotPublishable: no reason is given, or there is no release to go back to.
        NoPrediction: nothing is live.
        StoreUnavailable: no store can follow.
    """
    if not why.strip():
        raise NotPublishable(f"Going back from a release of {config.name} needs a reason: say it with --why.")
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    entry = roll_back(storage, config.name, why, to, withdrawn)
    parts = release_parts(entry.body.withdrawn or "")
    if parts is None:
        return WentBack(entry, {})
    take_back(storage, config.name, *parts, why)
    return WentBack(entry, follow(config, storage, parts[0], withdrawn))


def prune_stores(config: PipelineConfig, storage: Storage, *, dry_run: bool) -> Retired:
    """Let each store keep as many releases as its settings say, and drop what died tries left behind."""
    return retire(storage, config.name, config.stores, dry_run=dry_run)


def _state(history: list[LogEntry[Live]], releases: list[Release]) -> ReleaseState:
    first = releases[0]
    names = (first.name, *first.instead_of)
    since = next((entry.when for entry in history if entry.body.release in names), None)
    return ReleaseState(
        release=first.name,
        partition=first.partition,
        model=f"{first.model.name} {first.model.version}",
        rows=first.rows,
        stores=tuple(one.store.called for one in releases),
        state=_word(history, first.name, names),
        live_since=since,
    )


def _word(history: list[LogEntry[Live]], name: str, names: tuple[str, ...]) -> str:
    if history and history[0].body.release == name:
        return "live"
    for entry in history:
        if entry.body.withdrawn in names:
            return "withdrawn"
        if entry.body.release in names:
            return "superseded"
    return "never live"


def _store_state(config: PipelineConfig, storage: Storage, store: Store, live: LogEntry[Live] | None) -> StoreState:
    number, release, trouble, down = None, None, "", False
    try:
        pointer = store.pointer(storage, config.name)
        number, release = (pointer.number, pointer.release.name) if pointer else (None, None)
    except ServingError as error:
        trouble, down = str(error), isinstance(error, StoreUnavailable)
    if not trouble and live is not None:
        if store.called not in {one.store for one in live.body.stores}:
            trouble = f"It lags: it has not got {live.body.release} yet."
        elif number is not None and number < live.number:
            trouble = f"It lags: its readers see entry {number}, and {live.number} is in force."
    return StoreState(store.called, store.kind, number, release, live.number if live else None, trouble, down)


def _there(storage: Storage, release: Release) -> str:
    """Whether a store still has a release, in a word or a sentence."""
    try:
        release.store.require_there(storage, release)
    except (StoreUnavailable, ServingError) as error:
        return str(error)
    return "there"


def lagging(config: PipelineConfig, storage: Storage) -> Iterator[StoreState]:
    """The stores whose readers do not see what is live."""
    return (one for one in list_stores(config, storage) if one.trouble)
