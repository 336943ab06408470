"""Nights whose days also go into tables of somebody else's: what is accepted is there, what was taken back is not."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import NoPrediction, NotPublishable, TableError
from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.tables import lagging_tables, owed_days
from batch_assets.operations.purge import purge
from batch_assets.operations.releases import go_back, publish_day
from batch_assets.runs.manifest import latest_manifest
from batch_assets.serving.reader import Reader
from batch_assets.tables.delta_table import DeltaTable
from batch_assets.tables.table import Day, Rows
from batch_assets_tests.nights import SETTINGS, pruned
from batch_assets_tests.operations.forgetting import forgets, secret
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.serving.test_every_store import best_items, binary, every_class, key_of_two, value
from batch_assets_tests.small import DAY, Small, rows, small_model

__all__ = ["secret"]

Make = Callable[..., Small]
DAYS = ("2024-03-10", "2024-03-11", "2024-03-12")


def delta(tmp_path: Path, **said: Any) -> dict[str, Any]:
    return {"kind": "delta", "path": str(tmp_path / "lake"), **said}


def seen(small: Small) -> pl.DataFrame:
    """What whoever reads the lake sees."""
    table = small.config.tables[0]
    assert isinstance(table, DeltaTable)
    return pl.read_delta(table.path)


def days(small: Small) -> dict[str, int]:
    """How many rows each day has there."""
    return {str(day): count for day, count in sorted(seen(small)["partition"].value_counts().iter_rows())}


def predicted(small: Small, day: str = DAY) -> pl.DataFrame:
    """What the predictions files of a day say."""
    manifest = latest_manifest(small.storage, small.opened(day).folder)
    assert manifest is not None
    files = [small.storage.local_path(f"{manifest.folder}/{one.name}") for one in manifest.files]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    plain = [
        one.cast(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in table.drop_columns("partition")
    ]
    return pl.DataFrame(pa.table(plain, names=[name for name in table.column_names if name != "partition"]))


@pytest.fixture
def small(make_small: Make, tmp_path: Path) -> Small:
    return make_small(rows(300), tables=[delta(tmp_path)])


@pytest.mark.night
class TestNights:
    @pytest.mark.parametrize("make", [binary, every_class, value, key_of_two, best_items])
    def test_whatever_is_answered_and_whatever_a_key_is(
        self, make_small: Make, make: Callable[..., Small], tmp_path: Path, postgres_server: PostgresServer
    ) -> None:
        name = f"t{abs(hash(str(tmp_path)))}"
        warehouse = {"kind": "warehouse", "driver": "postgresql", "uri": postgres_server.url, "table": name}

        def with_tables(*arguments: Any, **settings: Any) -> Small:
            return make_small(*arguments, **settings, tables=[delta(tmp_path), warehouse])

        small = make(with_tables, [{"kind": "arrow"}])
        published = small.night()
        assert dict(published.lagging_tables) == {}
        assert published_matches(small.opened(DAY)).passed
        expected = predicted(small)
        keys = [one.name for one in small.config.features.contract.key]
        keys += [small.config.features.contract.item.name] if small.config.features.contract.item else []
        found = seen(small)
        assert set(found["partition"]) == {date.fromisoformat(DAY)}
        assert set(found["release"]) == {published.release.name}
        assert found.select(expected.columns).sort(keys).equals(expected.with_columns(*_lists(expected)).sort(keys))
        with psycopg.connect(postgres_server.url) as connection:
            count = connection.execute(f'SELECT count(*), count(DISTINCT "release") FROM "{name}"').fetchone()
        assert count == (len(expected), 1)

    def test_the_next_day_comes_beside_it_and_a_repeated_one_changes_nothing(self, small: Small) -> None:
        for day in (DAYS[0], DAYS[1], DAYS[0]):
            small.night(day)
        assert days(small) == {DAYS[0]: 300, DAYS[1]: 300}
        assert len(pl.read_delta(small.config.tables[0].path)) == 600  # type: ignore[attr-defined]

    def test_another_version_takes_the_place_of_the_day(self, small: Small) -> None:
        small.night()
        small.register("v2", small_model((1.0, -0.5, 0.3)))
        published = small.night()
        assert set(seen(small)["release"]) == {published.release.name}
        assert set(seen(small)["model_version"]) == {"v2"}

    def test_a_day_without_rows_is_not_there_and_does_not_lag(self, make_small: Make, tmp_path: Path) -> None:
        small = make_small(rows(0), tables=[delta(tmp_path)], quality={"completeness": {"allow_empty": True}})
        assert dict(small.night().lagging_tables) == {}
        assert small.config.tables[0].release(Day("small", date.fromisoformat(DAY))) is None
        assert published_matches(small.opened(DAY)).passed

    def test_a_night_that_is_done_already_writes_nothing(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        small.night()
        monkeypatch.setattr(DeltaTable, "replace", _fails)
        assert dict(small.night().lagging_tables) == {}


@pytest.mark.night
class TestOneThatLags:
    def test_what_is_required_comes_before_anybody_sees_the_day(
        self, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = make_small(rows(300), tables=[delta(tmp_path, required=True)])
        with monkeypatch.context() as broken:
            broken.setattr(DeltaTable, "replace", _fails)
            with pytest.raises(TableError, match="is not published, delta must have it first: the lake is away"):
                small.night()
        with pytest.raises(NoPrediction):
            Reader.open("small", small.storage)
        assert small.night().is_live
        assert days(small) == {DAY: 300}

    def test_what_is_not_required_follows_and_warns_until_then(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(DeltaTable, "replace", _fails)
            published = small.night()
            assert published.is_live
            assert dict(published.lagging_tables) == {"delta": "the lake is away."}
            outcome = published_matches(small.opened(DAY))
            assert (outcome.passed, outcome.blocks) == (False, False)
            assert f"delta lags (It has nothing of {DAY}" in outcome.message
            assert f"`batch-assets releases publish small {DAY}`" in outcome.message
        publish_day(small.config, small.storage, small.registry, DAY, small.progress)
        assert days(small) == {DAY: 300}
        assert published_matches(small.opened(DAY)).passed

    def test_days_for_which_it_was_away_come_with_the_next_night(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(DeltaTable, "replace", _fails)
            for day in DAYS[:2]:
                small.night(day)
        assert dict(small.night(DAYS[2]).lagging_tables) == {}
        assert days(small) == dict.fromkeys(DAYS, 300)
        assert owed_days(small.config, small.storage) == []

    @pytest.mark.parametrize("after", [False, True])
    def test_whoever_dies_in_the_middle_is_followed_by_who_asks_again(
        self, small: Small, monkeypatch: pytest.MonkeyPatch, *, after: bool
    ) -> None:
        replace = DeltaTable.replace

        def dies(table: DeltaTable, day: Rows) -> None:
            if after:
                replace(table, day)
            raise KeyboardInterrupt

        with monkeypatch.context() as dying:
            dying.setattr(DeltaTable, "replace", dies)
            with pytest.raises(KeyboardInterrupt):
                small.night()
        small.night()
        assert days(small) == {DAY: 300}

    def test_rows_of_somebody_else_are_not_taken_for_the_days(self, small: Small) -> None:
        small.night()
        table = small.config.tables[0]
        assert isinstance(table, DeltaTable)
        foreign = seen(small).head(3).with_columns(release=pl.lit("mine"))
        foreign.write_delta(table.path, mode="append")
        lagging = lagging_tables(small.config, small.storage, DAY, ())
        assert "somebody else writes into it; delete the day there" in lagging["delta"]


@pytest.mark.night
class TestTakenBack:
    def test_a_day_that_a_person_went_back_from_is_withdrawn(self, small: Small) -> None:
        for day in DAYS[:2]:
            small.night(day)
        went = go_back(small.config, small.storage, small.registry, "prices were wrong")
        assert (went.live.body.partition, dict(went.lagging_tables)) == (DAYS[0], {})
        assert days(small) == {DAYS[0]: 300}
        with pytest.raises(NotPublishable):
            small.night(DAYS[1])
        assert days(small) == {DAYS[0]: 300}
        publish_day(small.config, small.storage, small.registry, DAYS[1], small.progress, "they were right")
        assert days(small) == {DAYS[0]: 300, DAYS[1]: 300}

    def test_one_that_was_away_then_loses_the_day_with_the_next_night(
        self, small: Small, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for day in DAYS[:2]:
            small.night(day)
        with monkeypatch.context() as broken:
            broken.setattr(DeltaTable, "withdraw", _fails)
            went = go_back(small.config, small.storage, small.registry, "prices were wrong")
        assert dict(went.lagging_tables) == {"delta": "the lake is away."}
        small.night(DAYS[2])
        assert days(small) == {DAYS[0]: 300, DAYS[2]: 300}

    @pytest.mark.usefixtures("secret")
    def test_somebody_who_is_forgotten_is_in_no_day_that_is_there(self, small: Small) -> None:
        for day in DAYS[:2]:
            small.night(day)
        done = forgets(small, 7)
        assert dict(done.lagging) == {}
        assert days(small) == {DAYS[0]: 299, DAYS[1]: 299}
        assert 7 not in set(seen(small)["user"])
        before = seen(small).sort("partition", "user")
        report = purge(small.config, small.storage, small.registry, small.progress, dry_run=False)
        assert any("earlier versions of all days there" in one for one in report.out_of_reach)
        now = seen(small).sort("partition", "user")
        assert now.drop("release").equals(before.drop("release"))
        assert [lagging_tables(small.config, small.storage, day, ()) for day in DAYS[:2]] == [{}, {}]
        small.night(DAYS[2])
        assert days(small) == dict.fromkeys(DAYS, 299)

    @pytest.mark.usefixtures("secret")
    def test_a_day_whose_run_was_pruned_stays_there(self, make_small: Make, tmp_path: Path) -> None:
        small = make_small(rows(300), tables=[delta(tmp_path)], **SETTINGS)
        for day in (*DAYS, "2024-03-13"):
            small.night(day)
        pruned(small)
        assert kept_runs(small, DAYS[0]) == []
        forgets(small, 7)
        small.night("2024-03-14")
        found = days(small)
        assert found[DAYS[0]] == 300, "nobody can write it anew, and nobody went back from it"
        assert found["2024-03-13"] == 299


def test_a_key_cannot_be_called_as_what_says_whose_a_row_is(small: Small) -> None:
    said = small.config.model_dump(mode="json")
    said["features"]["contract"]["key"] = {"name": "release", "dtype": "int64"}
    with pytest.raises(ValueError, match="the key cannot be called release"):
        type(small.config).model_validate(said)


def kept_runs(small: Small, day: str) -> list[str]:
    """The runs of a day that are kept."""
    return [name for name in small.storage.names(f"small/predictions/date={day}") if name.startswith("run=")]


def _fails(table: DeltaTable, day: Rows | Day) -> None:
    raise TableError("the lake is away.")


def _lists(frame: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(name).arr.to_list() for name, kind in frame.schema.items() if isinstance(kind, pl.Array)]
