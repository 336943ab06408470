"""Judge a finished night, write the verdict, and accept the run if the verdict is good."""

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from batch_assets.clock import days_ago
from batch_assets.config import PipelineConfig
from batch_assets.errors import CommitBroken, NotFound
from batch_assets.features.snapshot import current_log, days_of
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.accepted import accept, accepted_before, accepted_run
from batch_assets.nightly.judge_features import contract_columns, judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.shift import Compared, between_runs, expected_shift
from batch_assets.nightly.timings import keep_timing
from batch_assets.nightly.verdict import (
    OLDEST,
    Verdict,
    basis_of,
    decided,
    in_force,
    judged_now,
    read_verdict,
    record,
    verdict_log,
)
from batch_assets.process import MemoryWatch
from batch_assets.quality.columns import Column
from batch_assets.quality.comparable import while_few_are_known
from batch_assets.quality.completeness import judge_audit, judge_completeness, judge_dead_letters, judge_one_model
from batch_assets.quality.drift import judge_baseline, judge_drift, judge_scores
from batch_assets.quality.feature_drift import judge_feature_baseline
from batch_assets.quality.model_shift import Shift, judge_model_shift, judge_ranks
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.commit import read_commits
from batch_assets.runs.evidence import ONE_IN_A_HUNDRED
from batch_assets.runs.manifest import Manifest, latest_manifest
from batch_assets.storage import Storage


def judge(night: Night, manifest: Manifest | None = None) -> Verdict:
    """Judge a finished run together with its features; a good one becomes the day's accepted run.

    Raises:
        NotFound: the run is not finished.
    """
    config, storage, model = night.config, night.storage, night.model
    finished = manifest or night.manifest()
    features = judge_features(config, storage, night.frozen, night.day)
    started, first = time.perf_counter(), not verdict_log(storage, night.folder).numbers()
    with MemoryWatch() as memory:
        verdict = record(
            storage, night.folder, lambda before: run_verdict(night, finished, features, before), seen=[night.log()]
        )
        seen = [current_log(storage, config.name, night.day), *model.logs]
        accept(storage, finished, model.approval, verdict, model.withdrawn(), seen)
    if first:
        keep_timing(storage, night.folder, "judging", finished.rows, time.perf_counter() - started, memory.peak)
    return verdict


