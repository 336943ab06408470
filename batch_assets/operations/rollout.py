"""What an approval causes: which days are scored again, how long that takes and what it costs, and how far scores will move."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError, ConfigError, InUse, NoSuchModel, SnapshotChanged
from batch_assets.features.snapshot import current_log, days_of, snapshot_folder
from batch_assets.logs import LogEntry
from batch_assets.models.approvals import Approval, undone
from batch_assets.models.registry import ModelVersion, Registry, Retirement
from batch_assets.nightly.accepted import TakenBack, accepted_log, accepted_run
from batch_assets.nightly.estimates import LAST_NIGHTS, scoring_minutes
from batch_assets.nightly.freeze import frozen
from batch_assets.nightly.night import Night
from batch_assets.nightly.shift import compared
from batch_assets.nightly.timings import nights_took
from batch_assets.nightly.verdict import read_verdict
from batch_assets.operations.sample import places, score_sample
from batch_assets.quality.model_shift import Shift
from batch_assets.runs.manifest import latest_manifest
from batch_assets.serving.live import current_log as live_log
from batch_assets.serving.live import live_release
from batch_assets.serving.release import release_name, stores_of
from batch_assets.storage import Storage


class Plan(BaseModel):
    """What approving a version will cause in one pipeline. `minutes` and `cost` are None while no run says how fast it is.

    `contract_changes` are what its features mean otherwise than those of the version before; the pipeline's say the same.
    `not_measured` says why there is no `shift`, if that is because the version before or the day cannot be scored any more:
    whoever goes back from a version that is broken must not be stopped by it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str
    days: tuple[str, ...]
    rows: int
    minutes: float | None = None
    cost: float | None = None
    currency: str = ""
    withdraws: tuple[int, ...] = ()
    contract_changes: tuple[str, ...] = ()
    shift: Shift | None = None
    not_measured: str = ""


@dataclass(frozen=True)
class Rollout:
    """What remains to be done for the approval in force: days that are not published under it yet, oldest first."""

    model: ModelVersion
    days: tuple[str, ...]


def last_days(config: PipelineConfig, storage: Storage) -> tuple[str, ...]:
    """The days that an approval scores again, oldest first: the newest whose features are frozen and good, and the live one.

    A day whose features are blocked is no day to roll out to: the one before it is live, and stays so.
    """
    wanted, live = set[str](), live_log(storage, config.name).latest()
    for day in reversed(days_of(storage, config.name)):
        if len(wanted) < config.model.rescore_days and _scorable(config, storage, day):
            wanted.add(day)
    if live and _scorable(config, storage, live.body.partition):
        wanted.add(live.body.partition)
    return tuple(sorted(wanted))


def _scorable(config: PipelineConfig, storage: Storage, day: str) -> bool:
    """Whether a day's features are kept and not blocked."""
    entry = current_log(storage, config.name, day).latest()
    if entry is None:
        return False
    folder = snapshot_folder(config.name, day, entry.body.digest)
    verdict = read_verdict(storage, folder)
    return bool(storage.names(folder)) and (verdict is None or verdict.good)


def outstanding(config: PipelineConfig, storage: Storage, registry: Registry) -> Rollout | None:
    """What the approval in force has not been applied to yet, or None while nothing is approved.

    Its days are those that the approver was told of and those that are the newest now, because a night may begin in between.
    One of them is settled once it is published under this approval or a later one.

    Raises:
        ModelChanged: the approved files were changed.
    """
    latest = registry.approvals(config.model.name, config.model.alias).latest()
    if latest is None:
        return None
    model = registry.resolve(config.model, latest.number)
    withdrawn = model.withdrawn()
    live = live_log(storage, config.name).latest()
    reached = (live.body.partition, live.body.approval) if live and live.body.approval not in withdrawn else ("", 0)

    def settled(day: str) -> bool:
        latest = accepted_log(storage, config.name, day).latest()
        now = latest.body.root if latest else None
        if isinstance(now, TakenBack) and now.by_person and now.approval >= model.approval:
            return True  # a person went back from its release
        accepted = accepted_run(storage, config.name, day, withdrawn)
        if accepted is None or accepted.approval < model.approval or (day, model.approval) > reached:
            return False
        manifest = latest_manifest(storage, accepted.folder)
        return manifest is not None and bool(stores_of(storage, config.name, release_name(manifest)))

    told = expected(latest, config.name)
    announced = {day for day in (told.days if told else ()) if _scorable(config, storage, day)}
    return Rollout(model, tuple(day for day in sorted({*announced, *last_days(config, storage)}) if not settled(day)))


