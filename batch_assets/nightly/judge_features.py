"""Judge a snapshot: its columns, its sources, and what is otherwise than on the good days before."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile

from batch_assets.clock import days_ago
from batch_assets.config import PipelineConfig
from batch_assets.errors import SnapshotChanged
from batch_assets.features.profile import read_profile
from batch_assets.features.snapshot import SnapshotReader, current_log, days_of, snapshot_folder
from batch_assets.nightly.freeze import Frozen, check_contract
from batch_assets.nightly.freshness import Loads, judge_loads, loads_of
from batch_assets.nightly.timings import keep_timing
from batch_assets.nightly.verdict import OLDEST, Verdict, basis_of, decided, judged_now, read_verdict, record, verdict_log
from batch_assets.process import MemoryWatch
from batch_assets.quality.changes import judge_changes
from batch_assets.quality.columns import Column, columns_of
from batch_assets.quality.comparable import while_few_are_known
from batch_assets.quality.expectations import judge_data, judge_profile
from batch_assets.quality.feature_drift import judge_feature_drift
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome, Finding
from batch_assets.quality.sources import SOURCES
from batch_assets.storage import Storage

ROWS = ""
"""What a good day serves for beside its columns: how many rows are usual."""


def judge_features(config: PipelineConfig, storage: Storage, frozen: Frozen, day: str) -> Verdict:
    """Judge a snapshot's columns: the contract, the suite over the column profile, and the good days before."""
    started, first = time.perf_counter(), not verdict_log(storage, frozen.folder).numbers()
    with MemoryWatch() as memory:
        verdict = record(storage, frozen.folder, lambda before: features_verdict(config, storage, frozen, day, before))
    if first:
        seconds = time.perf_counter() - started
        keep_timing(storage, frozen.folder, "judging features", frozen.snapshot.rows, seconds, memory.peak)
    return verdict


def features_verdict(config: PipelineConfig, storage: Storage, frozen: Frozen, day: str, before: Verdict | None) -> Verdict:
    """What is to be said of a snapshot now; nothing is written.

    What was said before if it would be compared with the same now, else what is found; and the overrides that hold for it.
    """
    oldest = days_ago(day, max(OLDEST, config.quality.drift.trailing_days))
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
    agreed = GATES["contract"].outcome(
        passed=not differences,
        severity="error",
        observed=float(len(differences)),
        threshold=0.0,
        message="; ".join(differences) or f"{len(contract.columns)} columns as agreed.",
    )
    profile = read_profile(frozen.storage, frozen.folder)
    columns = contract_columns(config, frozen.storage, frozen.folder)
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
        outcomes=judged_now(outcomes),
        compared_with=tuple(str(days[other]) for other in trailing),
    )


def _features_basis(config: PipelineConfig, good: "list[_GoodDay]", known: int, loads: Loads) -> str:
    """A digest of what decides what is said of a snapshot, beside the snapshot itself."""
    quality = config.quality
    deciding = (config.features.contract, quality.sources, quality.expectations, quality.changes, quality.drift)
    settings = (
        *(one.model_dump_json() for one in deciding),
        str(quality.completeness.allow_empty),
        f"{known < quality.min_days}",
    )
    return basis_of(*settings, loads.basis, *(f"{one.day} {one.digest} {sorted(one.serves)}" for one in good))


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
    oldest, found = days_ago(day, config.quality.drift.trailing_days), list[_GoodDay]()
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
    oldest = days_ago(day, OLDEST)
    return [verdict for _, _, verdict in takewhile(lambda one: one[0] >= oldest, _judged_days(config, storage, day))][::-1]


def _yardstick(config: PipelineConfig, storage: Storage, good: _GoodDay) -> dict[str, Column]:
    """The columns of a good day that others are compared with."""
    try:
        return {name: column for name, column in contract_columns(config, storage, good.folder).items() if name in good.serves}
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


def contract_columns(config: PipelineConfig, storage: Storage, folder: str) -> dict[str, Column]:
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
