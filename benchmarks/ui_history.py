"""Years of nights in Dagster's PostgreSQL, of one real night of each pipeline: what `ui_pages.py` opens pages on.

Each pipeline is run once, as the schedule would run it. Then its rows in Dagster's tables are copied by SQL for every other
day, with the day, the id of the run and the times put in the place of those of the real night: the rows are the same as the
API writes, in the same order, in a hundredth of the time.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.component import definitions

_NIGHT = "WITH day(day, run, at) AS (SELECT day, md5(%(name)s || day)::uuid::text, at FROM benchmark_days)"
_SAID = """regexp_replace(replace(replace({column}, %(run)s, day.run), %(day)s, day.day), '"timestamp": [0-9.]+',
    '"timestamp": ' || extract(epoch FROM day.at), 'g')"""

_COPIES = (
    """INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition, partition_set, create_timestamp,
        update_timestamp, start_time, end_time)
      SELECT day.run, snapshot_id, pipeline_name, mode, status, {run_body}, day.day, partition_set, day.at, day.at,
        extract(epoch FROM day.at), extract(epoch FROM day.at) + end_time - start_time
      FROM runs CROSS JOIN day WHERE run_id = %(run)s ORDER BY day.day""",
    """INSERT INTO run_tags (run_id, key, value)
      SELECT day.run, key, replace(replace(value, %(run)s, day.run), %(day)s, day.day)
      FROM run_tags CROSS JOIN day WHERE run_id = %(run)s ORDER BY day.day, id""",
    """INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
      SELECT day.run, {event}, dagster_event_type, day.at, step_key, asset_key,
        CASE WHEN partition IS NULL THEN NULL ELSE day.day END
      FROM event_logs CROSS JOIN day WHERE run_id = %(run)s ORDER BY day.day, id""",
    """INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status, evaluation_event,
        evaluation_event_timestamp, create_timestamp)
      SELECT asset_key, check_name, day.day, day.run, execution_status, {evaluation_event}, day.at, day.at
      FROM asset_check_executions CROSS JOIN day WHERE run_id = %(run)s ORDER BY day.day, id""",
    """INSERT INTO asset_event_tags (asset_key, event_id, key, value, event_timestamp)
      SELECT tags.asset_key, new.id, tags.key, replace(tags.value, %(day)s, day.day), day.at
      FROM asset_event_tags tags JOIN event_logs old ON old.id = tags.event_id AND old.run_id = %(run)s CROSS JOIN day
      JOIN event_logs new ON new.run_id = day.run AND new.asset_key = old.asset_key
        AND new.dagster_event_type = old.dagster_event_type""",
)
_NEWEST = """UPDATE asset_keys SET last_run_id = new.run_id, last_materialization = new.event,
    last_materialization_timestamp = new.timestamp, cached_status_data = NULL
  FROM (SELECT DISTINCT ON (asset_key) asset_key, run_id, event, timestamp FROM event_logs
    WHERE dagster_event_type = 'ASSET_MATERIALIZATION' ORDER BY asset_key, id DESC) new
  WHERE asset_keys.asset_key = new.asset_key"""


def fill(url: str, instance: dg.DagsterInstance, configs: Sequence[PipelineConfig], days: Sequence[str], location: str) -> None:
    """Run the first day of each pipeline, and write the others as copies of it, each night at three in the morning after it."""
    first, *others = days
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE benchmark_days (day text, at timestamp)")
        with connection.cursor().copy("COPY benchmark_days FROM STDIN") as copy:
            for day in others:
                copy.write_row((day, datetime.combine(date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), UTC)))
        for config in configs:
            job = definitions(config).resolve_job_def(config.name)
            tags = {".dagster/repository": f"__repository__@{location}"}
            done = job.execute_in_process(instance=instance, partition_key=first, tags=tags)
            _copy(connection, {"name": config.name, "run": done.run_id, "day": first})
        connection.execute(_NEWEST)
        connection.execute("DROP TABLE benchmark_days")
        connection.execute("VACUUM ANALYZE")


def sizes(url: str) -> dict[str, Any]:
    """How many rows the largest tables have, and the bytes of the database."""
    tables = ("runs", "event_logs", "asset_check_executions")
    with psycopg.connect(url) as connection:
        counts: dict[str, Any] = {}
        for table in tables:
            ((counts[table],),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        ((counts["bytes"],),) = connection.execute("SELECT pg_database_size(current_database())").fetchall()
        ((counts["checks"],),) = connection.execute(
            "SELECT count(DISTINCT (asset_key, check_name)) FROM asset_check_executions"
        ).fetchall()
    return counts


def _copy(connection: "psycopg.Connection[Any]", night: dict[str, str]) -> None:
    said = {column: _SAID.format(column=column) for column in ("run_body", "event", "evaluation_event")}
    for statement in _COPIES:
        connection.execute(f"{_NIGHT} {statement.format(**said)}".encode(), night)
