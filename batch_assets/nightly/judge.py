"""Judge a snapshot or a run, write the verdict, and accept the run if the verdict is good."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice, takewhile

from batch_assets.clock import utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import CommitBroken, NotFound, SnapshotChanged
from batch_assets.features.profile import read_profile
from batch_assets.features.snapshot import SnapshotReader, current_log, days_of, snapshot_folder
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.accepted import accept, accepted_before, accepted_run
from batch_assets.nightly.freeze import Frozen, check_contract
from batch_assets.nightly.freshness import Loads, judge_loads, loads_of
from batch_assets.nightly.score import Run, plan_run
from batch_assets.nightly.shift import Compared, between_runs, expected_shift
from batch_assets.nightly.verdict import Verdict, decided, in_force, read_verdict, record
from batch_assets.quality.changes import judge_changes
from batch_assets.quality.columns import Column, columns_of
from batch_assets.quality.comparable import while_few_are_known
from batch_assets.quality.completeness import judge_audit, judge_completeness, judge_dead_letters, judge_one_model
from batch_assets.quality.drift import judge_baseline, judge_drift, judge_scores
from batch_assets.quality.expectations import judge_data, judge_profile
from batch_assets.quality.feature_drift import judge_feature_baseline, judge_feature_drift
from batch_assets.quality.model_shift import Shift, judge_model_shift, judge_ranks
from batch_assets.quality.outcome import CheckOutcome, Finding
from batch_assets.quality.sources import SOURCES
from batch_assets.runs.commit import read_commits
from batch_assets.runs.evidence import ONE_IN_A_HUNDRED
from batch_assets.runs.manifest import Manifest, latest_manifest, manifest_log, read_manifest
from batch_assets.storage import Storage

OLDEST = 28
"""How many days an override may hold."""

ROWS = ""
"""What a good day serves for beside its columns: how many rows are usual."""


def judge_features(config: PipelineConfig, storage: Storage, frozen: Frozen, day: str) -> Verdict:
    """Judge a snapshot's columns: the contract, the suite over the column profile, and the good days before."""
    return record(storage, frozen.folder, lambda before: features_verdict(config, storage, frozen, day, before))


def features_verdict(config: PipelineConfig, storage: Storage, frozen: Frozen, day: str, before: Verdict | None) -> Verdict:
    """What is to be said of a snapshot now; nothing is written.

    What was said before if it would be compared with the same now, else what is found; and the overrides that hold for it.
    """
    oldest = _oldest(day, max(OLDEST, config.quality.drift.trailing_days))
    judged = list(takewhile(lambda one: one[0] >= oldest, _judged_days(config, storage, day)))
    good, known, loads = _good_days(config, day, judged), _known_days(config, storage, day), loads_of(frozen, judged)
    basis = _features_basis(config, good, known, loads)
    if before is not None and before.basis == basis:
        verdict = before
    else:
        verdict = _judge_columns(config, storage, frozen, day, good, known, loads, basis)
    outcomes = decided(verdict.outcomes, day, before, lambda: _features_before(config, storage, day))
    return verdict.model_copy(update={"outcomes": outcomes})


def _judge_columns(
    config: PipelineConfig,
    storage: Storage,
    frozen: Frozen,
    day: str,
    good: "list[_GoodDay]",
    known: int,
    loads: Loads,
    basis: str,
) -> Verdict:
    quality, contract = config.quality, config.features.contract
    differences = check_contract(config, frozen)
    agreed = CheckOutcome(
        name="contract",
        asset="user_features",
        passed=not differences,
        severity="error",
        observed=float(len(differences)),
        threshold=0.0,
        message="; ".join(differences) or f"{len(contract.columns)} columns as agreed.",
    )
    profile = read_profile(frozen.storage, frozen.folder)
    columns = _columns(config, frozen.storage, frozen.folder)
    days = {one.day: one for one in good}
    trailing = {one.day: found for one in sorted(good, key=lambda one: one.day) if (found := _yardstick(config, storage, one))}
    unusual = {other for other in trailing if ROWS not in days[other].serves}
    changes = judge_changes(day, columns, trailing, quality.changes, unusual)
    drift = judge_feature_drift(day, columns, trailing, quality.drift, quality.changes.compare_days)
    outcomes = (
        agreed,
        judge_loads(config, storage, frozen, day, loads, same_columns=agreed.passed),
        judge_profile(profile, contract, quality.expectations, allow_empty=quality.completeness.allow_empty),
        _with_unmeasured(while_few_are_known(changes, known, quality.min_days), trailing, good),
        while_few_are_known(drift, known, quality.min_days),
        *([_full_scan(config, frozen, agreed)] if quality.expectations.full_scan else []),
    )
    return Verdict(
        subject=frozen.snapshot.digest,
        partition=day,
        basis=basis,
        outcomes=_judged_now(outcomes),
        compared_with=tuple(str(days[other]) for other in trailing),
    )


