"""New generations of a day: a snapshot and its runs without some rows, put in place with what is known of them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from batch_assets.config import PipelineConfig
from batch_assets.errors import AlreadyExists
from batch_assets.features.forgotten import ExcludedRows
from batch_assets.features.keys import in_words
from batch_assets.features.profile import read_profile, write_profile
from batch_assets.features.provenance import keep_provenance, read_provenance
from batch_assets.features.rewrite import Chosen, Gone, rewrite_snapshot
from batch_assets.features.snapshot import (
    CurrentSnapshot,
    Snapshot,
    SnapshotReader,
    current_log,
    read_snapshot,
    snapshot_folder,
)
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.models.registry import Registry
from batch_assets.nightly.accepted import Acceptance, Accepted, accepted_log
from batch_assets.nightly.build import build, export_day, remove_releases
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.publish import stores_for
from batch_assets.nightly.tables import follow
from batch_assets.nightly.verdict import Verdict, read_verdict, record
from batch_assets.operations.rewritten import Rewriting, frozen_as, rewrite_run
from batch_assets.runs.manifest import Manifest, manifest_log
from batch_assets.serving.export import export_folder, exports_of
from batch_assets.serving.live import current_log as live_log
from batch_assets.serving.live import go_live
from batch_assets.serving.release import release_parts, stores_of
from batch_assets.storage import Storage


def new_snapshot(
    config: PipelineConfig,
    storage: Storage,
    day: str,
    folder: str,
    snapshot: Snapshot,
    gone: Gone,
    rows: Chosen,
    number: int,
) -> Rewriting:
    """Write a snapshot without some rows into a folder of its own, with its profile, what was read, and what was judged.

    Raises:
        SnapshotChanged: a file is not what was frozen, or what was written is not what it should be.
    """
    with storage.scratch() as scratch:
        target = scratch / "snapshot"
        target.mkdir()
        new = rewrite_snapshot(target, storage, folder, snapshot, gone)
        numeric = read_profile(storage, folder).column("column").to_pylist()
        write_profile(target, numeric, config.features.contract.categories)
        place = snapshot_folder(config.name, day, new.digest)
        try:
            new = new.stamped(storage.adopt(target, place))
        except AlreadyExists:  # of a purge that was interrupted
            new = read_snapshot(storage, place, new.digest)
    provenance = read_provenance(storage, folder)
    left_out = sum(map(len, gone)) + (provenance.forgotten.rows if provenance.forgotten else 0)
    excluded = ExcludedRows(number=number, rows=left_out)
    keep_provenance(storage, place, provenance.model_copy(update={"forgotten": excluded}))
    removed = _removed(storage, folder, snapshot, gone)
    _keep_verdict(storage, folder, place, new.digest, removed)
    before, after = frozen_as(storage, folder, snapshot), frozen_as(storage, place, new)
    return Rewriting(config, storage, rows, gone, before, after, number, removed)


def new_run(work: Rewriting, registry: Registry, manifest: Manifest, releases: tuple[str, ...]) -> Manifest:
    """Write a run without some rows, and what was judged of it, into a folder of its own; returns its manifest.

    Raises:
        ProofFailed, CommitBroken: as `rewrite_run`.
    """
    new = rewrite_run(work, registry, manifest, releases)
    log, old = manifest_log(work.storage, new.folder), manifest_log(work.storage, manifest.folder)
    entry = old.latest()
    seen = old.made_from(entry) if entry else []

    def decide(latest: LogEntry[Manifest] | None) -> LogEntry[Manifest] | Change[Manifest]:
        if latest is not None and latest.body.values == new.values and latest.body.snapshot == new.snapshot:
            return latest
        return Change(new, "written anew without keys that were forgotten", seen)

    found = log.update(decide).body
    _keep_verdict(work.storage, manifest.folder, new.folder, new.run_id, work.removed)
    return found


def point_to(
    config: PipelineConfig,
    storage: Storage,
    registry: Registry,
    day: str,
    snapshots: Iterable[Rewriting],
    runs: Sequence[tuple[Manifest, Manifest]],
    progress: Progress,
) -> None:
    """Let a day use what was written anew: its snapshot, its accepted run, its releases, what tables have of it."""
    for one in snapshots:
        before, after = one.before.snapshot.digest, CurrentSnapshot.of(one.after.snapshot)

        def moved(
            latest: LogEntry[CurrentSnapshot] | None, before: str = before, after: CurrentSnapshot = after
        ) -> LogEntry[CurrentSnapshot] | Change[CurrentSnapshot] | None:
            return Change(after, "keys were forgotten") if latest and latest.body.digest == before else latest

        current_log(storage, config.name, day).update(moved)
    _accept_instead(storage, config.name, day, {old.run_id: new for old, new in runs})
    for old, new in runs:
        _export_instead(config, storage, old, new, progress)
        _release_instead(config, storage, registry, old, new, progress)
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    for table, why in follow(config, storage, day, withdrawn, only_there=True).items():
        progress.say(f"{table} lags, `batch-assets releases publish {config.name} {day}` writes it: {why}")


def _accept_instead(storage: Storage, pipeline: str, day: str, instead: dict[str, Manifest]) -> None:
    """Say of the new runs, in the same order, what was said of the old ones: accepted, or taken back."""
    log = accepted_log(storage, pipeline, day)
    said = [found for entry in log.history() if (found := _instead(entry.body, instead))][::-1]
    newest = [entry.body for entry, _ in zip(log.history(), said, strict=False)][::-1]
    if newest == said:
        return  # by a purge that was interrupted
    for body in said:
        seen = [manifest_log(storage, one.folder) for one in instead.values()]
        latest = log.latest()
        log.append(body, after=latest.number if latest else 0, why="keys were forgotten", seen=seen)


def _instead(body: Acceptance, instead: dict[str, Manifest]) -> Acceptance | None:
    said = body.root
    new = instead.get(said.run_id if isinstance(said, Accepted) else said.withdrawn)
    if new is None:
        return None
    if isinstance(said, Accepted):
        return Acceptance(said.model_copy(update={"run_id": new.run_id, "folder": new.folder}))
    return Acceptance(said.model_copy(update={"withdrawn": new.run_id}))


def _release_instead(
    config: PipelineConfig, storage: Storage, registry: Registry, old: Manifest, new: Manifest, progress: Progress
) -> None:
    """Build the new run's release where the old one had some; it is live if one of those was. The old ones are taken out."""
    names = new.releases_before
    there = {store for name in names for store in stores_of(storage, config.name, name)}
    log = live_log(storage, config.name)
    live = log.latest()
    is_live = live is not None and live.body.release in names
    if not there and not is_live:
        return
    wanted = [store for store in config.stores if store.called in there] or config.stores[:1]
    stores = stores_for(config, storage, old.partition) if is_live else wanted
    releases, _ = build(config, storage, new, None, stores, progress)
    if live is not None and is_live:
        withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
        seen: list[NumberedLog[Any]] = [manifest_log(storage, new.folder), accepted_log(storage, config.name, old.partition)]
        go_live(storage, releases, live.body.approval, withdrawn, seen, "keys were forgotten")
    remove_releases(storage, config.name, names, progress)


