"""Where a day's answers lie, for programs of others: the files that its manifest names, its release, its export."""

from dataclasses import dataclass
from pathlib import Path

from batch_assets.config import PipelineConfig
from batch_assets.errors import CommitBroken, NoPrediction, NotFound, NotPublishable
from batch_assets.models.registry import Registry
from batch_assets.nightly.accepted import accepted_run
from batch_assets.runs.commit import run_folder
from batch_assets.runs.manifest import Manifest, damage, manifest_log, read_manifest
from batch_assets.serving.export import export_folder, is_exported
from batch_assets.serving.file_store import FileStore
from batch_assets.serving.live import current_log
from batch_assets.serving.release import in_stores, release_name, release_parts
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Paths:
    """Where a day's answers lie: `predictions` are Parquet files, all rows once; a `release` or `export` may be missing."""

    pipeline: str
    partition: str
    run_id: str
    rows: int
    predictions: tuple[str, ...]
    release: str | None
    export: str | None


def paths(config: PipelineConfig, storage: Storage, registry: Registry, day: str | None = None) -> Paths:
    """Where the answers of a day's accepted run lie; by default of what is live, as it went live.

    Raises:
        NoPrediction: nothing was ever published.
        NotPublishable: no run of the day is accepted.
        NotFound: what is live is not kept any more.
        CommitBroken: a file is missing, or was cut.
    """
    manifest = _of_day(config, storage, registry, day) if day else _live(storage, config.name)
    name = release_name(manifest)
    stores = (one for one in in_stores(storage, config.name, name) if isinstance(one.store, FileStore))
    file = next((one.store.path(one) for one in stores if isinstance(one.store, FileStore)), None)
    exported = config.export is not None and is_exported(storage, config.export, config.name, name)

    def local(path: str) -> str:
        return f"{storage.location}/{path}"

    return Paths(
        pipeline=config.name,
        partition=manifest.partition,
        run_id=manifest.run_id,
        rows=manifest.scored,
        predictions=tuple(local(f"{manifest.folder}/{one.name}") for one in manifest.files),
        release=local(file) if file else None,
        export=local(export_folder(config.name, name)) if exported else None,
    )


def _of_day(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> Manifest:
    withdrawn = registry.approvals(config.model.name, config.model.alias).withdrawn()
    accepted = accepted_run(storage, config.name, day, withdrawn)
    manifest = read_manifest(storage, accepted.folder) if accepted else None
    if manifest is None:
        raise NotPublishable(
            f"No run of {config.name} {day} is accepted, or it is not kept any more: "
            f"`batch-assets run {config.name} --partition {day}` makes one."
        )
    return manifest


def _live(storage: Storage, pipeline: str) -> Manifest:
    """The manifest that the live release was built from: a later one has rows that were dead letters then."""
    live = current_log(storage, pipeline).latest()
    if live is None:
        raise NoPrediction(f"Nothing of {pipeline} has been published under {storage.location} yet.")
    name = live.body.release
    folder = run_folder(pipeline, *(release_parts(name) or (live.body.partition, "")))
    entries = manifest_log(storage, folder).history()
    manifest = next((entry.body for entry in entries if release_name(entry.body) == name), None)
    if manifest is None:
        raise NotFound(f"The run of {name} is not kept any more: `batch-assets run {pipeline}` makes another.")
    if broken := damage(storage, manifest):
        raise CommitBroken(f"{folder} is not what its manifest says: {'; '.join(broken)}; run the partition again.")
    return manifest


def write_view(storage: Storage, pipeline: str, file: Path) -> None:
    """Write SQL for DuckDB that follows what is live: whoever reads it has a view of what is live then.

    It can be written before anything was published. It looks for the release that is live, as readers do, and for the manifest
    that this was built from, so it need not be written again.
    """
    file.write_text(_VIEW.format(pipeline=pipeline, root=storage.location.replace("'", "''")))


_VIEW = """\
-- What is live of {pipeline}, for DuckDB: `.read` this file, or `duckdb -init` it; then `FROM {pipeline}`.
-- Each reading looks for what is live then; the column `partition` says which day that is.

SET VARIABLE {pipeline}_live = (
    WITH entry AS (
        SELECT max(printf('%06d-%s', number, sha256)) AS name, max_by(body.release, number) AS release
        FROM read_json('{root}/{pipeline}/serving/_current/*.json',
                       columns = {{number: 'INT', sha256: 'TEXT', body: 'STRUCT(release TEXT)'}})
    ), witness AS (
        SELECT max(parse_filename(file)) AS name FROM glob('{root}/{pipeline}/serving/_witness/_current/*-*')
    )
    SELECT CASE WHEN entry.name >= coalesce(witness.name, '') THEN release
                ELSE error('After ' || release || ' another release of {pipeline} went live, and its entry is missing: '
                           || '`batch-assets releases list {pipeline}` says which.') END
    FROM entry, witness
);

SET VARIABLE {pipeline}_files = (
    SELECT max_by(list_transform(body.files, lambda file: '{root}/' || body.folder || '/' || file.name), number)
    FROM read_json('{root}/{pipeline}/predictions/date=' || getvariable('{pipeline}_live')[:10] || '/run='
                   || regexp_extract(getvariable('{pipeline}_live'), '^.{{11}}([0-9a-f]+)', 1) || '/_manifest/*.json',
                   columns = {{number: 'INT', body: 'STRUCT(folder TEXT, files STRUCT(name TEXT)[])'}})
    WHERE len(list_filter(body.files, lambda file: contains(file.name, '.replay-')))
          = coalesce(try_cast(regexp_extract(getvariable('{pipeline}_live'), '[.]([0-9]+)$', 1) AS INT), 0)
);

CREATE OR REPLACE TEMP VIEW "{pipeline}" AS
    FROM read_parquet(getvariable('{pipeline}_files'), hive_partitioning = false);
"""