def _judged_now(outcomes: Iterable[CheckOutcome]) -> tuple[CheckOutcome, ...]:
    now = utc_now().isoformat(timespec="milliseconds")
    return tuple(one.model_copy(update={"judged": now}) for one in outcomes)


def _features_basis(config: PipelineConfig, good: "list[_GoodDay]", known: int, loads: Loads) -> str:
    """A digest of what decides what is said of a snapshot, beside the snapshot itself."""
    quality = config.quality
    deciding = (config.features.contract, quality.sources, quality.expectations, quality.changes, quality.drift)
    settings = (
        *(one.model_dump_json() for one in deciding),
        str(quality.completeness.allow_empty),
        f"{known < quality.min_days}",
    )
    return _fingerprint(*settings, loads.basis, *(f"{one.day} {one.digest} {sorted(one.serves)}" for one in good))


@dataclass(frozen=True)
class _GoodDay:
    """A day whose features are good, and the columns (and ROWS) that others are compared with: none that was overridden."""

    day: str
    digest: str
    folder: str
    serves: frozenset[str]
    without: frozenset[str]

    def __str__(self) -> str:
        left_out = ", ".join(sorted(name or "its number of rows" for name in self.without))
        return f"{self.day} {self.digest[:16]}{left_out and f' without {left_out}'}"


def _good_days(config: PipelineConfig, day: str, judged: Iterable[tuple[str, str, Verdict]]) -> list[_GoodDay]:
    """The days within reach before a day whose features are good, newest first."""
    oldest, found = _oldest(day, config.quality.drift.trailing_days), list[_GoodDay]()
    for other, digest, verdict in takewhile(lambda one: one[0] >= oldest, judged):
        lost = frozenset(
            ROWS if finding.of_rows else finding.subject for check, finding in verdict.overridden if check != SOURCES
        )
        serves = frozenset({ROWS, *config.features.contract.names} - lost)
        if verdict.good and verdict.is_yardstick and serves:
            found.append(_GoodDay(other, digest, snapshot_folder(config.name, other, digest), serves, lost))
    return found


def _known_days(config: PipelineConfig, storage: Storage, day: str) -> int:
    """How many days before a day have good features, at most `min_days`, however long ago."""
    good = (other for other, _, verdict in _judged_days(config, storage, day) if verdict.good)
    return len(list(islice(good, config.quality.min_days)))


def _judged_days(config: PipelineConfig, storage: Storage, day: str) -> Iterator[tuple[str, str, Verdict]]:
    """The days before a day, newest first, with the digest of the snapshot that each uses, and its verdict."""
    for other in reversed([one for one in days_of(storage, config.name) if one < day]):
        entry = current_log(storage, config.name, other).latest()
        verdict = read_verdict(storage, snapshot_folder(config.name, other, entry.body.digest)) if entry else None
        if entry is not None and verdict is not None:
            yield other, entry.body.digest, verdict


def _features_before(config: PipelineConfig, storage: Storage, day: str) -> list[Verdict]:
    """The verdicts on the features of the days before a day whose overrides may hold for it, oldest first."""
    oldest = _oldest(day, OLDEST)
    return [verdict for _, _, verdict in takewhile(lambda one: one[0] >= oldest, _judged_days(config, storage, day))][::-1]


