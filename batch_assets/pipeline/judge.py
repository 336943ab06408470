"""Judge a snapshot or a run, write the verdict, and accept the run if the verdict is good."""

import hashlib
from collections.abc import Collection, Iterator
from datetime import date, timedelta

from batch_assets.config import PipelineConfig
from batch_assets.errors import CommitBroken, NotFound, SnapshotChanged
from batch_assets.features.profile import read_profile
from batch_assets.features.provenance import read_provenance
from batch_assets.models.registry import ModelVersion
from batch_assets.pipeline.accepted import accept, accepted_before, accepted_run
from batch_assets.pipeline.freeze import Frozen, check_contract
from batch_assets.pipeline.freshness import compared_with_before, table_rows
from batch_assets.pipeline.score import Run, plan_run
from batch_assets.pipeline.shift import Compared, between_runs, expected_shift
from batch_assets.pipeline.verdict import Verdict, read_verdict, record
from batch_assets.quality.changes import judge_changes
from batch_assets.quality.columns import Column, columns_of
from batch_assets.quality.completeness import judge_audit, judge_completeness, judge_dead_letters, judge_one_model
from batch_assets.quality.drift import judge_baseline, judge_drift, judge_scores
from batch_assets.quality.expectations import judge_data, judge_profile
from batch_assets.quality.feature_drift import judge_feature_baseline, judge_feature_drift
from batch_assets.quality.model_shift import judge_model_shift, judge_ranks
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.quality.sources import judge_sources
from batch_assets.scoring.audit import ONE_IN_A_HUNDRED
from batch_assets.scoring.commit import read_commits
from batch_assets.scoring.manifest import Manifest, latest_manifest, read_manifest
from batch_assets.snapshot import SnapshotReader, current_log, days_of, snapshot_folder
from batch_assets.storage import Storage

_OLDEST = 28
"""How many days before a day the good days that its features are compared with may lie."""


def judge_features(config: PipelineConfig, storage: Storage, frozen: Frozen, day: str) -> Verdict:
    """Judge a snapshot's columns: the contract, the suite over the column profile, and the good days before."""
    quality, contract = config.quality, config.features.contract
    allow_empty = quality.completeness.allow_empty
    deciding = (contract, quality.sources, quality.expectations, quality.changes, quality.drift)
    provenance = read_provenance(storage, frozen.folder)
    settings = _fingerprint(*(one.model_dump_json() for one in (*deciding, provenance)), str(allow_empty))
    before = read_verdict(storage, frozen.folder)
    if before is not None and before.settings == settings:
        return before
    differences = check_contract(config, storage, frozen)
    agreed = CheckOutcome(
        name="contract",
        asset="user_features",
        passed=not differences,
        severity="error",
        observed=float(len(differences)),
        threshold=0.0,
        message="; ".join(differences) or f"{len(contract.columns)} columns as agreed.",
    )
    profile = read_profile(storage, frozen.folder)
    columns = _columns(config, storage, frozen.folder)
    days = dict(sorted(_good_days(config, storage, day)))
    trailing = {other: found for other, (_, found) in days.items()}
    good = {other: digest for other, digest, found in _good(config, storage, day) if "sources" not in found.overridden}
    verdict = Verdict(
        subject=frozen.snapshot.digest,
        settings=settings,
        outcomes=(
            agreed,
            judge_sources(
                day,
                table_rows(config, storage, provenance, good),
                compared_with_before(config, storage, frozen, good) if agreed.passed else None,
                quality.sources,
                allow_unchanged=quality.changes.allow_unchanged,
            ),
            judge_profile(profile, contract, quality.expectations, allow_empty=allow_empty),
            judge_changes(columns, trailing, quality.changes),
            judge_feature_drift(columns, trailing, quality.drift),
            *([_full_scan(config, storage, frozen, agreed)] if quality.expectations.full_scan else []),
        ),
        compared_with=tuple(f"{other} {digest[:16]}" for other, (digest, _) in days.items()),
    )
    return record(storage, frozen.folder, verdict)


