"""Publish a run whose verdict is good: build its release, read it back, let it go live."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from batch_assets.clock import end_of
from batch_assets.config import PipelineConfig
from batch_assets.digest import keyed_digest
from batch_assets.errors import (
    BatchAssetsError,
    CommitBroken,
    NotPublishable,
    ReleaseBroken,
    ServingError,
    StoreUnavailable,
    Withdrawn,
)
from batch_assets.features.keys import identity, in_order
from batch_assets.logs import LogEntry, NumberedLog
from batch_assets.nightly.accepted import accepted_log
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.score import BYTES_PER_ROW, SPARE_BYTES
from batch_assets.nightly.verdict import read_verdict
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.records import RecordType
from batch_assets.runs.commit import read_committed
from batch_assets.runs.manifest import Manifest, ManifestFile
from batch_assets.serving.export import export, is_exported
from batch_assets.serving.release import (
    Live,
    build_release,
    current_log,
    go_live,
    live_release,
    release_name,
    require_not_withdrawn,
    require_release,
    step_back,
)
from batch_assets.serving.retention import retire
from batch_assets.serving.store import Batch, Release, Store
from batch_assets.storage import Storage, require_space
from batch_assets.threads import in_threads


@dataclass(frozen=True)
class Published:
    """A release, which one is live now (this one, or a newer), and what was found and did not block.

    `release` is that of the first store that has it; `lagging` are the stores that have not, and why. `not_exported` is why the
    pipeline's export was not written; nothing if it was, or if there is none.
    """

    release: Release
    live: str
    seconds: float
    lagging: Mapping[str, str] = field(default_factory=dict)
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
    """
    started = time.perf_counter()
    config, storage, day, model = night.config, night.storage, night.day, night.model
    manifest = night.manifest()
    if read_verdict(storage, night.folder) is None:
        raise NotPublishable(f"{night.name} was not judged: materialize predictions again.")
    verdict = judge(night, manifest)  # what was said before, unless it would be compared with something else now
    if not verdict.good:
        reasons = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in verdict.blocking)
        raise NotPublishable(f"{night.name} is not published, its verdict blocks: {reasons}")
    require_space(storage, manifest.scored * BYTES_PER_ROW + SPARE_BYTES, f"Publishing {manifest.scored:,} rows")
    record, contract = model.card.head.record, config.features.contract
    if contract.item is not None:
        raise NotPublishable(
            f"{night.name} has a row for each {contract.item.name} of a key, and no store answers "
            "keys with several rows: read its predictions files."
        )
    if not why:
        require_not_withdrawn(storage, config.name, release_name(manifest))
    releases, lagging = _built(night, manifest, record, progress)
    model.require_in_force()
    require_day(storage, config.name, day)
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
    retired = retire(storage, config.name, config.stores, [releases[0].name])
    for name, reason in retired.unavailable.items():
        progress.say(f"Nothing is removed from {name} now: {reason}")
    not_exported = _not_exported(night, manifest, progress)
    warnings = tuple(outcome for outcome in verdict.outcomes if not outcome.passed)
    return Published(releases[0], live.body.release, time.perf_counter() - started, lagging, not_exported, warnings)


def _built(night: Night, manifest: Manifest, record: RecordType, progress: Progress) -> tuple[list[Release], dict[str, str]]:
    """The run's release in each store that could build it, and why each of the others could not.

    Raises:
        ReleaseBroken, StoreUnavailable: no store could.
    """
    config, storage, contract = night.config, night.storage, night.config.features.contract
    built, failed = list[Release](), dict[str, ServingError]()
    for store in _stores_for(config, storage, night.day):
        try:
            batches = partial(_batches, storage, manifest, contract.identity, record, progress)
            built.append(build_release(storage, store, manifest, contract.key, record, batches))
        except (ReleaseBroken, StoreUnavailable) as error:
            failed[store.called] = error
            progress.say(f"{store.called} lags: {error}")
    if not built:
        raise next(iter(failed.values()))
    return built, {name: str(error) for name, error in failed.items()}


def _not_exported(night: Night, manifest: Manifest, progress: Progress) -> str:
    """Why a day that is published could not be exported; nothing if it was, or need not be. It blocks nothing."""
    config = night.config
    if config.export is None:
        return ""
    over = end_of(date.fromisoformat(night.day), config.partitions.timezone)
    try:
        export(night.storage, config.export, manifest, config.features.contract.identity, over)
    except BatchAssetsError as error:
        progress.say(f"{night.name} is published and not exported: {error}")
        return str(error)
    return ""


def published_matches(night: Night) -> CheckOutcome:
    """`published_matches`: a night's release, read back now from every store, is what its manifest says.

    Something as new must be live, and every store of the pipeline must have what is. An export that is missing only warns.
    """
    config, storage, day, model = night.config, night.storage, night.day, night.model
    manifest = night.manifest()
    entry = require_day(storage, config.name, day)
    wrong = list[str]()
    for store in _stores_for(config, storage, day):
        try:
            require_release(storage, manifest, config.features.contract.key, model.card.head.record, store)
        except ServingError as error:
            wrong.append(str(error) if len(config.stores) == 1 else f"{store.called} lags: {error}")
    if not wrong:
        try:
            live_release(storage, config.name)
        except ServingError as error:
            wrong.append(str(error))
        wrong += [f"{name} lags: its readers see an older release." for name in lagging_stores(config, storage)]
    live = entry.body.release if entry else "nothing"
    stores = "" if len(config.stores) == 1 else f" in each of {', '.join(store.called for store in config.stores)}"
    good = f"{manifest.scored:,} records of {manifest.scored:,}{stores}, digests are equal; live is {live}."
    newest = entry is not None and entry.body.partition >= day
    if newest and not wrong and not _has_export(night, manifest):
        again = f"`batch-assets releases publish {config.name} {day}` writes it"
        return GATES["published_matches"].outcome(
            passed=False, severity="warn", message=f"Run {night.run_id} is published, and its export is missing: {again}."
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


def _stores_for(config: PipelineConfig, storage: Storage, day: str) -> list[Store]:
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


def _batches(
    storage: Storage, manifest: Manifest, key: Sequence[str], record: RecordType, progress: Progress
) -> Iterator[Batch]:
    """The predictions of each file, after their digest was compared with the manifest's."""

    def batch(files: tuple[ManifestFile, list[ManifestFile]]) -> Batch:
        chunk, replays = files
        tables = [_intact(storage, manifest, file, key, record) for file in (chunk, *replays)]
        table = in_order(pa.concat_tables(tables, promote_options="permissive"), key) if replays else tables[0]
        return identity(table, key), record.from_table(table)

    done = 0
    for keys, records in in_threads(batch, manifest.by_chunk()):
        yield keys, records
        done += len(keys)
        progress.at("publishing", done, manifest.scored)


def _intact(storage: Storage, manifest: Manifest, file: ManifestFile, key: Sequence[str], record: RecordType) -> pa.Table:
    table = read_committed(storage, f"{manifest.folder}/{file.name}", [*key, *record.names])
    if keyed_digest(identity(table, key), record.from_table(table).flat()) != file.values:
        raise CommitBroken(
            f"{manifest.folder}/{file.name} holds other values than its manifest says: remove it and run again, "
            "then the chunk is scored again."
        )
    return table
