"""What Dagster writes in a night into its PostgreSQL: rows and bytes of each table, and how often sensors look in a day.

    python benchmarks/dagster_records.py [--nights 20]

A small pipeline (2,000 rows, eight chunks) is run night after night, each night as the schedule runs it: three assets and their
checks in one run. The first five nights are not counted, as the first ones are not compared with any before. Bytes are those of
tables and indexes together, which PostgreSQL gives out in pages of 8 KiB. Nothing is compared with other systems.
"""

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import psycopg

from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.small import Small, rows, small_model

FIRST = date(2024, 3, 1)
UNCOUNTED = 5
SIZES = """SELECT relname, pg_total_relation_size(oid), (xpath('/row/count/text()',
    query_to_xml('SELECT count(*) FROM ' || quote_ident(relname), false, true, '')))[1]::text::bigint
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=20)
    nights = parser.parse_args().nights
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        small = Small(Path(folder), rows(2_000), small_model())
        where = {"scheme": "postgresql+psycopg2", "hostname": "127.0.0.1", "port": server.port, "username": "postgres"}
        storage = {"postgres": {"postgres_db": {**where, "password": "", "db_name": "postgres"}}}
        location = repository(small)
        with dg.instance_for_test(overrides={"storage": storage}) as instance:
            for night in range(UNCOUNTED + nights):
                if night == UNCOUNTED:
                    before = _sizes(server)
                run(location, instance, (FIRST + timedelta(days=night)).isoformat())
            after = _sizes(server)
    print("| table | rows a night | KiB a night |\n|---|---|---|")
    total_rows = total_bytes = 0.0
    for table, (size, count) in sorted(after.items()):
        grown, more = size - before.get(table, (0, 0))[0], count - before.get(table, (0, 0))[1]
        if more:
            print(f"| {table} | {more / nights:,.1f} | {grown / nights / 1024:,.1f} |")
        total_rows, total_bytes = total_rows + more / nights, total_bytes + grown / nights
    print(f"| in all | {total_rows:,.1f} | {total_bytes / 1024:,.1f} |\n")
    ticks = sum(86_400 // (sensor.minimum_interval_seconds or 30) for sensor in location.sensor_defs)
    print(f"{len(location.sensor_defs)} sensors look {ticks:,} times a day, each time with a row in job_ticks.")


def _sizes(server: PostgresServer) -> dict[str, tuple[int, int]]:
    """Bytes and rows of each table."""
    with psycopg.connect(server.url) as connection:
        return {name: (size, count) for name, size, count in connection.execute(SIZES.encode()).fetchall()}


if __name__ == "__main__":
    main()