def _good(config: PipelineConfig, storage: Storage, day: str) -> Iterator[tuple[str, str, Verdict]]:
    """The days before a day whose features are good, newest first: the snapshot's digest and its verdict."""
    oldest = (date.fromisoformat(day) - timedelta(days=_OLDEST)).isoformat()
    for other in reversed([one for one in days_of(storage, config.name) if oldest <= one < day]):
        entry = current_log(storage, config.name, other).latest()
        verdict = read_verdict(storage, snapshot_folder(config.name, other, entry.body["digest"])) if entry else None
        if entry is not None and verdict is not None and verdict.good:
            yield other, entry.body["digest"], verdict


def _good_days(config: PipelineConfig, storage: Storage, day: str) -> Iterator[tuple[str, tuple[str, dict[str, Column]]]]:
    """The newest of the good days before a day: the snapshot's digest and its columns, newest first."""
    found = 0
    for other, digest, _ in _good(config, storage, day):
        try:
            yield other, (digest, _columns(config, storage, snapshot_folder(config.name, other, digest)))
        except SnapshotChanged:
            continue  # it was pruned, or written before profiles had histograms
        found += 1
        if found == config.quality.changes.compare_days:
            return


def _columns(config: PipelineConfig, storage: Storage, folder: str) -> dict[str, Column]:
    """What a snapshot's profile says of the contract's columns."""
    names = config.features.contract.names
    return {name: column for name, column in columns_of(read_profile(storage, folder)).items() if name in names}


def _full_scan(config: PipelineConfig, storage: Storage, frozen: Frozen, agreed: CheckOutcome) -> CheckOutcome:
    """great-expectations on every row; a snapshot whose columns are not as agreed has not been scanned."""
    contract, quality = config.features.contract, config.quality
    if not agreed.passed:
        return agreed.model_copy(update={"name": "full_scan", "message": f"Not scanned: {agreed.message}"})
    names = [contract.key.name, *(column.name for column in contract.columns if column.length is None)]
    reader = SnapshotReader(storage, frozen.folder, frozen.snapshot)
    tables = [reader.rows(number, 0, file.rows, names) for number, file in enumerate(frozen.snapshot.files)]
    return judge_data(tables, contract, quality.expectations, allow_empty=quality.completeness.allow_empty)