def _yardstick(config: PipelineConfig, storage: Storage, good: _GoodDay) -> dict[str, Column]:
    """The columns of a good day that others are compared with."""
    try:
        return {name: column for name, column in _columns(config, storage, good.folder).items() if name in good.serves}
    except SnapshotChanged:
        return {}  # its profile is damaged


def _with_unmeasured(changes: CheckOutcome, trailing: Mapping[str, Collection[str]], good: Iterable[_GoodDay]) -> CheckOutcome:
    """`changes`, with a warning of what is compared with no day any more, as it was overridden on every one."""
    known = {name for one in good for name in one.serves if name in (ROWS, *trailing.get(one.day, ()))}
    missed = sorted({name for one in good for name in one.without} - known) if trailing else []
    if not missed:
        return changes
    said = [f"{name or 'the number of rows'} is compared with no day: it was overridden on every one" for name in missed]
    warned = [
        Finding(subject=name, kind="unmeasured", message=text, severity="warn") for name, text in zip(missed, said, strict=True)
    ]
    return changes.model_copy(
        update={
            "passed": False,
            "severity": "warn" if changes.passed else changes.severity,
            "findings": (*changes.findings, *warned),
            "message": "; ".join((changes.message.rstrip("."), *said)),
        }
    )


def _columns(config: PipelineConfig, storage: Storage, folder: str) -> dict[str, Column]:
    """What a snapshot's profile says of the contract's columns."""
    names = config.features.contract.names
    return {name: column for name, column in columns_of(read_profile(storage, folder)).items() if name in names}


def _full_scan(config: PipelineConfig, frozen: Frozen, agreed: CheckOutcome) -> CheckOutcome:
    """great-expectations on every row; a snapshot whose columns are not as agreed has not been scanned."""
    contract, quality = config.features.contract, config.quality
    if not agreed.passed:
        return agreed.model_copy(update={"name": "full_scan", "message": f"Not scanned: {agreed.message}"})
    names = [*contract.identity, *(column.name for column in contract.columns if column.length is None)]
    reader = SnapshotReader(frozen.storage, frozen.folder, frozen.snapshot)
    tables = [reader.rows(number, 0, file.rows, names) for number, file in enumerate(frozen.snapshot.files)]
    return judge_data(tables, contract, quality.expectations, allow_empty=quality.completeness.allow_empty)