def run_verdict(night: Night, manifest: Manifest, features: Verdict, before: Verdict | None) -> Verdict:
    """What is to be said of a finished run now, after what is said of its features; nothing is written.

    What was said before if it would be compared with the same now, else what is found; and the overrides that hold for it.
    """
    earlier = _same_model_before(night)
    beside = _beside(night, manifest, earlier)
    if before is not None and before.basis == beside.basis:
        outcomes = before.of("predictions")
    else:
        outcomes = _judge_scores(night, manifest, beside)
    outcomes = decided(outcomes, night.day, before, lambda: _verdicts_on(night.storage, earlier.values()))
    return Verdict(
        subject=manifest.run_id,
        partition=night.day,
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


def _beside(night: Night, manifest: Manifest, earlier: "dict[str, _Accepted]") -> _Beside:
    config, storage = night.config, night.storage
    trailing = _trailing(config, night.day, earlier)
    left_out = len(_within(config, night.day, earlier)) - len(trailing)
    previous = _previous(config, storage, manifest, night.model, trailing)
    expected = expected_shift(config, night.model)
    said = (f"{one.run_id} {one.values.hex()} {one.scored} {one.dead_lettered}" for one in (manifest, *trailing.values()))
    other = f"{previous.run_id} {previous.values.hex()}" if previous else ""
    told = expected.model_dump_json() if expected else ""
    known = known_runs(night)
    basis = basis_of(config.quality.model_dump_json(), *said, other, told, str(known), str(left_out))
    return _Beside(trailing, left_out, known, previous, expected, basis)


def _judge_scores(night: Night, manifest: Manifest, beside: _Beside) -> tuple[CheckOutcome, ...]:
    config, storage = night.config, night.storage
    quality, card = config.quality, night.model.card
    histograms = {partition: other.histogram for partition, other in beside.trailing.items()}
    yesterday = _between(config, storage, next(reversed(beside.trailing.values()), None), manifest)
    shifted = _between(config, storage, beside.previous, manifest)
    baseline = {
        name: Column.seen(name, spread, category=name in card.contract.categories)
        for name, spread in (card.features or {}).items()
    }
    columns = contract_columns(config, night.frozen.storage, night.frozen.folder)
    newest = quality.changes.compare_days
    drift = judge_drift(night.day, manifest.histogram, histograms, quality.drift, newest, left_out=beside.left_out)
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
        judge_one_model(_models(night), night.model.version, card.model_sha256),
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
    return judged_now(outcomes)


def _models(night: Night) -> set[tuple[str, str]]:
    """Every (version, sha256) that the footers of a run's chunks name."""
    commits = read_commits(night.storage, night.folder, night.plan, night.run_id)
    return {(commit.model_version, commit.model_sha256) for commit in commits}


@dataclass(frozen=True)
class _Accepted:
    """A day's accepted run, and whether later days are compared with it."""

    manifest: Manifest
    is_yardstick: bool


def _same_model_before(night: Night) -> dict[str, _Accepted]:
    """The accepted days within reach before a run that its model scored, by partition, oldest first."""
    oldest = days_ago(night.day, max(OLDEST, night.config.quality.drift.trailing_days))
    within = takewhile(lambda one: one.manifest.partition >= oldest, _runs_before(night))
    return {one.manifest.partition: one for one in reversed(list(within))}


def known_runs(night: Night) -> int:
    """How many earlier accepted days the model of a run scored, at most `min_days`, however long ago."""
    return len(list(islice(_runs_before(night), night.config.quality.min_days)))


def _runs_before(night: Night) -> Iterator[_Accepted]:
    """The accepted runs of the days before a run's that its model scored, newest first."""
    storage, name, withdrawn = night.storage, night.config.name, night.model.withdrawn()
    for day in reversed([one for one in days_of(storage, name) if one < night.day]):
        accepted = accepted_run(storage, name, day, withdrawn)
        other = latest_manifest(storage, accepted.folder) if accepted else None
        if accepted and other and (other.model.name, other.model.digest) == (night.model.name, night.model.digest):
            yield _Accepted(other, accepted.is_yardstick)


def _verdicts_on(storage: Storage, runs: Iterable[_Accepted]) -> list[Verdict]:
    """The verdicts on accepted runs."""
    found = (read_verdict(storage, one.manifest.folder) for one in runs)
    return [verdict for verdict in found if verdict is not None]


def decided_for(night: Night) -> set[str]:
    """The checks on scores of which somebody decided that they do not block a run: on its day, or before, until then."""
    own = read_verdict(night.storage, night.folder)
    verdicts = [*_verdicts_on(night.storage, _same_model_before(night).values()), *([own] if own else [])]
    return {check for check, _, _ in in_force(verdicts, night.day)}


def trailing_runs(night: Night) -> dict[str, Manifest]:
    """Earlier accepted days within reach that a run is compared with, as its model scored them, by partition, oldest first."""
    return _trailing(night.config, night.day, _same_model_before(night))


def _trailing(config: PipelineConfig, day: str, earlier: dict[str, _Accepted]) -> dict[str, Manifest]:
    return {other: one.manifest for other, one in _within(config, day, earlier).items() if one.is_yardstick}


def _within(config: PipelineConfig, day: str, earlier: dict[str, _Accepted]) -> dict[str, _Accepted]:
    """Those of the earlier days that are near enough to be compared with."""
    oldest = days_ago(day, config.quality.drift.trailing_days)
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
    for day in (days_ago(manifest.partition, back) for back in range(1, config.quality.drift.trailing_days + 1)):
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
