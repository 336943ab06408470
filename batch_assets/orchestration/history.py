"""Dagster's records of old runs are removed, so that its database stops growing.

Dagster keeps the events of every run for ever. Here runs that began long ago go, with their events, evaluations of checks and
logs. The runs that made what is newest of each asset stay, however old they are: the next run is compared with what they knew
(see `remembered`). A day whose run is gone shows as missing in the UI, as its data have been pruned before.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
from sqlalchemy import text

from batch_assets.clock import utc_now
from batch_assets.config import PipelineConfig
from batch_assets.orchestration.runs import belongs_to

_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PAGE = 200
_EVALUATIONS = text("DELETE FROM asset_check_executions WHERE run_id = :run")
"""Dagster itself deletes a run without them, and has no call that would."""


def prune_history(config: PipelineConfig, instance: dg.DagsterInstance, *, dry_run: bool = False) -> int:
    """Remove what Dagster has of a pipeline's old runs; returns how many they are, or would be."""
    newest, events = _newest(config, instance), cast(Any, instance.event_log_storage)
    old = [run_id for run_id in _old(config, instance) if run_id not in newest]
    for run_id in old if not dry_run else ():
        with events.index_connection() as connection:
            connection.execute(_EVALUATIONS, {"run": run_id})
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        events.delete_events(run_id)
        instance.delete_run(run_id)  # last of all records: whoever is interrupted finds it again
        for file in Path(instance.root_directory, "history", "runs").glob(f"{run_id}.db*"):
            file.unlink()  # in SQLite each run has a file, which Dagster leaves behind empty
    if old and not dry_run:
        for asset in _assets(config):
            events.wipe_asset_cached_status(asset)  # it names days of which nothing is left
    return len(old)


def _old(config: PipelineConfig, instance: dg.DagsterInstance) -> Iterator[str]:
    """The pipeline's runs that are over and began before what is kept."""
    days = max(config.retention.history_days, config.retention.keep_days)
    wanted = dg.RunsFilter(statuses=_OVER, created_before=utc_now() - timedelta(days=days))
    cursor = None
    while records := instance.get_run_records(wanted, limit=_PAGE, cursor=cursor, ascending=True):
        yield from (record.dagster_run.run_id for record in records if belongs_to(config, record.dagster_run))
        cursor = records[-1].dagster_run.run_id


def _newest(config: PipelineConfig, instance: dg.DagsterInstance) -> set[str]:
    """The runs that made what is newest of each asset."""
    events = (instance.get_latest_materialization_event(asset) for asset in _assets(config))
    return {event.run_id for event in events if event}


def _assets(config: PipelineConfig) -> list[dg.AssetKey]:
    return [dg.AssetKey([config.name, name]) for name in ("user_features", "predictions", "serving_table")]
