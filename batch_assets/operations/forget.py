"""Forget a key: it is not frozen any more, and no store answers it. `purge` takes its rows out of the files, too."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from batch_assets.arrow import as_column
from batch_assets.config import PipelineConfig
from batch_assets.errors import ForgetInvalid, NotPublishable, ReleaseBroken, StoreUnavailable
from batch_assets.features.forgotten import Forgotten, forgotten, suppress
from batch_assets.features.keys import Said, columns_of, parsed, parts
from batch_assets.features.snapshot import days_of
from batch_assets.models.registry import Registry
from batch_assets.nightly.build import build, export_day, remove_releases
from batch_assets.nightly.left_out import without_forgotten
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.publish import stores_for
from batch_assets.nightly.tables import follow
from batch_assets.process import Process
from batch_assets.runs.commit import day_folder, run_folder
from batch_assets.runs.manifest import Manifest, read_manifest
from batch_assets.serving.export import exports_of
from batch_assets.serving.live import current_log, go_live
from batch_assets.serving.release import in_stores, release_name, release_parts, stores_of
from batch_assets.serving.retention import release_names
from batch_assets.storage import Storage
from batch_assets.storage.lease import at_work


@dataclass(frozen=True)
class Hushed:
    """What became of a pipeline's releases when keys were forgotten.

    `number` is the entry of the log that says who, when and why. `live` is the release that is live now, and `seconds` passed
    from that entry until it was; both are None if what is live did not have the keys. `rebuilt` were built anew without them,
    `removed` were taken out and have nothing in their place; `busy` are being published by somebody, who leaves the keys out
    before they are live; `lagging` stores still have the keys, for the reason given.
    `secret` is the file in which a new secret was made, or nothing.
    """

    pipeline: str
    number: int
    secret: str
    live: str | None
    seconds: float | None
    rebuilt: tuple[str, ...]
    removed: tuple[str, ...]
    busy: dict[str, str]
    lagging: dict[str, str]


def forget(
    config: PipelineConfig, storage: Storage, registry: Registry, keys: Sequence[Said], why: str, progress: Progress
) -> Hushed:
    """Let nobody find keys any more: neither the next night, nor whoever looks them up now.

    Whoever is interrupted says the same again: what was not done is done then.

    Args:
        config: the pipeline.
        storage: its root.
        registry: its models, which say what approvals were withdrawn.
        keys: whom to forget; of a pipeline with items the keys alone.
        why: the reason, which stands in the log in clear.
        progress: is told how far it is.

    Raises:
        ForgetInvalid: there is no reason, it names a key, or something is no key of the pipeline.
        SecretInvalid: the secret is not there, is another one, or lies under the root.
        ReleaseBroken, StoreUnavailable: no store could build what should be live; the entry is written, say the same again.
        NotPublishable: what is live cannot be built without the key, as its run is not kept any more.
    """
    _require_reason(keys, why)
    entry, secret = suppress(storage, config.name, _as_table(config, keys), config.features.contract.key_names, why)
    started = time.perf_counter()
    latest = current_log(storage, config.name).latest()
    before = latest.body.release if latest else None
    rebuilt, removed, busy, lagging = list[str](), list[str](), dict[str, str](), dict[str, str]()
    seconds, live = None, None
    for name, found in _with_keys(config, storage, before):
        if name != before and (who_works := _at_work(storage, config.name, name)):
            busy[name] = who_works
        elif found is None:
            remove_releases(storage, config.name, [name], progress)
            removed.append(name)
        elif name == before:
            lagging = _let_live(config, storage, registry, *found, why, progress)
            live, seconds = release_name(found[0]), time.perf_counter() - started
            rebuilt.append(live)
        else:
            lagging |= _build_anew(config, storage, name, *found, progress)
            rebuilt.append(release_name(found[0]))
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    for day in days_of(storage, config.name) if config.tables else ():
        lagging |= follow(config, storage, day, withdrawn, only_there=True)
    return Hushed(config.name, entry.number, secret, live, seconds, tuple(rebuilt), tuple(removed), busy, lagging)


def _at_work(storage: Storage, pipeline: str, name: str) -> str:
    """Who else works on a release's day, or nothing."""
    day, _ = release_parts(name) or ("", "")
    others = (one for one in at_work(storage, day_folder(pipeline, day)) if one != Process.current())
    return ", ".join(map(str, others))


