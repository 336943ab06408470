"""Publish a run whose verdict is good: build its release, read it back, let it go live."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotPublishable, ServingError, TableError, Withdrawn
from batch_assets.features.forgotten import suppressed_number
from batch_assets.logs import LogEntry, NumberedLog
from batch_assets.nightly.accepted import accepted_log
from batch_assets.nightly.build import build, content_of, export_day, remove_releases
from batch_assets.nightly.judge import judge
from batch_assets.nightly.left_out import without_forgotten
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.score import BYTES_PER_ROW, SPARE_BYTES
from batch_assets.nightly.tables import follow, follow_again, follow_required, lagging_tables
from batch_assets.nightly.timings import keep_timing
from batch_assets.nightly.verdict import read_verdict
from batch_assets.process import MemoryWatch
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.manifest import Manifest
from batch_assets.serving.build import require_release
from batch_assets.serving.export import is_exported
from batch_assets.serving.live import Live, current_log, go_live, live_release, require_not_withdrawn, step_back
from batch_assets.serving.release import release_name, stores_of
from batch_assets.serving.retention import retire
from batch_assets.serving.store import Release, Store
from batch_assets.storage import Storage, require_space


@dataclass(frozen=True)
class Published:
    """A release, which one is live now (this one, or a newer), and what was found and did not block.

    `release` is that of the first store that has it; `lagging` are the stores that have not, and why; `lagging_tables` the
    tables. `not_exported` is why the pipeline's export was not written; nothing if it was, or if there is none.
    """

    release: Release
    live: str
    seconds: float
    lagging: Mapping[str, str] = field(default_factory=dict)
    lagging_tables: Mapping[str, str] = field(default_factory=dict)
    not_exported: str = ""
    warnings: tuple[CheckOutcome, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether readers see this release."""
        return self.live == self.release.name


def publish(night: Night, progress: Progress, why: str = "") -> Published:
    """Publish a finished night; `why` is a person's reason to publish one that a person went back from.

    Raises:
        NotFound: the run is not finished.
        NotPublishable: it was not judged, the verdict is not good, or a person went back from its release.
        CommitBroken: a predictions file does not hold the values that its manifest says; names the chunk.
        Withdrawn: the model's approval was rolled back meanwhile.
        ReleaseBroken: what was built is not what the manifest says; readers still see what was live.
        StoreUnavailable: no store answers; as before. If one of several does, it is published there and the others lag.
        TableError: a table that is required has not the day; as before.
    """
    with MemoryWatch() as memory:
        return _publish(night, progress, why, memory)


def _publish(night: Night, progress: Progress, why: str, memory: MemoryWatch) -> Published:
    started = time.perf_counter()
    config, storage, day, model = night.config, night.storage, night.day, night.model
    forgot = suppressed_number(storage, config.name)
    manifest, left_out = without_forgotten(storage, config, night.manifest())
    if read_verdict(storage, night.folder) is None:
        raise NotPublishable(f"{night.name} was not judged: materialize predictions again.")
    verdict = judge(night, manifest)  # what was said before, unless it would be compared with something else now
    if not verdict.good:
        reasons = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in verdict.blocking)
        raise NotPublishable(f"{night.name} is not published, its verdict blocks: {reasons}")
    require_space(storage, manifest.scored * BYTES_PER_ROW + SPARE_BYTES, f"Publishing {manifest.scored:,} rows")
    if not why:
        require_not_withdrawn(storage, config.name, release_name(manifest), *manifest.releases_before)
    built_before = stores_of(storage, config.name, release_name(manifest))
    releases, lagging = build(config, storage, manifest, left_out, stores_for(config, storage, day), progress)
    model.require_in_force()
    require_day(storage, config.name, day)
    if suppressed_number(storage, config.name) != forgot:
        return _publish(night, progress, why, memory)  # somebody was forgotten meanwhile
    _require_tables(night)
    seen: list[NumberedLog[Any]] = [night.log(), accepted_log(storage, config.name, day), *model.logs]
    live = go_live(storage, releases, model.approval, model.withdrawn(), seen, why)
    try:
        model.require_in_force()
    except Withdrawn:  # somebody went back in this very moment
        step_back(storage, config.name, model.withdrawn())
        raise
    if live.body.release == releases[0].name:
        followed = {one.store for one in live.body.stores}
        lagging |= {one.store.called: live.why for one in releases if one.store.called not in followed}
    remove_releases(storage, config.name, manifest.releases_before, progress)
    if suppressed_number(storage, config.name) != forgot:
        return _publish(night, progress, why, memory)  # in this very moment
    retired = retire(storage, config.name, config.stores, [releases[0].name])
    for name, reason in retired.unavailable.items():
        progress.say(f"Nothing is removed from {name} now: {reason}")
    without = follow_again(config, storage, model.withdrawn())
    without |= follow(config, storage, day, model.withdrawn())
    not_exported = export_day(config, storage, manifest, left_out, progress)
    warnings = tuple(outcome for outcome in verdict.outcomes if not outcome.passed)
    seconds = time.perf_counter() - started
    if not built_before and len(releases) == len(config.stores):
        keep_timing(storage, night.folder, "publishing", manifest.rows, seconds, memory.peak)
    return Published(releases[0], live.body.release, seconds, lagging, without, not_exported, warnings)