def plan_rollout(config: PipelineConfig, storage: Storage, registry: Registry, version: str) -> Plan:
    """What approving a version will cause in a pipeline, and how far its scores will move: measured on a sample.

    Raises:
        NoSuchModel, ModelChanged: the version is not there, or not what was registered.
        ContractBroken: the version does not take the pipeline's features.
    """
    model = registry.version(config.model.name, version)
    config.features.contract.require_same(model.card.contract, f"{model.name} {version}")
    config.answers.require(model.card.head, f"{model.name} {version}")
    approvals = registry.approvals(config.model.name, config.model.alias)
    days = last_days(config, storage)
    rows = [_rows(config, storage, day) for day in days]
    before = approvals.latest()
    shift, changes, not_measured = None, list[str](), ""
    if before is not None:
        try:
            changes = registry.card(config.model.name, before.version).contract.changes(model.card.contract)
            if days and not changes:
                replaced = registry.version(config.model.name, before.version)
                shift = measure_shift(config, storage, days[-1], replaced, model)
        except BatchAssetsError as error:
            not_measured = str(error)
            if days and not isinstance(error, SnapshotChanged):
                night = Night.open(config, storage, days[-1], model)
                score_sample(night, places(night))  # what is wrong with the new version refuses it
    found = scoring_minutes(nights_took(storage, config.name, LAST_NIGHTS), rows, config.scoring.chunk_rows)
    takes = found.value if found else None
    price = config.engine.price
    return Plan(
        pipeline=config.name,
        days=days,
        rows=sum(rows),
        minutes=round(takes, 3) if takes is not None else None,
        cost=round(takes * price.per_minute, 4) if takes is not None and price else None,
        currency=price.currency if price else "",
        withdraws=tuple(undone(approvals.history(), version)),
        contract_changes=tuple(changes),
        shift=shift,
        not_measured=not_measured,
    )


def _rows(config: PipelineConfig, storage: Storage, day: str) -> int:
    """The rows of a day; of a snapshot that is damaged nobody knows, and its run will say so."""
    try:
        return frozen(config, storage, day).snapshot.rows
    except SnapshotChanged:
        return 0


def require_fit(configs: Iterable[PipelineConfig], registry: Registry) -> None:
    """Compare each pipeline's contract with the card of its approved version, where there is one: what start-up looks at.

    Raises:
        ContractBroken: one of them was trained on other features; names every change.
    """
    for config in configs:
        latest = registry.approvals(config.model.name, config.model.alias).latest()
        if latest is not None:
            card = registry.card(config.model.name, latest.version)
            config.features.contract.require_same(card.contract, f"{config.model.name} {latest.version}")
            config.answers.require(card.head, f"{config.model.name} {latest.version}")


def measure_shift(config: PipelineConfig, storage: Storage, day: str, old: ModelVersion, new: ModelVersion) -> Shift | None:
    """Score a random sample of a day's snapshot with two versions, here and now; None if the day has no rows to score."""
    nights = [Night.open(config, storage, day, model) for model in (old, new)]
    drawn = places(nights[0])
    before, after = (score_sample(night, drawn).scores for night in nights)
    found = compared(before, after, day, old.version)
    return found.shift if found else None


def approve(
    configs: list[PipelineConfig],
    storage: Storage,
    registry: Registry,
    name: str,
    alias: str,
    version: str,
    *,
    why: str,
    by: str,
) -> tuple[Approval, list[Plan]]:
    """Approve a version; what it is expected to cause in each pipeline that uses the alias is recorded with it.

    Raises:
        LostRace: another approval was given since this one was decided; names it.
        ConfigError: the alias is kept in MLflow.
        BatchAssetsError: the version cannot score what a pipeline has; it is not approved then.
    """
    for config in configs:
        if config.model.mlflow:
            raise ConfigError(
                f"The alias {alias} of {name} is kept in MLflow at {config.model.mlflow.tracking_uri}: move it there, and "
                f"{config.name} follows."
            )
    latest = registry.approvals(name, alias).latest()
    plans = [plan_rollout(config, storage, registry, version) for config in configs]
    recorded = {"pipelines": [plan.model_dump(mode="json") for plan in plans]}
    seen = latest.number if latest else 0
    return registry.approve(name, alias, version, why=why, by=by, after=seen, plan=recorded), plans


def expected(approval: Approval, pipeline: str) -> Plan | None:
    """What an approval was expected to cause in a pipeline, as its audit trail says, or None if it says nothing."""
    plans = (approval.plan or {}).get("pipelines", [])
    return next((Plan.model_validate(plan) for plan in plans if plan["pipeline"] == pipeline), None)


def retire(
    pipelines: Iterable[str],
    storage: Storage,
    registry: Registry,
    name: str,
    version: str,
    *,
    why: str,
    by: str,
    delete: bool = False,
) -> LogEntry[Retirement]:
    """Retire a version, and delete its program if that is asked for.

    Raises:
        InUse: an alias names it, or a live release of one of the pipelines was scored by it.
    """
    if version not in registry.versions(name):
        raise NoSuchModel(f"{name} {version} is not registered; there is {', '.join(registry.versions(name)) or 'none yet'}.")
    for pipeline in pipelines:
        release = live_release(storage, pipeline)
        if release is not None and (release.model.name, release.model.version) == (name, version):
            raise InUse(f"{name} {version} is in use: the live release {release.name} of {pipeline} was scored by it.")
    return registry.retire(name, version, why=why, by=by, delete=delete)
