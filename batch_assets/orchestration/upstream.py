"""The assets of other teams that a pipeline's source reads: a night begins when they have its day, and columns lead to them."""

from datetime import date, datetime

import dagster as dg
from pydantic import BaseModel

from batch_assets.clock import Clock, end_of, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import SourceError
from batch_assets.orchestration.schedules import MOST_NIGHTS, nights_due

WITHOUT = "batch_assets/without"
"""The tag of a run that did not wait any longer: the assets that had not its day."""


class Waiting(BaseModel):
    """What the sensor remembers: the newest day that was due, and the days that wait for an asset."""

    newest: date | None = None
    days: tuple[str, ...] = ()


def deps_of(config: PipelineConfig) -> list[dg.AssetKey]:
    """The keys of the assets that the source reads."""
    return [_key(one.asset) for one in config.features.deps]


def build_upstream_sensor(config: PipelineConfig, clock: Clock = utc_now) -> list[dg.SensorDefinition]:
    """`<pipeline>_upstream`: starts a night when every asset that its source reads has its day; none without such assets.

    It takes the place of the nightly schedule. A day is asked for once, and not before `nightly.at`; at `nightly.wait_until` it
    is asked for whatever is there, and its run says which assets had not the day.
    """
    if not config.features.deps or config.partitions.end:
        return []

    @dg.sensor(
        name=f"{config.name}_upstream",
        job_name=config.name,
        description=f"Yesterday, as soon as {' and '.join(one.asset for one in config.features.deps)} have it.",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def upstream(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = Waiting.model_validate_json(context.cursor) if context.cursor else Waiting()
        now = clock()
        waiting = _with_due(config, before, now)
        missing = {day: _missing(config, context.instance, day) for day in waiting.days}
        begun = [day for day, assets in missing.items() if not assets or _waited_enough(config, day, now)]
        left = tuple(day for day in waiting.days if day not in begun)
        said = "; ".join(f"{day} waits for {' and '.join(missing[day])}{_how_long(config)}" for day in left)
        return dg.SensorResult(
            run_requests=[_request(day, missing[day]) for day in begun],
            skip_reason=None if begun else said or "Every day that is over was asked for.",
            cursor=waiting.model_copy(update={"days": left}).model_dump_json(),
        )

    return [upstream]


def column_lineage(config: PipelineConfig) -> dg.TableColumnLineage | None:
    """From which columns of which assets the columns of user_features are computed; None if that is known of none."""
    assets = {one.named: _key(one.asset) for one in config.features.deps}
    contract = config.features.contract
    columns = [*contract.identity, *(one.name for one in contract.columns), *(one.name for one in contract.carry)]
    try:
        known = config.features.source.lineage(columns, list(assets)) if assets else {}
    except SourceError:  # the query is gone since the day was frozen: freezing says so
        known = {}
    deps = {
        column: [dg.TableColumnDep(asset_key=assets[table], column_name=name) for table, name in read]
        for column, read in known.items()
    }
    return dg.TableColumnLineage(deps) if deps else None


def _with_due(config: PipelineConfig, before: Waiting, now: datetime) -> Waiting:
    """The days that wait and those that are due since: over, and past the hour at which nights begin."""
    days = nights_due(config.partitions, now, before.newest)
    due = [day for day in days if now >= config.partitions.morning_after(day, config.nightly.at)]
    if before.newest is not None:
        due = [day for day in due if date.fromisoformat(day) > before.newest]
    newest = date.fromisoformat(due[-1]) if due else before.newest
    return Waiting(newest=newest, days=(*before.days, *due)[-MOST_NIGHTS:])


def _missing(config: PipelineConfig, instance: dg.DagsterInstance, day: str) -> list[str]:
    """The assets that have not a day."""
    over = end_of(date.fromisoformat(day), config.partitions.timezone)
    return [one.asset for one in config.features.deps if not _has(instance, _key(one.asset), day, over)]


def _has(instance: dg.DagsterInstance, key: dg.AssetKey, day: str, over: datetime) -> bool:
    """Whether an asset was materialized for a day or, without partitions, since it was over."""
    of_day = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
    if instance.fetch_materializations(of_day, limit=1).records:
        return True
    latest = instance.get_latest_materialization_event(key)
    whole = latest is not None and latest.dagster_event is not None and latest.dagster_event.partition is None
    return latest is not None and whole and latest.timestamp >= over.timestamp()


def _waited_enough(config: PipelineConfig, day: str, now: datetime) -> bool:
    until = config.nightly.wait_until
    return until is not None and now >= config.partitions.morning_after(day, until)


def _request(day: str, missing: list[str]) -> dg.RunRequest:
    return dg.RunRequest(run_key=day, partition_key=day, tags={WITHOUT: ", ".join(missing)} if missing else {})


def _how_long(config: PipelineConfig) -> str:
    return f" (until {config.nightly.wait_until})" if config.nightly.wait_until else ""


def _key(asset: str) -> dg.AssetKey:
    return dg.AssetKey(asset.split("/"))
