"""A snapshot of an Iceberg table is a source: exact rows, no deleted ones, and nothing that was written after it was chosen."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.types import DateType
from typing_extensions import override

from batch_assets.errors import ConfigError, SourceError
from batch_assets.sources.iceberg_source import IcebergSource
from batch_assets.sources.source import Source
from batch_assets_tests.sources.lake_source_behaviour import LakeSourceBehaviour
from batch_assets_tests.sources.moved_table import change_entries, moved_table
from batch_assets_tests.sources.source_behaviour import AFTER, DAY, rows_of


def properties(folder: Path) -> dict[str, Any]:
    return {"name": "tests", "type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}


@contextmanager
def catalog(folder: Path) -> Iterator[SqlCatalog]:
    with SqlCatalog(**properties(folder)) as opened:
        opened.create_namespace_if_not_exists("db")
        yield opened


def append(folder: Path, rows: pa.Table) -> Table:
    with catalog(folder) as opened:
        table = opened.create_table_if_not_exists("db.rows", rows.schema)
        with table.update_schema() as update:
            update.union_by_name(rows.schema)
        table.append(rows)
        return table


class TestIceberg(LakeSourceBehaviour):
    lacks: ClassVar = frozenset({"i8", "i16"})

    @override
    def source(self, folder: Path, **said: Any) -> Source:
        return IcebergSource(catalog=properties(folder), table="db.rows", **said)

    @override
    def append(self, folder: Path, rows: pa.Table) -> None:
        append(folder, rows)

    @override
    def delete(self, folder: Path, user: int) -> None:
        with catalog(folder) as opened:
            opened.load_table("db.rows").delete(f"user = {user}")

    @override
    def pin(self, folder: Path) -> dict[str, int]:
        with catalog(folder) as opened:
            snapshot = opened.load_table("db.rows").current_snapshot()
            assert snapshot is not None
            return {"snapshot": snapshot.snapshot_id}


def asked(source: Source, spill: Path, day: date = DAY) -> tuple[pa.Table, Any]:
    with source.read(day.isoformat(), ["user"], spill) as read:
        return read.rows.read_all(), read.provenance.tables[0]


def test_rows_that_positional_deletes_delete_do_not_come(tmp_path: Path) -> None:
    folder = moved_table(tmp_path / "table")
    for day, odd, count in ((DAY, 0, 500), (AFTER, 1, 400)):
        found, one = asked(IcebergSource(metadata=str(folder), day="day"), tmp_path, day)
        assert found["user"].to_pylist() == [user for user in range(1000) if user % 2 == odd and user % 10 != 3]
        assert (one.rows, one.rows_of_day, one.newest, one.newest_until_day) == (900, count, AFTER, day)
        assert (one.pinned, one.told) == ("snapshot 1927486018824471152", ("1 of its data files have rows that are deleted",))
        assert (one.path, one.files[0].rows) == (str(folder), 1000)
    found, one = asked(IcebergSource(metadata=str(folder), snapshot=8442961881908618750), tmp_path)
    assert (found.num_rows, one.rows, one.told) == (1000, 1000, ())


def test_what_spark_writes_is_exact(tmp_path: Path) -> None:
    found, _ = asked(IcebergSource(metadata=str(moved_table(tmp_path / "table"))), tmp_path)
    assert found["at"].to_pylist()[:3] == [
        datetime(2024, 3, 10, 2, 30, 0, 1, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    ]
    assert (found["amount"].to_pylist()[-1], found["word"].type) == (Decimal("9.99"), pa.string())


@pytest.mark.parametrize(("hint", "newest"), [("2", 2), ("1", 2)])
def test_the_newest_metadata_of_a_folder_are_read_though_the_hint_is_older(tmp_path: Path, hint: str, newest: int) -> None:
    folder = moved_table(tmp_path / "table")
    (folder / "metadata" / "version-hint.text").write_text(hint)
    assert asked(IcebergSource(metadata=str(folder)), tmp_path)[1].rows == 900
    (folder / "metadata" / f"v{newest}.metadata.json").unlink()
    if hint == "1":
        assert asked(IcebergSource(metadata=str(folder)), tmp_path)[1].rows == 1000
        return
    with pytest.raises(SourceError, match=r"has no metadata v2, which its version-hint\.text names\.$"):
        asked(IcebergSource(metadata=str(folder)), tmp_path)


def equality_deletes(folder: Path) -> None:
    def of_column_one(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["data_file"]["content"] == 1:
            entry["data_file"] |= {"content": 2, "equality_ids": [1]}
        return entry

    change_entries(folder, "*-m0.avro", of_column_one)


def cut(pattern: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes()[:-900])

    return change


def removed(pattern: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return change


def reworded(before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "metadata" / "v2.metadata.json"
        path.write_text(path.read_text().replace(before, after))

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (equality_deletes, r"its metadata cannot be read: .*equality deletes.*"),
        (removed("metadata/*-m0.avro"), r"its metadata cannot be read: .*-m0\.avro.*"),
        (removed("metadata/snap-*.avro"), r"its metadata cannot be read: .*snap-.*\.avro.*"),
        (cut("metadata/*-m0.avro"), r"its metadata cannot be read: .*"),
        (removed("data/*-deletes.parquet"), r"\S*/data/.*-deletes\.parquet is not there any more: .*"),
        (cut("data/*-deletes.parquet"), r"\S*/data/.*-deletes\.parquet is damaged .*"),
        (reworded('"format-version":2', '"format-version":9'), r"cannot be opened: .*format-version.*"),
        (reworded('"type":"float"', '"type":"a type to come"'), r"cannot be opened: .*a type to come.*"),
        (cut("metadata/v2.metadata.json"), r"cannot be opened: .*JSON.*"),
        (removed("metadata/*"), r"has no metadata/version-hint\.text, .*"),
        (shutil.rmtree, r"has no metadata/version-hint\.text, .*"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    folder = moved_table(tmp_path / "table")
    change(folder)
    with pytest.raises(SourceError, match=rf"^The Iceberg table {folder}.* {sentence}\.$") as refused:
        asked(IcebergSource(metadata=str(folder), day="day"), tmp_path)
    assert "\n" not in str(refused.value)


def test_a_snapshot_whose_file_was_taken_away_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = moved_table(tmp_path / "table")
    rows_of_table = IcebergSource.rows_of

    def cleaned_up(*said: Any) -> Any:
        streamed = rows_of_table(*said)
        removed("data/*")(folder)
        return streamed

    monkeypatch.setattr(IcebergSource, "rows_of", cleaned_up)
    with pytest.raises(SourceError, match=rf"\(snapshot \d+\): {folder}/data/.*\.parquet is not there any more: .*\.$"):
        asked(IcebergSource(metadata=str(folder), day="day"), tmp_path)


def test_a_table_is_found_by_its_metadata_alone(tmp_path: Path) -> None:
    first = append(tmp_path, rows_of(DAY, pa.array([2, 1])))
    append(tmp_path, rows_of(DAY, pa.array([3])))
    metadata = first.metadata_location.removeprefix("file://")
    found, one = asked(IcebergSource(metadata=metadata, day="day"), tmp_path)
    assert (found["user"].to_pylist(), one.rows) == ([1, 2], 2)


def test_a_snapshot_has_the_columns_that_the_table_had_then(tmp_path: Path) -> None:
    then = append(tmp_path, rows_of(DAY, pa.array([1]))).current_snapshot()
    assert then is not None
    with catalog(tmp_path) as opened:
        table = opened.load_table("db.rows")
        with table.update_schema() as update:
            update.rename_column("x", "y")
            update.delete_column("day")
        with table.update_schema() as update:
            update.add_column("day", DateType())
    found, _ = asked(IcebergSource(catalog=properties(tmp_path), table="db.rows"), tmp_path)
    assert found.to_pylist() == [{"user": 1, "y": 0.0, "day": None}]
    source = IcebergSource(catalog=properties(tmp_path), table="db.rows", snapshot=then.snapshot_id, day="day")
    assert asked(source, tmp_path)[0].to_pylist() == [{"user": 1, "x": 0.0}]


def test_a_table_without_a_snapshot_has_no_rows(tmp_path: Path) -> None:
    with catalog(tmp_path) as opened:
        opened.create_table("db.rows", rows_of(DAY, pa.array([1])).schema)
    found, one = asked(IcebergSource(catalog=properties(tmp_path), table="db.rows", day="day"), tmp_path)
    assert (found.num_rows, found.schema.names) == (0, ["user", "x"])
    assert (one.pinned, one.rows, one.rows_of_day, one.newest) == ("no snapshot", 0, 0, None)


@pytest.mark.parametrize(
    ("said", "table", "sentence"),
    [
        ({}, "db.nowhere", r"The Iceberg table db\.nowhere of the catalog tests cannot be opened: .*db\.nowhere.*"),
        ({"type": "made-up"}, "db.rows", r"The Iceberg table db\.rows of the catalog tests cannot be opened: .*made-up.*"),
        ({"uri": "sqlite:////nowhere/catalog.db"}, "db.rows", r"The Iceberg table db\.rows .* cannot be opened: .*"),
        (
            {"type": "rest", "uri": "http://catalog.example.com"},
            "db.rows",
            r"The catalog tests would be reached at http://catalog\.example\.com without TLS: name an https:// .*",
        ),
    ],
)
def test_a_catalog_that_does_not_help_is_a_sentence(tmp_path: Path, said: dict[str, Any], table: str, sentence: str) -> None:
    append(tmp_path, rows_of(DAY, pa.array([1])))
    with pytest.raises(SourceError, match=rf"^{sentence}\.$") as refused:
        asked(IcebergSource(catalog=properties(tmp_path) | said, table=table), tmp_path)
    assert "\n" not in str(refused.value)


def test_nobody_sees_a_secret_of_a_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, rows_of(DAY, pa.array([1])))
    uri = properties(tmp_path)["uri"]
    source = IcebergSource(catalog=properties(tmp_path) | {"uri": {"env": "CATALOG_URI"}}, table="db.rows", day="day")
    with pytest.raises(ConfigError, match="CATALOG_URI is not set"):
        asked(source, tmp_path)
    monkeypatch.setenv("CATALOG_URI", uri)
    found, one = asked(source, tmp_path)
    assert found.num_rows == 1
    assert uri not in source.model_dump_json() + one.model_dump_json()
    monkeypatch.setenv("CATALOG_URI", "no-address:my-word")
    with pytest.raises(SourceError, match="cannot be opened") as refused:
        asked(source, tmp_path)
    assert "my-word" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "say either metadata, or catalog and table"),
        ({"catalog": {"type": "rest"}}, "say either metadata, or catalog and table"),
        ({"metadata": "/lake/rows", "table": "db.rows"}, "say either metadata, or catalog and table"),
        ({"metadata": "lake/rows"}, "a path is absolute or begins with s3://"),
        ({"metadata": "s3://key:secret@lake/rows"}, "a path has no credentials"),
        ({"catalog": {"token": "word"}, "table": "db.rows"}, r"the property token is a secret.*: say \{env: NAME\}"),
        ({"catalog": {"s3.secret-access-key": "word"}, "table": "db.rows"}, "the property s3.secret-access-key is a secret"),
        ({"catalog": {"uri": "postgresql://me:word@host/db"}, "table": "db.rows"}, "the property uri is a secret, or has one"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        IcebergSource(**said)
