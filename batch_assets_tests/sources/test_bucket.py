"""Parquet files in a bucket: the same rows as on a disk, and told of by their addresses."""

import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.sources.listing import list_files
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.sources.source import Source
from batch_assets_tests.sources.source_behaviour import BEFORE, DAY, SourceBehaviour, rows_of


class Bucket:
    """What somebody else keeps in a bucket."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.store = S3Store(root.removeprefix("s3://"), client_options={"allow_http": True})

    def put(self, key: str, table: pa.Table) -> str:
        file = io.BytesIO()
        pq.write_table(table, file, write_page_checksum=True)
        self.store.put(key, file.getvalue())
        return f"{self.root}/{key}"


@pytest.fixture
def there(bucket: str) -> Bucket:
    return Bucket(bucket)


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    (tmp_path / "spill").mkdir()
    return tmp_path / "spill"


class TestParquet(SourceBehaviour):
    @pytest.fixture(autouse=True)
    def at_hand(self, there: Bucket) -> None:
        self.there, self.places = there, dict[Path, str]()

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        place = self.places.setdefault(folder, uuid.uuid4().hex)
        for number, part in enumerate(parts):
            self.there.put(f"{place}/{number}.parquet", part)
        return ParquetSource(path=f"{self.there.root}/{place}", day="day")


class TestQuery(TestParquet):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        path = super().placed(folder, parts).path  # type: ignore[attr-defined]
        query = folder.with_suffix(".sql")
        query.write_text("SELECT * EXCLUDE (day) FROM t WHERE day = $partition")
        return DuckdbSource.model_validate({"query": str(query), "tables": {"t": {"path": path, "event_date": "day"}}})


def read(path: str, spill: Path, **said: Any) -> tuple[pa.Table, Any]:
    return SourceBehaviour.read(ParquetSource(path=path, **said), spill)


ROWS = rows_of(DAY, pa.array([1, 2]))


class TestWhichFiles:
    NAMES = ("t/a.parquet", "t/b.PARQUET", "t/x.csv", "t/_tmp/c.parquet", "t/.d.parquet", "t/deep/er/e.parquet", "t2/f.parquet")

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("t", "t/a.parquet t/b.PARQUET t/deep/er/e.parquet"),
            ("t/", "t/a.parquet t/b.PARQUET t/deep/er/e.parquet"),
            ("t/a.parquet", "t/a.parquet"),
            ("t/*.parquet", "t/a.parquet"),
            ("t/**", "t/a.parquet t/b.PARQUET t/deep/er/e.parquet"),
            ("t*/*.parquet", "t/a.parquet t2/f.parquet"),
            ("**/e.parquet", "t/deep/er/e.parquet"),
            ("t/_tmp/*.parquet", "t/_tmp/c.parquet"),
            ("t/deep", "t/deep/er/e.parquet"),
            ("", "t/a.parquet t/b.PARQUET t/deep/er/e.parquet t2/f.parquet"),
        ],
    )
    def test_they_are_those_that_a_folder_would_have(self, there: Bucket, tmp_path: Path, path: str, expected: str) -> None:
        for name in self.NAMES:
            there.put(name, ROWS)
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(ROWS, tmp_path / name)
        (tmp_path / "t" / "x.csv").write_text("user,x\n1,2\n")
        found = [file.path.removeprefix(f"{there.root}/") for file in list_files("t", f"{there.root}/{path}")]
        assert found == expected.split()
        assert found == [file.path.removeprefix(f"{tmp_path}/") for file in list_files("t", str(tmp_path / path))]

    def test_folders_are_columns(self, there: Bucket, spill: Path) -> None:
        for day in (BEFORE, DAY):
            there.put(f"t/day={day}/0.parquet", rows_of(day, pa.array([day.day])).drop_columns(["day"]))
        found, provenance = read(f"{there.root}/t", spill, day="day", hive=True)
        assert found["user"].to_pylist() == [DAY.day]
        (file,) = provenance.tables[0].files
        assert file.path == f"{there.root}/t/day={DAY}/0.parquet"


class TestWhatGoesWrong:
    @pytest.mark.parametrize("path", ["s3://nobody/t", "s3://", "s3:///t"])
    def test_a_bucket_that_is_not_there_is_a_sentence(self, there: Bucket, spill: Path, path: str) -> None:
        with pytest.raises(SourceError, match=path) as told:
            read(path, spill)
        assert "\n" not in str(told.value)

    def test_a_folder_without_files_is_a_sentence(self, there: Bucket, spill: Path) -> None:
        with pytest.raises(SourceError, match=rf"{there.root}/t names no Parquet file"):
            read(f"{there.root}/t", spill)

    @pytest.mark.parametrize("change", ["written anew", "taken away", "added"])
    def test_a_file_that_changes_while_it_is_read_is_refused(self, there: Bucket, spill: Path, change: str) -> None:
        there.put("t/0.parquet", ROWS)
        other = rows_of(DAY, pa.array([9]))
        changes = {
            "written anew": lambda: there.put("t/0.parquet", other),
            "taken away": lambda: there.store.delete("t/0.parquet"),
            "added": lambda: there.put("t/1.parquet", other),
        }
        with (
            pytest.raises(SourceError, match=r"(was changed|vanished|appeared) while it was read") as told,
            ParquetSource(path=f"{there.root}/t").read(DAY.isoformat(), ["user"], spill),
        ):
            changes[change]()
        assert there.root in str(told.value)
        assert "\n" not in str(told.value)

    def test_one_that_changes_between_listing_and_copying_is_refused(
        self, there: Bucket, spill: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there.put("t/0.parquet", ROWS)

        def later(name: str, path: str) -> Any:
            found = list_files(name, path)
            there.put("t/0.parquet", rows_of(DAY, pa.array([9])))
            return found

        monkeypatch.setattr("batch_assets.sources.tables.list_files", later)
        with pytest.raises(SourceError, match=rf"{there.root}/t/0.parquet .*was changed while it was read") as told:
            read(f"{there.root}/t", spill)
        assert "\n" not in str(told.value)

    def test_a_footer_that_is_none_is_named(self, there: Bucket, spill: Path) -> None:
        there.store.put("t/0.parquet", b"PAR1 and then nothing")
        with pytest.raises(SourceError, match=rf"{there.root}/t/0.parquet cannot be read as a Parquet file"):
            read(f"{there.root}/t", spill)

    def test_nobody_who_may_not_read_it_does(self, there: Bucket, spill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        there.put("t/0.parquet", ROWS)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr("batch_assets.storage.bucket._PATIENCE", 0.5)
        with pytest.raises(SourceError, match=rf"{there.root}/t cannot be listed"):
            read(f"{there.root}/t", spill)
