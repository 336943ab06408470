"""A version of a Delta table is a source: exact rows, no deleted ones, and nothing that was written after it was chosen."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pydantic import ValidationError
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.sources.delta_source import DeltaSource
from batch_assets.sources.source import Source
from batch_assets.sources.streamed import Streamed
from batch_assets_tests.sources.lake_source_behaviour import LakeSourceBehaviour
from batch_assets_tests.sources.source_behaviour import AFTER, DAY, rows_of

BY_SPARK = Path(__file__).parent / "data" / "delta_with_deletion_vectors"


class DeltaBehaviour(LakeSourceBehaviour):
    @override
    def source(self, folder: Path, **said: Any) -> Source:
        return DeltaSource(path=str(folder), **said)

    @override
    def delete(self, folder: Path, user: int) -> None:
        DeltaTable(folder).delete(f"user = {user}")

    @override
    def pin(self, folder: Path) -> dict[str, int]:
        return {"version": DeltaTable(folder).version()}


class TestDelta(DeltaBehaviour):
    @override
    def append(self, folder: Path, rows: pa.Table) -> None:
        write_deltalake(folder, rows, mode="append", schema_mode="merge")


class TestDeltaInFolders(DeltaBehaviour):
    @override
    def append(self, folder: Path, rows: pa.Table) -> None:
        write_deltalake(folder, rows, mode="append", schema_mode="merge", partition_by=["day"])


def asked(source: Source, spill: Path, day: date = DAY) -> tuple[pa.Table, Any]:
    with source.read(day.isoformat(), ["user"], spill) as read:
        return read.rows.read_all(), read.provenance.tables[0]


def test_rows_that_deletion_vectors_delete_do_not_come(tmp_path: Path) -> None:
    for day, odd, count in ((DAY, 0, 500), (AFTER, 1, 400)):
        found, one = asked(DeltaSource(path=str(BY_SPARK), day="day"), tmp_path, day)
        assert found["user"].to_pylist() == [user for user in range(1000) if user % 2 == odd and user % 10 != 3]
        assert (one.pinned, one.rows, one.rows_of_day, one.newest, one.newest_until_day) == (
            "version 1",
            900,
            count,
            AFTER,
            day,
        )
        assert one.told == ("100 rows are left out by deletion vectors",)
    found, one = asked(DeltaSource(path=str(BY_SPARK), version=0), tmp_path)
    assert (found.num_rows, one.rows, one.told) == (1000, 1000, ())


def test_deletion_vectors_are_counted_in_folders_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    shutil.copytree(BY_SPARK, folder)
    (file,) = folder.glob("*.parquet")
    (folder / "p=d ü").mkdir()
    file.rename(folder / "p=d ü" / file.name)
    for entry in (folder / "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in (line[name] for line in lines for name in ("add", "remove") if name in line):
            action |= {"path": f"p=d%20ü/{file.name}", "partitionValues": {"p": "d ü"}}
        for said in (line["metaData"] for line in lines if "metaData" in line):
            fields = json.loads(said["schemaString"])
            fields["fields"].append({"name": "p", "type": "string", "nullable": True, "metadata": {}})
            said |= {"schemaString": json.dumps(fields), "partitionColumns": ["p"]}
        entry.write_text("\n".join(map(json.dumps, lines)))
    found, one = asked(DeltaSource(path=str(folder), day="day"), tmp_path, AFTER)
    assert (set(found["p"].to_pylist()), one.rows, one.rows_of_day, found.num_rows) == ({"d ü"}, 900, 400, 400)


def test_what_spark_writes_is_exact_its_int96_time_stamps_too(tmp_path: Path) -> None:
    found, _ = asked(DeltaSource(path=str(BY_SPARK)), tmp_path)
    assert found["at"].to_pylist()[:3] == [
        datetime(2024, 3, 10, 2, 30, 0, 1, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    ]
    assert found["word"].to_pylist()[-1] == "u999"
    assert (found["amount"].to_pylist()[-1], found["word"].type) == (Decimal("9.99"), pa.string())
    found, one = asked(DeltaSource(path=str(BY_SPARK), day="at"), tmp_path)
    assert (found.num_rows, one.rows_of_day, one.newest, one.newest_until_day) == (898, 898, date(9999, 12, 31), DAY)


def reworded(action: str, said: dict[str, Any]) -> Callable[[Path], None]:
    """Writes an action of the first entry of a log anew."""

    def change(folder: Path) -> None:
        entry = folder / "_delta_log" / f"{0:020}.json"
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        entry.write_text("\n".join(json.dumps({action: said} if action in line else line) for line in lines))

    return change


def unknown_type(folder: Path) -> None:
    entry = folder / "_delta_log" / f"{0:020}.json"
    entry.write_text(entry.read_text().replace('\\"type\\":\\"float\\"', '\\"type\\":\\"geography\\"'))


@pytest.mark.parametrize(
    "change",
    [
        reworded("protocol", {"minReaderVersion": 4, "minWriterVersion": 8}),
        *(
            reworded(
                "protocol",
                {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [name], "writerFeatures": [name]},
            )
            for name in ("typeWidening", "aFeatureToCome", "catalogManaged")
        ),
        unknown_type,
        lambda folder: (folder / "_delta_log" / f"{0:020}.json").write_text("{no JSON"),
        lambda folder: (folder / "_delta_log" / f"{0:020}.json").unlink(),
    ],
    ids=["reader 4", "typeWidening", "a feature to come", "catalogManaged", "a type to come", "no JSON", "a gap"],
)
def test_a_log_that_cannot_be_understood_is_refused_in_one_sentence(tmp_path: Path, change: Callable[[Path], None]) -> None:
    for user in (1, 2):
        write_deltalake(tmp_path / "table", rows_of(DAY, pa.array([user])), mode="append")
    change(tmp_path / "table")
    with pytest.raises(SourceError, match=rf"^The Delta table {tmp_path}/table .*\.$") as refused:
        asked(DeltaSource(path=str(tmp_path / "table"), day="day"), tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("made", [True, False])
def test_where_no_table_lies_it_says_so(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "table").mkdir()
    with pytest.raises(SourceError, match=rf"^The Delta table {tmp_path}/table cannot be opened: .*\.$") as refused:
        asked(DeltaSource(path=str(tmp_path / "table")), tmp_path)
    assert "\n" not in str(refused.value)
    assert not made or list((tmp_path / "table").iterdir()) == []


@pytest.mark.parametrize("when", ["before the read", "while it is read"])
def test_a_version_whose_file_was_vacuumed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    folder = tmp_path / "table"
    write_deltalake(folder, rows_of(DAY, pa.array([1])))
    source = DeltaSource(path=str(folder), version=0, day="day")
    write_deltalake(folder, rows_of(DAY, pa.array([2])), mode="overwrite")

    def vacuum() -> None:
        DeltaTable(folder).vacuum(0, dry_run=False, enforce_retention_duration=False)

    rows_of_table = DeltaSource.rows_of

    def vacuumed(*said: Any) -> Streamed:
        """The log is read by now, the file is not."""
        vacuum()
        return rows_of_table(*said)

    if when == "before the read":
        vacuum()
    else:
        monkeypatch.setattr(DeltaSource, "rows_of", vacuumed)
    with pytest.raises(SourceError, match=rf"\(version 0\): {folder}/.*\.parquet is not there any more: .*\.$"):
        asked(source, tmp_path)


def test_a_file_of_which_the_log_says_nothing_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    write_deltalake(folder, rows_of(DAY, pa.array([1, 2])))
    entry = folder / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        line.get("add", {}).pop("stats", None)
    entry.write_text("\n".join(map(json.dumps, lines)))
    found, one = asked(DeltaSource(path=str(folder), day="day"), tmp_path)
    assert (found.num_rows, one.rows, one.rows_of_day, one.newest, one.files[0].rows) == (2, 2, 2, DAY, 2)


def test_folders_and_columns_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b ü"
    odd = 'sö"me. {x}'
    rows = pa.table({"user": [1, 2], odd: ["a b:c/%ü", None], "day": pa.array([DAY, DAY]), "x.y": [1.0, 2.0]})
    write_deltalake(folder, rows, partition_by=[odd])
    found, one = asked(DeltaSource(path=str(folder), day="day"), tmp_path)
    assert found.to_pylist() == rows.drop_columns(["day"]).to_pylist()
    assert all(Path(file.path).is_file() for file in one.files)


def test_a_bucket_is_read_and_no_credential_is_told(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{bucket}/table"
    options = {"allow_http": "true", "aws_endpoint": os.environ["AWS_ENDPOINT_URL"]}
    write_deltalake(path, rows_of(DAY, pa.array([2, 1])), storage_options=options)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-may-see-it")
    source = DeltaSource(path=path, day="day")
    found, one = asked(source, tmp_path)
    assert (found["user"].to_pylist(), one.path, one.rows_of_day) == ([1, 2], path, 2)
    assert "nobody-may-see-it" not in one.model_dump_json()
    (file,) = one.files
    assert file.path.startswith(f"{path}/")
    with pytest.raises(SourceError, match=rf"^The Delta table {bucket}/nowhere cannot be opened: .*\.$") as refused:
        asked(DeltaSource(path=f"{bucket}/nowhere"), tmp_path)
    assert "nobody-may-see-it" not in str(refused.value)


def test_a_bucket_elsewhere_is_not_spoken_to_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://lake.example.com")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-may-see-it")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(SourceError, match=r"^The Delta table s3://lake/table cannot be opened: .*\.$") as refused:
        asked(DeltaSource(path="s3://lake/table"), tmp_path)
    assert "nobody-may-see-it" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("lake/table", "a path is absolute or begins with s3://"),
        ("s3://key:secret@lake/table", "a path has no credentials"),
    ],
)
def test_a_place_that_is_none_is_refused_when_it_is_said(path: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        DeltaSource(path=path)