def judge(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> Verdict:
    """Judge a finished run together with its features; a good one becomes the day's accepted run.

    Raises:
        NotFound: the run is not finished.
    """
    run, manifest = finished_run(config, storage, day, model)
    features = judge_features(config, storage, run.frozen, day)
    verdict = record(
        storage,
        run.folder,
        lambda before: run_verdict(config, storage, run, manifest, features, before),
        seen=[manifest_log(storage, run.folder)],
    )
    seen = [current_log(storage, config.name, day), *model.logs]
    accept(storage, manifest, model.approval, verdict, model.withdrawn(), seen)
    return verdict


def run_verdict(
    config: PipelineConfig, storage: Storage, run: Run, manifest: Manifest, features: Verdict, before: Verdict | None
) -> Verdict:
    """What is to be said of a finished run now, after what is said of its features; nothing is written.

    What was said before if it would be compared with the same now, else what is found; and the overrides that hold for it.
    """
    earlier = _same_model_before(config, storage, run)
    beside = _beside(config, storage, run, manifest, earlier)
    if before is not None and before.basis == beside.basis:
        outcomes = before.of("predictions")
    else:
        outcomes = _judge_scores(config, storage, run, manifest, beside)
    outcomes = decided(outcomes, run.day, before, lambda: _verdicts_on(storage, earlier.values()))
    return Verdict(
        subject=manifest.run_id,
        partition=run.day,
        basis=beside.basis,
        outcomes=(*features.outcomes, *outcomes),
        compared_with=tuple(
            other.run_id for other in (*beside.trailing.values(), *([beside.previous] if beside.previous else []))
        ),
    )


@dataclass(frozen=True)
class _Beside:
    """What a run is compared with; `basis` is a digest of that and of everything else that decides what is said of the run.

    `left_out` is how many accepted days within reach it is not compared with, as something about all of them was overridden.
    """

    trailing: dict[str, Manifest]
    left_out: int
    known: int
    previous: Manifest | None
    expected: Shift | None
    basis: str


def _beside(config: PipelineConfig, storage: Storage, run: Run, manifest: Manifest, earlier: "dict[str, _Accepted]") -> _Beside:
    trailing = _trailing(config, run.day, earlier)
    left_out = len(_within(config, run.day, earlier)) - len(trailing)
    previous = _previous(config, storage, manifest, run.model, trailing)
    expected = expected_shift(config, run.model)
    said = (f"{one.run_id} {one.values.hex()} {one.scored} {one.dead_lettered}" for one in (manifest, *trailing.values()))
    other = f"{previous.run_id} {previous.values.hex()}" if previous else ""
    told = expected.model_dump_json() if expected else ""
    known = known_runs(config, storage, run)
    basis = _fingerprint(config.quality.model_dump_json(), *said, other, told, str(known), str(left_out))
    return _Beside(trailing, left_out, known, previous, expected, basis)


def _judge_scores(
    config: PipelineConfig, storage: Storage, run: Run, manifest: Manifest, beside: _Beside
) -> tuple[CheckOutcome, ...]:
    quality, card = config.quality, run.model.card
    histograms = {partition: other.histogram for partition, other in beside.trailing.items()}
    yesterday = _between(config, storage, next(reversed(beside.trailing.values()), None), manifest)
    shifted = _between(config, storage, beside.previous, manifest)
    baseline = {
        name: Column.seen(name, spread, category=name in card.contract.categories)
        for name, spread in (card.features or {}).items()
    }
    columns = _columns(config, run.frozen.storage, run.frozen.folder)
    newest = quality.changes.compare_days
    drift = judge_drift(run.day, manifest.histogram, histograms, quality.drift, newest, left_out=beside.left_out)
    outcomes = (
        judge_completeness(
            rows=manifest.rows,
            scored=manifest.scored,
            excluded=manifest.excluded,
            dead_lettered=manifest.dead_lettered,
            proven_rows=manifest.proof.rows,
            settings=quality.completeness,
        ),
        judge_dead_letters(rows=manifest.rows, dead_lettered=manifest.dead_lettered, settings=quality.completeness),
        judge_one_model(_models(storage, run), run.model.version, card.model_sha256),
        judge_audit(
            scored=manifest.scored,
            audited=manifest.audit.rows,
            bit_equal=manifest.audit.bit_equal,
            detects=manifest.audit.detects.get(ONE_IN_A_HUNDRED, 0.0),
        ),
        judge_scores(manifest.histogram, manifest.by_label(), card.head.threshold_of_label),
        while_few_are_known(drift, beside.known, quality.min_days),
        judge_ranks(yesterday.shift if yesterday else None, quality.drift),
        _model_shift(config, beside.expected, shifted),
        judge_baseline(manifest.histogram, card.baseline, card.baseline_partition, quality.drift),
        judge_feature_baseline(columns, baseline, card.baseline_partition, quality.drift),
    )
    return _judged_now(outcomes)


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


@dataclass(frozen=True)
class _Accepted:
    """A day's accepted run, and whether later days are compared with it."""

    manifest: Manifest
    is_yardstick: bool


def _same_model_before(config: PipelineConfig, storage: Storage, run: Run) -> dict[str, _Accepted]:
    """The accepted days within reach before a run that its model scored, by partition, oldest first."""
    oldest = _oldest(run.day, max(OLDEST, config.quality.drift.trailing_days))
    within = takewhile(lambda one: one.manifest.partition >= oldest, _runs_before(config, storage, run))
    return {one.manifest.partition: one for one in reversed(list(within))}


def known_runs(config: PipelineConfig, storage: Storage, run: Run) -> int:
    """How many earlier accepted days the model of a run scored, at most `min_days`, however long ago."""
    return len(list(islice(_runs_before(config, storage, run), config.quality.min_days)))


def _runs_before(config: PipelineConfig, storage: Storage, run: Run) -> Iterator[_Accepted]:
    """The accepted runs of the days before a run's that its model scored, newest first."""
    withdrawn = run.model.withdrawn()
    for day in reversed([one for one in days_of(storage, config.name) if one < run.day]):
        accepted = accepted_run(storage, config.name, day, withdrawn)
        other = latest_manifest(storage, accepted.folder) if accepted else None
        if accepted and other and (other.model.name, other.model.digest) == (run.model.name, run.model.digest):
            yield _Accepted(other, accepted.is_yardstick)


def _verdicts_on(storage: Storage, runs: Iterable[_Accepted]) -> list[Verdict]:
    """The verdicts on accepted runs."""
    found = (read_verdict(storage, one.manifest.folder) for one in runs)
    return [verdict for verdict in found if verdict is not None]


def decided_for(config: PipelineConfig, storage: Storage, run: Run) -> set[str]:
    """The checks on scores of which somebody decided that they do not block a run: on its day, or before, until then."""
    own = read_verdict(storage, run.folder)
    verdicts = [*_verdicts_on(storage, _same_model_before(config, storage, run).values()), *([own] if own else [])]
    return {check for check, _, _ in in_force(verdicts, run.day)}


def trailing_runs(config: PipelineConfig, storage: Storage, run: Run) -> dict[str, Manifest]:
    """Earlier accepted days within reach that a run is compared with, as its model scored them, by partition, oldest first."""
    return _trailing(config, run.day, _same_model_before(config, storage, run))


def _trailing(config: PipelineConfig, day: str, earlier: dict[str, _Accepted]) -> dict[str, Manifest]:
    return {other: one.manifest for other, one in _within(config, day, earlier).items() if one.is_yardstick}


def _within(config: PipelineConfig, day: str, earlier: dict[str, _Accepted]) -> dict[str, _Accepted]:
    """Those of the earlier days that are near enough to be compared with."""
    oldest = _oldest(day, config.quality.drift.trailing_days)
    return {other: one for other, one in earlier.items() if other >= oldest}


def _previous(
    config: PipelineConfig,
    storage: Storage,
    manifest: Manifest,
    model: ModelVersion,
    trailing: Collection[str],
) -> Manifest | None:
    """The run by another version that a run is compared with.

    The one of the same day that was accepted under an earlier approval. If there is none and this version has no days of its
    own to be compared with yet, the newest accepted one of the days before.
    """
    withdrawn = model.withdrawn()
    same = accepted_before(storage, config.name, manifest.partition, model.approval, withdrawn)
    found = latest_manifest(storage, same.folder) if same and same.is_yardstick else None
    if found is not None and found.model != manifest.model:
        return found
    if trailing:
        return None
    for day in _days_before(manifest.partition, config.quality.drift.trailing_days):
        accepted = accepted_run(storage, config.name, day, withdrawn)
        found = latest_manifest(storage, accepted.folder) if accepted and accepted.is_yardstick else None
        if found is not None and found.model != manifest.model:
            return found
    return None


def _between(config: PipelineConfig, storage: Storage, before: Manifest | None, manifest: Manifest) -> Compared | None:
    """How a run compares with an earlier one; one whose files are damaged or gone says nothing about this one."""
    try:
        return between_runs(storage, before, manifest, config.features.contract.identity) if before else None
    except (CommitBroken, NotFound):
        return None


def _model_shift(config: PipelineConfig, expected: Shift | None, found: Compared | None) -> CheckOutcome:
    if found is None:
        return judge_model_shift(None, None, None, config.quality.drift)
    return judge_model_shift(found.distance, found.shift, expected, config.quality.drift, found.edges)


def _oldest(day: str, reach: int) -> str:
    return (date.fromisoformat(day) - timedelta(days=reach)).isoformat()


def _days_before(day: str, count: int) -> Iterator[str]:
    """The days before a day, newest first."""
    return ((date.fromisoformat(day) - timedelta(days=back)).isoformat() for back in range(1, count + 1))


def _fingerprint(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
