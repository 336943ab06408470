"""A published day as Parquet by shard: each row once, where its key's hash says, and read by those who know nothing of us."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from batch_assets.config import PipelineConfig
from batch_assets.errors import StorageFull
from batch_assets.features.keys import identity_of
from batch_assets.nightly import build as building
from batch_assets.nightly.publish import Published, published_matches
from batch_assets.operations.releases import publish_day
from batch_assets.serving import buckets, export
from batch_assets.serving.buckets import bucket_of
from batch_assets_tests.nightly.test_rows_about import TWO, by_country, pipeline
from batch_assets_tests.nights import DAYS, SETTINGS, pruned
from batch_assets_tests.small import DAY, Small, rows

Make = Callable[..., Small]

EXPORT = {"export": {"by": "user_shard", "shards": 8}}


def exported(small: Small, published: Published) -> Path:
    return small.storage.local_path(f"small/exports/{published.release.name}")


def predictions(small: Small, day: str = DAY) -> pa.Table:
    """What the night has in its own files, in order of the keys."""
    manifest = small.opened(day).manifest()
    names = [f"{manifest.folder}/{file.name}" for file in manifest.files]
    return pa.concat_tables([pq.read_table(small.storage.local_path(name), partitioning=None) for name in names])


def plain(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: str(row["user"]))


@pytest.mark.parametrize("key_type", [pa.int64(), pa.string()], ids=str)
@pytest.mark.parametrize("at_once", [1 << 22, 300], ids=["in memory", "spilled"])
def test_each_row_is_in_the_shard_of_its_key(
    make_small: Make, monkeypatch: pytest.MonkeyPatch, key_type: pa.DataType, at_once: int
) -> None:
    monkeypatch.setattr(buckets, "ROWS_AT_ONCE", at_once)
    small = make_small(rows(1_000, key_type=key_type), **EXPORT)
    folder = exported(small, small.night())
    assert {path.name for path in folder.iterdir()} == {f"user_shard={shard:05d}" for shard in range(8)}
    shards = {shard: pq.ParquetFile(folder / f"user_shard={shard:05d}/predictions.parquet").read() for shard in range(8)}
    for shard, table in shards.items():
        keys = table["user"].to_pylist()
        assert {bucket_of(key, 8) for key in keys} == {shard}
        assert keys == sorted(keys)
    together = pa.concat_tables(shards.values())
    assert plain(together.drop_columns(["event_timestamp"])) == plain(predictions(small))


def test_others_read_it(make_small: Make) -> None:
    small = make_small(rows(1_000), partitions={"start": "2024-01-01", "timezone": "Europe/Berlin"}, **EXPORT)
    folder = exported(small, small.night())
    files = f"read_parquet('{folder}/*/*.parquet')"
    of_one = duckdb.sql(f"SELECT user FROM {files} WHERE user_shard = 3").fetchall()
    assert {bucket_of(user, 8) for (user,) in of_one} == {3}
    table = ds.dataset(folder, partitioning="hive").to_table(filter=ds.field("user_shard") == 3)
    assert [(user,) for user in table["user"].to_pylist()] == of_one
    assert duckdb.sql(f"SELECT count(*), count(DISTINCT user_shard) FROM {files}").fetchall() == [(1_000, 8)]
    frame = pd.read_parquet(folder)
    assert len(frame) == 1_000
    assert frame["event_timestamp"].unique().tolist() == [pd.Timestamp("2024-03-10T23:00:00Z")], (
        "when the day was over in Berlin"
    )


def test_a_shard_without_rows_is_there(make_small: Make) -> None:
    small = make_small(rows(3), export={"shards": 40})
    folder = exported(small, small.night())
    assert len(list(folder.glob("*/predictions.parquet"))) == 40
    assert len(pd.read_parquet(folder)) == 3


def test_a_key_of_two_columns_and_what_is_carried(make_small: Make) -> None:
    table = by_country().append_column("segment", pa.array([f"segment {n % 7}" for n in range(1_200)]))
    contract = {"key": TWO, "carry": [{"name": "segment", "dtype": "string"}]}
    small = pipeline(make_small, table, contract, **EXPORT)
    frame = pd.read_parquet(exported(small, small.night()))
    assert {"user", "country", "segment", "probability"} <= set(frame.columns)
    keys = [(row["user"], row["country"]) for row in table.to_pylist()]
    segments = dict(zip(keys, table["segment"].to_pylist(), strict=True))
    found = dict(zip(zip(frame["user"], frame["country"], strict=True), frame["segment"], strict=True))
    assert found == segments
    shards = {key: bucket_of(identity_of(key, [pa.int64(), pa.string()])[0].as_py(), 8) for key in segments}
    assert dict(zip(zip(frame["user"], frame["country"], strict=True), frame["user_shard"], strict=True)) == shards


class TestItFails:
    def test_the_night_is_published_and_says_so(self, make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> str:
            raise StorageFull("The disk is full: free some space.")

        small = make_small(rows(300), **EXPORT)
        with monkeypatch.context() as patched:
            patched.setattr(building, "export", full)
            published = small.night()
        assert published.is_live
        assert published.not_exported == "The disk is full: free some space."
        assert any("published and not exported" in said for said in small.progress.said)
        outcome = published_matches(small.opened())
        assert (outcome.passed, outcome.severity, outcome.blocks) == (False, "warn", False)
        assert f"`batch-assets releases publish small {DAY}` writes what is missing" in outcome.message
        again = publish_day(small.config, small.storage, small.registry, DAY, small.progress)
        assert (again.release.name, again.not_exported) == (published.release.name, "")
        assert published_matches(small.opened()).passed

    def test_what_is_read_back_is_not_the_run(self, make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        small = make_small(rows(300), **EXPORT)

        def fewer(*arguments: Any) -> Any:
            return (table.slice(1) for table in tables(*arguments))

        tables = export._tables
        monkeypatch.setattr(export, "_tables", fewer)
        published = small.night()
        assert "298 records" in published.not_exported
        assert "its manifest says 300" in published.not_exported
        assert not exported(small, published).exists()


def test_what_is_there_is_left_and_other_shards_replace_it(make_small: Make) -> None:
    small = make_small(rows(300), **EXPORT)
    folder = exported(small, small.night())
    (folder / "_SUCCESS").touch()  # somebody's own mark
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    publish_day(small.config, small.storage, small.registry, DAY, small.progress)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before
    small.config = small.config.model_copy(update={"export": export.ExportSettings(shards=4)})
    assert published_matches(small.opened()).severity == "warn"
    publish_day(small.config, small.storage, small.registry, DAY, small.progress)
    assert len(list(folder.rglob("*.parquet"))) == 4
    assert len(pd.read_parquet(folder)) == 300


def test_it_is_pruned_with_its_day(make_small: Make) -> None:
    small = make_small(rows(300), **EXPORT, **SETTINGS)
    for day in DAYS:
        small.night(day)
    assert pruned(small).counts["exports"] == 2
    assert {path.name[:10] for path in Path(small.storage.root, "small/exports").iterdir()} == set(DAYS[2:])


def test_a_column_cannot_be_called_as_a_shard_is(small: Small) -> None:
    with pytest.raises(ValidationError, match="the key cannot be called user"):
        PipelineConfig.model_validate({**small.config.model_dump(), "export": {"by": "user", "shards": 2}})