def _export_instead(config: PipelineConfig, storage: Storage, old: Manifest, new: Manifest, progress: Progress) -> None:
    """Take the exports of the old run away; if there were some, the new one is exported."""
    own = (old.partition, old.run_id)
    names = [name for name in exports_of(storage, config.name) if release_parts(name) == own]
    if names:
        export_day(config, storage, new, None, progress)
    for name in names:
        storage.discard(export_folder(config.name, name))


def _keep_verdict(storage: Storage, folder: str, place: str, subject: str, removed: Iterable[str]) -> None:
    """What was judged of a snapshot or a run holds for the new one, without the names of rows that went."""
    said = read_verdict(storage, folder)
    if said is not None and read_verdict(storage, place) is None:
        record(storage, place, lambda _: _without_names(said, removed).model_copy(update={"subject": subject}))


def _without_names(verdict: Verdict, removed: Iterable[str]) -> Verdict:
    """A verdict whose messages name none of some rows; only a scan of all rows names any."""
    names = "|".join(re.escape(name) for name in removed)
    pattern = re.compile(rf"(?<!\w)(?:{names})(?!\w)")

    def hushed(text: str) -> str:
        """Rows are named behind the word first, until the next finding."""
        return re.sub(r", first [^;]*", lambda found: pattern.sub("(forgotten)", found[0]), text) if names else text

    outcomes = tuple(
        one.model_copy(
            update={
                "message": hushed(one.message),
                "findings": tuple(each.model_copy(update={"message": hushed(each.message)}) for each in one.findings),
            }
        )
        if one.name == "full_scan"
        else one
        for one in verdict.outcomes
    )
    return verdict.model_copy(update={"outcomes": outcomes})


def _removed(storage: Storage, folder: str, snapshot: Snapshot, gone: Gone) -> tuple[str, ...]:
    """What people call the rows that go."""
    reader, found = SnapshotReader(storage, folder, snapshot), list[str]()
    for number, places in enumerate(gone):
        start = 0
        for group in snapshot.files[number].row_groups:
            inside = places[(places >= start) & (places < start + group.rows)] - start
            if len(inside):
                rows = reader.rows(number, start, group.rows, list(snapshot.key)).take(pa.array(inside))
                found += [in_words(list(row.values())) for row in rows.to_pylist()]
            start += group.rows
    return tuple(found)
