"""What Dagster keeps of old runs, in both of its storages."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.history import prune_history
from batch_assets_tests.conftest import Command
from batch_assets_tests.orchestration.location import changed, repository, run
from batch_assets_tests.small import Small

pytestmark = pytest.mark.night

FIRST = date(2024, 3, 1)
KEPT = 3


class Records:
    """A Dagster instance, and what lies in its tables."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def rows(self) -> dict[str, int]:
        """How many there are in each table that has any."""
        raise NotImplementedError

    def a_day_later(self) -> None:
        """Every run began a day earlier."""
        raise NotImplementedError


class InFiles(Records):
    def rows(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for file in Path(self.instance.root_directory).rglob("*.db"):
            with closing(sqlite3.connect(file)) as connection:
                for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    ((count,),) = connection.execute(f"SELECT count(*) FROM {table}")
                    found[table] = found.get(table, 0) + count
        return _growing(found)

    def a_day_later(self) -> None:
        with closing(sqlite3.connect(Path(self.instance.root_directory) / "history" / "runs.db")) as connection:
            connection.execute("UPDATE runs SET create_timestamp = datetime(create_timestamp, '-1 day')")
            connection.commit()


class InPostgres(Records):
    def __init__(self, instance: dg.DagsterInstance, database: dict[str, str]) -> None:
        super().__init__(instance)
        port, name = database["DAGSTER_PG_PORT"], database["DAGSTER_PG_DB"]
        self.url = f"postgresql://postgres@127.0.0.1:{port}/{name}"

    def rows(self) -> dict[str, int]:
        with psycopg.connect(self.url) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            counted = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone() for (name,) in tables}
        return _growing({name: count[0] for name, count in counted.items() if count})

    def a_day_later(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute("UPDATE runs SET create_timestamp = create_timestamp - interval '1 day'")


def _growing(rows: dict[str, int]) -> dict[str, int]:
    """Without the snapshots of jobs, of which there is one for each state of the code."""
    return {name: count for name, count in sorted(rows.items()) if count and name != "snapshots"}


@pytest.fixture
def in_files() -> Iterator[Records]:
    with dg.instance_for_test() as instance:
        yield InFiles(instance)


@pytest.fixture
def in_postgres(database: dict[str, str]) -> Iterator[Records]:
    where = {"scheme": "postgresql+psycopg2", "hostname": "127.0.0.1", "port": int(database["DAGSTER_PG_PORT"])}
    where |= {"username": "postgres", "password": "", "db_name": database["DAGSTER_PG_DB"]}
    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_db": where}}}) as instance:
        yield InPostgres(instance, database)


@pytest.fixture(params=["in_files", pytest.param("in_postgres", marks=pytest.mark.long)])
def records(request: pytest.FixtureRequest) -> Records:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Records)
    return found


def days(count: int) -> list[str]:
    return [(FIRST + timedelta(days=n)).isoformat() for n in range(count)]


def keeping(config: PipelineConfig, count: int) -> PipelineConfig:
    """A pipeline with fewer days than one could ask for."""
    retention = config.retention.model_copy(update={"keep_days": 1, "history_days": count})
    return config.model_copy(update={"retention": retention})


def test_nights_without_end_keep_a_bounded_number_of_rows(small: Small, records: Records) -> None:
    location, config = repository(small), keeping(changed(small), KEPT)
    counted = []
    for day in days(KEPT + 4):
        records.a_day_later()
        run(location, records.instance, day)
        prune_history(config, records.instance)
        counted.append(records.rows())
    assert counted[0] != counted[1], "a night writes rows"
    assert counted[KEPT] == counted[KEPT + 1] == counted[KEPT + 2] == counted[KEPT + 3]
    key = dg.AssetKey(["small", "predictions"])
    assert records.instance.get_materialized_partitions(key) == set(days(KEPT + 4)[-KEPT:])


@pytest.mark.long
def test_what_is_newest_of_each_asset_stays_however_old(small: Small, records: Records) -> None:
    location, config = repository(small), keeping(changed(small), 1)
    first, second = days(2)
    run(location, records.instance, first)
    whole = run(location, records.instance, second)
    frozen = run(location, records.instance, second, "user_features")
    for _ in range(5):
        records.a_day_later()
    before = records.rows()
    assert prune_history(config, records.instance, dry_run=True) == 1
    assert records.rows() == before
    assert prune_history(config, records.instance) == 1
    assert {one.run_id for one in records.instance.get_runs()} == {whole, frozen}
    assert prune_history(config, records.instance) == 0
    run(location, records.instance, first)
    assert len(records.instance.get_runs()) == 3, "the next night is begun as ever"


def test_somebody_elses_runs_are_none_of_a_pipelines_business(small: Small, records: Records) -> None:
    @dg.asset
    def theirs() -> None: ...

    dg.materialize([theirs], instance=records.instance)
    for _ in range(5):
        records.a_day_later()
    assert prune_history(keeping(changed(small), 1), records.instance) == 0
    assert len(records.instance.get_runs()) == 1


def test_the_command_says_how_many(command: Command) -> None:
    home = command.run("prune", "--dry-run")
    assert home.returncode == 0, home.stderr
    assert "dagster runs" not in home.stdout, "none is old"