def _build_anew(
    config: PipelineConfig, storage: Storage, name: str, manifest: Manifest, who: Forgotten | None, progress: Progress
) -> dict[str, str]:
    """Take a release that is not live out, and build it anew where it was; says which stores could not, and why."""
    there = stores_of(storage, config.name, name)
    stores = [store for store in config.stores if store.called in there]
    exported = set(manifest.releases_before) & set(exports_of(storage, config.name))
    remove_releases(storage, config.name, manifest.releases_before, progress)
    lagging = build(config, storage, manifest, who, stores, progress)[1] if stores else {}
    if exported:
        export_day(config, storage, manifest, who, progress)
    return lagging


def _with_keys(
    config: PipelineConfig, storage: Storage, live: str | None
) -> Iterator[tuple[str, tuple[Manifest, Forgotten | None] | None]]:
    """Each release or export that has rows of forgotten keys, and the run that it is built from; None if that is not kept.

    The live one comes first, before anybody looks at the others.
    """
    names = {*release_names(storage, config.name), *exports_of(storage, config.name)}
    for name in sorted(sorted(names, reverse=True), key=lambda name: name != live):
        parts_of = release_parts(name)
        manifest = read_manifest(storage, run_folder(config.name, *parts_of)) if parts_of else None
        if manifest is None:
            if _has_some(config, storage, name):
                _require_not_live(config, name, live)
                yield name, None
            continue
        found = without_forgotten(storage, config, manifest)
        if name in found[0].releases_before:
            yield name, found


def _has_some(config: PipelineConfig, storage: Storage, name: str) -> bool:
    """Whether a release has a key that is forgotten, as it is read back; one that cannot be read may have some."""
    who = forgotten(storage, config.name)
    types = [one.arrow for one in config.features.contract.key]
    if not stores_of(storage, config.name, name):
        return True
    try:
        for release in in_stores(storage, config.name, name):
            for keys, _ in release.store.scan(storage, release):
                columns = [keys] if len(types) == 1 else columns_of(keys, types)
                table = pa.table(columns, names=config.features.contract.key_names)
                if who and who.rows(table, config.features.contract.key_names).any():
                    return True
    except (ReleaseBroken, StoreUnavailable):
        return True
    return False


def _require_not_live(config: PipelineConfig, name: str, live: str | None) -> None:
    """Raises NotPublishable for what is live: to take that out would leave everybody without an answer."""
    if name == live:
        raise NotPublishable(
            f"The release {name} of {config.name} is live and has the key, and its run is not kept any more, so it cannot be "
            "built without it: publish another day, then say the same again."
        )


def _let_live(
    config: PipelineConfig,
    storage: Storage,
    registry: Registry,
    manifest: Manifest,
    who: Forgotten | None,
    why: str,
    progress: Progress,
) -> dict[str, str]:
    """Build what is live anew, let it go live, and take the old one out; says which stores could not follow, and why."""
    log = current_log(storage, config.name)
    entry = log.latest()
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    releases, lagging = build(config, storage, manifest, who, stores_for(config, storage, manifest.partition), progress)
    if entry is not None:
        go_live(storage, releases, entry.body.approval, withdrawn, log.made_from(entry), f"keys were forgotten: {why}")
    remove_releases(storage, config.name, manifest.releases_before, progress)
    export_day(config, storage, manifest, who, progress)
    return lagging


def _as_table(config: PipelineConfig, keys: Sequence[Said]) -> pa.Table:
    """Keys as rows of their columns. Raises ForgetInvalid."""
    columns, rows = config.features.contract.key, list[dict[str, pa.Array]]()
    for key in keys:
        values = parsed(parts(key), [one.arrow for one in columns])
        try:
            rows.append({one.name: as_column(value, one.arrow) for one, value in zip(columns, values or (), strict=True)})
        except (OverflowError, ValueError):
            about = ", ".join(f"{one.name} ({one.dtype})" for one in columns)
            raise ForgetInvalid(f"That is no key of {config.name}, whose keys are {about}: say a value for each.") from None
    return pa.table({one.name: pa.chunked_array([row[one.name] for row in rows], one.arrow) for one in columns})


def _require_reason(keys: Sequence[Said], why: str) -> None:
    """Raises ForgetInvalid if there is no reason, or a key stands in it: reasons are kept in clear."""
    if not why.strip():
        raise ForgetInvalid("To forget a key needs a reason: say it with --reason.")
    for value in (str(part) for key in keys for part in parts(key)):
        if value and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", why):
            raise ForgetInvalid("The reason names the key, and reasons are kept in clear: say it in other words.")