def _require_tables(night: Night) -> None:
    """Let the tables without which nothing goes live have what is accepted of the day. Raises TableError."""
    without = follow_required(night.config, night.storage, night.day, night.model.withdrawn())
    if without:
        reasons = " ".join(without.values())
        raise TableError(f"{night.name} is not published, {' and '.join(without)} must have it first: {reasons}")


def check_published(night: Night) -> CheckOutcome:
    """`published_matches` as a part of the night, which is measured."""
    started, stores = time.perf_counter(), stores_for(night.config, night.storage, night.day)
    with MemoryWatch() as memory:
        found = published_matches(night)
    if found.passed and len(stores) == len(night.config.stores):
        seconds, rows = time.perf_counter() - started, night.frozen.snapshot.rows
        keep_timing(night.storage, night.folder, "checking", rows, seconds, memory.peak)
    return found


def published_matches(night: Night) -> CheckOutcome:
    """`published_matches`: a night's release, read back now from every store, is what its manifest says.

    Something as new must be live; every store of the pipeline must have what is, and every table that is required must have the
    day. An export that is missing only warns, and so do other tables that have something else.
    """
    config, storage, day = night.config, night.storage, night.day
    manifest, left_out = without_forgotten(storage, config, night.manifest())
    entry = require_day(storage, config.name, day)
    wrong = list[str]()
    content = content_of(config, storage, manifest, left_out)
    for store in stores_for(config, storage, day):
        try:
            require_release(storage, manifest, content, store)
        except ServingError as error:
            wrong.append(str(error) if len(config.stores) == 1 else f"{store.called} lags: {error}")
    if not wrong:
        try:
            live_release(storage, config.name)
        except ServingError as error:
            wrong.append(str(error))
        wrong += [f"{name} lags: its readers see an older release." for name in lagging_stores(config, storage)]
    behind = lagging_tables(config, storage, day, night.model.withdrawn())
    required = {table.called for table in config.tables if table.required}
    wrong += [f"{name} lags: {why}" for name, why in behind.items() if name in required]
    live = entry.body.release if entry else "nothing"
    stores = "" if len(config.stores) == 1 else f" in each of {', '.join(store.called for store in config.stores)}"
    rows = content.values.count
    good = f"{rows:,} records of {rows:,}{stores}, digests are equal; live is {live}."
    newest = entry is not None and entry.body.partition >= day
    missing = [f"{name} lags ({why.rstrip('.')})" for name, why in behind.items() if name not in required]
    missing += [] if _has_export(night, manifest) else ["its export is missing"]
    if newest and not wrong and missing:
        again = f"`batch-assets releases publish {config.name} {day}` writes what is missing"
        return GATES["published_matches"].outcome(
            passed=False,
            severity="warn",
            message=f"Run {night.run_id} is published, and {', and '.join(missing)}: {again}.",
        )
    return GATES["published_matches"].outcome(
        passed=newest and not wrong,
        severity="error",
        message=f"Run {night.run_id}: {' '.join(wrong)}" if wrong else good,
    )


def _has_export(night: Night, manifest: Manifest) -> bool:
    """Whether there is the export that the pipeline wants."""
    settings = night.config.export
    return settings is None or is_exported(night.storage, settings, night.config.name, release_name(manifest))


def stores_for(config: PipelineConfig, storage: Storage, day: str) -> list[Store]:
    """The stores that get a day's release: one that keeps a few has no use for a day that is older than the live one.

    There is always one, or nobody could look at what a backfill has made.
    """
    entry = current_log(storage, config.name).latest()
    older = entry is not None and day < entry.body.partition
    return [store for store in config.stores if store.keep is None or not older] or [config.stores[0]]


def lagging_stores(config: PipelineConfig, storage: Storage) -> list[str]:
    """The stores of a pipeline that have not what is live; none if nothing is."""
    entry = current_log(storage, config.name).latest()
    there = {one.store for one in entry.body.stores} if entry else set[str]()
    return [store.called for store in config.stores if entry and store.called not in there]


def require_day(storage: Storage, pipeline: str, day: str) -> LogEntry[Live] | None:
    """What is live. Raises LostEntry if it is of a day, and what that was published from has lost an entry since."""
    log = current_log(storage, pipeline)
    entry = log.latest()
    return log.require_seen(entry) if entry and entry.body.partition == day else entry


def live_since(config: PipelineConfig, storage: Storage, day: str) -> datetime | None:
    """Since when readers of every store see a day or a newer one without a break; None if they do not."""
    log = current_log(storage, config.name)
    since = None
    for entry in log.history():
        there = {one.store for one in entry.body.stores}
        if entry.body.partition < day or not there >= {store.called for store in config.stores}:
            break
        since = datetime.fromisoformat(entry.when)
    return since
