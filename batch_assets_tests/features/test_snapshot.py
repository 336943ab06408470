import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.digest import Digest, key_digest
from batch_assets.errors import BadKeys, SnapshotChanged
from batch_assets.features import snapshot as snapshots
from batch_assets.features.snapshot import Snapshot, SnapshotReader, read_snapshot, write_snapshot
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import rows


def write(folder: Path, table: pa.Table, row_group_rows: int = 256) -> Snapshot:
    folder.mkdir()
    return write_snapshot(folder, table.to_reader(max_chunksize=100), ["user"], row_group_rows)


@pytest.fixture
def frozen(tmp_path: Path) -> tuple[LocalStorage, Snapshot]:
    snapshot = write(tmp_path / "snap", rows(1_000))
    return LocalStorage(str(tmp_path)), snapshot


def test_files_are_written_for_reading_speed(frozen: tuple[LocalStorage, Snapshot], tmp_path: Path) -> None:
    metadata = pq.read_metadata(tmp_path / "snap" / "part-00000.parquet")
    column = metadata.row_group(0).column(1)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [256, 256, 256, 232]
    assert (column.compression, column.physical_type, column.has_dictionary_page) == ("LZ4", "FLOAT", False)


def test_every_row_group_has_its_keys_digest(frozen: tuple[LocalStorage, Snapshot]) -> None:
    _, snapshot = frozen
    groups = snapshot.files[0].row_groups
    assert groups[0].keys == key_digest(pa.array(range(1, 257)))
    assert sum((group.keys for group in groups), Digest()) == key_digest(pa.array(range(1, 1_001)))


def test_the_description_can_be_read_back(frozen: tuple[LocalStorage, Snapshot]) -> None:
    storage, snapshot = frozen
    assert read_snapshot(storage, "snap", snapshot.digest) == snapshot
    assert snapshot.rows == 1_000


def test_the_same_rows_have_the_same_digest_in_another_folder_at_another_time(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", rows(500)), write(tmp_path / "b", rows(500))
    assert first.digest == second.digest
    assert first.digest != write(tmp_path / "c", rows(500, seed=2)).digest
    assert first.digest != write(tmp_path / "d", rows(500), row_group_rows=100).digest


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1_000])
def test_any_range_of_rows_can_be_read(tmp_path: Path, count: int) -> None:
    table = rows(count)
    snapshot = write(tmp_path / "snap", table)
    reader = SnapshotReader(LocalStorage(str(tmp_path)), "snap", snapshot)
    for start, length in [(0, count), (0, 1), (count - 1, 1), (count // 3, count // 2)]:
        assert reader.rows(0, start, length, ["user", "y"]).equals(table.select(["user", "y"]).slice(start, length))


def test_large_partitions_have_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ROWS_PER_FILE", 512)
    snapshot = write(tmp_path / "snap", rows(1_300))
    assert [(file.name, file.rows) for file in snapshot.files] == [
        ("part-00000.parquet", 512),
        ("part-00001.parquet", 512),
        ("part-00002.parquet", 276),
    ]
    reader = SnapshotReader(LocalStorage(str(tmp_path)), "snap", snapshot)
    assert reader.rows(2, 0, 1, ["user"])["user"].to_pylist() == [1_025]


def test_no_rows_are_a_snapshot_too(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "snap", rows(0))
    assert snapshot.rows == 0
    assert SnapshotReader(LocalStorage(str(tmp_path)), "snap", snapshot).schema().names == ["user", "x", "y", "z"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2, None], "null"),
        ([1, 2, 2, 3], "there twice: 2"),
        ([1, 3, 2], "out of order: 2 follows 3"),
        ([*range(256), 255], "there twice: 255"),
    ],
)
def test_keys_must_be_there_once_and_ascend(tmp_path: Path, keys: list[int | None], message: str) -> None:
    with pytest.raises(BadKeys, match=message):
        write(tmp_path / "snap", pa.table({"user": pa.array(keys, pa.int64())}))


class TestChanges:
    def test_a_truncated_file_is_named(self, frozen: tuple[LocalStorage, Snapshot], tmp_path: Path) -> None:
        path = tmp_path / "snap" / "part-00000.parquet"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(SnapshotChanged, match=r"part-00000\.parquet has .* bytes instead"):
            SnapshotReader(frozen[0], "snap", frozen[1]).schema()

    def test_a_flipped_byte_is_noticed(self, frozen: tuple[LocalStorage, Snapshot], tmp_path: Path) -> None:
        path = tmp_path / "snap" / "part-00000.parquet"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        with pytest.raises(SnapshotChanged, match="other sha256"):
            SnapshotReader(frozen[0], "snap", frozen[1]).rows(0, 0, 1, ["user"])

    def test_a_restored_copy_is_as_good(self, frozen: tuple[LocalStorage, Snapshot], tmp_path: Path) -> None:
        shutil.copytree(tmp_path / "snap", tmp_path / "copy")
        reader = SnapshotReader(frozen[0], "copy", frozen[1])
        assert len(reader.rows(0, 0, 10, ["user"])) == 10

    def test_an_edited_description_is_noticed(self, frozen: tuple[LocalStorage, Snapshot], tmp_path: Path) -> None:
        path, digest = tmp_path / "snap" / "_snapshot.json", frozen[1].digest
        text = path.read_text()
        for damaged in (text.replace('"rows": 232', '"rows": 231'), text[:100], ""):
            path.write_text(damaged)
            with pytest.raises(SnapshotChanged, match=r"_snapshot\.json"):
                read_snapshot(frozen[0], "snap", digest)
        path.write_text(text)
        with pytest.raises(SnapshotChanged, match="other digest"):
            read_snapshot(frozen[0], "snap", "0" * 64)

    def test_a_change_between_two_reads_is_noticed_before_the_rows_are_used(
        self, frozen: tuple[LocalStorage, Snapshot], tmp_path: Path
    ) -> None:
        reader = SnapshotReader(frozen[0], "snap", frozen[1])
        reader.rows(0, 0, 10, ["user"])
        path = tmp_path / "snap" / "part-00000.parquet"
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        with pytest.raises(SnapshotChanged, match="while it was read"):
            reader.rows(0, 10, 10, ["user"])


def test_a_digest_is_that_of_one_json_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As roots have it that were written before; another one would make every stored snapshot unreadable."""
    monkeypatch.setattr(snapshots, "ROWS_PER_FILE", 256)
    for name, count in (("some", 900), ("none", 0)):
        snapshot = write(tmp_path / name, rows(count))
        said = json.loads(snapshot.model_dump_json(exclude={"digest": True, "files": {"__all__": {"token"}}}))
        document = json.dumps([said["key"], said["schema_text"], said["files"]], sort_keys=True)
        assert snapshot.digest == hashlib.sha256(document.encode()).hexdigest()


@pytest.mark.parametrize("keys", [pa.array(["", "a"]), pa.array(["a", "b" * 512]), pa.array([1.5, 2.5]), pa.array([[1], [2]])])
def test_keys_that_cannot_be_stored_are_refused(tmp_path: Path, keys: pa.Array) -> None:
    with pytest.raises(BadKeys, match="must"):
        write(tmp_path / "snap", pa.table({"user": keys}))