def judge(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> Verdict:
    """Judge a finished run together with its features; a good one becomes the day's accepted run.

    Raises:
        NotFound: the run is not finished.
    """
    run, manifest = finished_run(config, storage, day, model)
    features = judge_features(config, storage, run.frozen, day)
    withdrawn = model.withdrawn()
    trailing = trailing_runs(config, storage, run)
    histograms = {partition: other.histogram for partition, other in trailing.items()}
    quality, card = config.quality, model.card
    previous = _previous(config, storage, manifest, model, trailing, withdrawn)
    yesterday = _between(config, storage, next(reversed(trailing.values()), None), manifest)
    verdict = Verdict(
        subject=manifest.run_id,
        settings=_fingerprint(quality.model_dump_json()),
        outcomes=(
            *features.outcomes,
            judge_completeness(
                rows=manifest.rows,
                scored=manifest.scored,
                excluded=manifest.excluded,
                dead_lettered=manifest.dead_lettered,
                proven_rows=manifest.proof.rows,
                settings=quality.completeness,
            ),
            judge_dead_letters(rows=manifest.rows, dead_lettered=manifest.dead_lettered, settings=quality.completeness),
            judge_one_model(_models(storage, run), model.version, card.model_sha256),
            judge_audit(
                scored=manifest.scored,
                audited=manifest.audit.rows,
                bit_equal=manifest.audit.bit_equal,
                detects=manifest.audit.detects.get(ONE_IN_A_HUNDRED, 0.0),
            ),
            judge_scores(manifest.histogram),
            judge_drift(manifest.histogram, histograms, quality.drift),
            judge_ranks(yesterday.shift if yesterday else None, quality.drift),
            _model_shift(config, model, _between(config, storage, previous, manifest)),
            judge_baseline(manifest.histogram, card.baseline, card.baseline_partition, quality.drift),
            judge_feature_baseline(
                _columns(config, storage, run.frozen.folder),
                {
                    name: Column.seen(name, spread, category=name in card.contract.categories)
                    for name, spread in (card.features or {}).items()
                },
                card.baseline_partition,
                quality.drift,
            ),
        ),
        compared_with=tuple(other.run_id for other in (*trailing.values(), *([previous] if previous else []))),
    )
    verdict = record(storage, run.folder, verdict)
    accept(storage, manifest, model.approval, verdict, withdrawn)
    return verdict


def _models(storage: Storage, run: Run) -> set[tuple[str, str]]:
    """Every (version, sha256) that the footers of a run's chunks name."""
    commits = read_commits(storage, run.folder, run.plan, run.run_id)
    return {(commit.model_version, commit.model_sha256) for commit in commits.values()}


def finished_run(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> tuple[Run, Manifest]:
    """The run of a day by a model, and its manifest. Raises NotFound if it is not finished."""
    run = plan_run(config, storage, day, model)
    manifest = read_manifest(storage, run.folder)
    if manifest is None:
        raise NotFound(f"{config.name} {day} is not scored by {model.name} {model.version} yet: materialize predictions first.")
    return run, manifest


def trailing_runs(config: PipelineConfig, storage: Storage, run: Run) -> dict[str, Manifest]:
    """Earlier accepted days within reach that the model of a run scored, by partition, oldest first."""
    withdrawn, found = run.model.withdrawn(), {}
    for day in reversed(list(_days_before(run.day, config.quality.drift.trailing_days))):
        accepted = accepted_run(storage, config.name, day, withdrawn)
        other = latest_manifest(storage, accepted.folder) if accepted else None
        if other is not None and (other.model.name, other.model.digest) == (run.model.name, run.model.digest):
            found[day] = other
    return found


def _previous(
    config: PipelineConfig,
    storage: Storage,
    manifest: Manifest,
    model: ModelVersion,
    trailing: Collection[str],
    withdrawn: Collection[int],
) -> Manifest | None:
    """The run by another version that a run is compared with.

    The one of the same day that was accepted under an earlier approval. If there is none and this version has no days of its
    own to be compared with yet, the newest accepted one of the days before.
    """
    same = accepted_before(storage, config.name, manifest.partition, model.approval, withdrawn)
    found = latest_manifest(storage, same.folder) if same else None
    if found is not None and found.model != manifest.model:
        return found
    if trailing:
        return None
    for day in _days_before(manifest.partition, config.quality.drift.trailing_days):
        accepted = accepted_run(storage, config.name, day, withdrawn)
        found = latest_manifest(storage, accepted.folder) if accepted else None
        if found is not None and found.model != manifest.model:
            return found
    return None


def _between(config: PipelineConfig, storage: Storage, before: Manifest | None, manifest: Manifest) -> Compared | None:
    """How a run compares with an earlier one; one whose files are damaged or gone says nothing about this one."""
    try:
        return between_runs(storage, before, manifest, config.features.contract.key.name) if before else None
    except (CommitBroken, NotFound):
        return None


def _model_shift(config: PipelineConfig, model: ModelVersion, found: Compared | None) -> CheckOutcome:
    if found is None:
        return judge_model_shift(None, None, None, config.quality.drift)
    expected = expected_shift(config, model)
    return judge_model_shift(found.distance, found.shift, expected, config.quality.drift, found.edges)


def _days_before(day: str, count: int) -> Iterator[str]:
    """The days before a day, newest first."""
    return ((date.fromisoformat(day) - timedelta(days=back)).isoformat() for back in range(1, count + 1))


def _fingerprint(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
