"""What every source of files does beyond that: they are told of by their paths, and looked at again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.snapshot import write_snapshot
from batch_assets_tests.sources.source_behaviour import DAY, ROWS, SourceBehaviour, rows_of, shuffled


class FileSourceBehaviour(SourceBehaviour):
    """Inherited by the tests of sources that read Parquet files in a local folder."""

    @pytest.mark.parametrize(
        ("keys", "sentence"),
        [
            (pa.array([4, None, 5]), r"user is null in 1 .*: leave such rows out.* It is in row 1 of (?P<file>/.*parquet) \("),
            (
                pa.array([4, 5, 4]),
                r"user is there twice: 4;.* It is in row 0 of (?P<file>/.*parquet) .* and row 2 of /.*parquet",
            ),
            (pa.array(["b", "a", "b"]), r"user is there twice: 'b';.* It is in row 0 of (?P<file>/.*parquet) .* and row 2 of"),
        ],
    )
    def test_the_place_of_a_key_that_is_none_is_told(
        self, table: Path, spill: Path, tmp_path: Path, keys: pa.Array, sentence: str
    ) -> None:
        (tmp_path / "snapshot").mkdir()
        source = self.placed(table, [rows_of(DAY, keys)])
        with pytest.raises(BadKeys, match=sentence) as told, source.read(DAY.isoformat(), ["user"], spill) as read:
            write_snapshot(tmp_path / "snapshot", read.rows, ["user"], 100)
        assert "\n" not in str(told.value)
        assert f" of {table}/" in str(told.value)

    @pytest.mark.parametrize("damage", ["empty", "cut", "text", "a page", "gone"])
    def test_a_damaged_file_is_named_in_one_sentence(self, table: Path, spill: Path, damage: str) -> None:
        source = self.placed(table, [shuffled(rows_of(DAY, pa.array(np.arange(ROWS)))), rows_of(DAY, pa.array([-1]))])
        _, provenance = self.read(source, spill)
        path = max(provenance.tables[0].files, key=lambda file: file.rows).path
        whole = Path(path).read_bytes()
        middle = len(whole) // 4
        damages = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "text": b"user,x\n1,2\n" * 20,
            "a page": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        }
        Path(path).unlink()
        if damage in damages:
            Path(path).write_bytes(damages[damage])
        else:
            Path(path).symlink_to(table / "nowhere")
        with pytest.raises(SourceError) as refused:
            self.read(source, spill)
        assert path in str(refused.value)
        assert "\n" not in str(refused.value)
        assert str(spill) not in str(refused.value)

    def test_where_nothing_lies_it_says_so(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1]))])
        for file in [file for file in table.rglob("*") if file.is_file()]:
            file.unlink()
        with pytest.raises(SourceError, match=str(table)):
            self.read(source, spill)

    @pytest.mark.parametrize("change", ["written anew", "taken away", "added"])
    def test_a_file_that_changes_while_it_is_read_is_refused(self, table: Path, spill: Path, change: str) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2])), rows_of(DAY, pa.array([3]))])
        _, provenance = self.read(source, spill)
        file = Path(provenance.tables[0].files[0].path)

        def changes() -> None:
            data = file.read_bytes()
            if change == "added":
                file.with_name(f"z-{file.name}").write_bytes(data)
                return
            file.unlink()
            if change == "written anew":
                file.write_bytes(data)

        with (
            pytest.raises(SourceError, match=rf"{table}/.* (was changed|vanished|appeared) while it was read") as refused,
            source.read(DAY.isoformat(), ["user"], spill),
        ):
            changes()
        assert "\n" not in str(refused.value)

    def test_what_is_not_written_yet_is_left_out(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2]))])
        found, provenance = self.read(source, spill)
        (file,) = provenance.tables[0].files
        for name in ("_temporary", ".staging"):
            (Path(file.path).parent / name).mkdir()
            (Path(file.path).parent / name / "part.parquet").write_bytes(Path(file.path).read_bytes())
        again, same = self.read(source, spill)
        assert again.equals(found)
        assert same == provenance

    def test_columns_that_differ_between_files_are_refused(self, table: Path, spill: Path) -> None:
        text = rows_of(DAY, pa.array([2])).set_column(2, "x", pa.array(["a"]))
        with pytest.raises(SourceError, match=r"column x of the table .* is float in /.*parquet, but string in /.*parquet"):
            self.read(self.placed(table, [rows_of(DAY, pa.array([1])), text]), spill)

    def test_a_column_that_is_wider_in_one_file_is_told(self, table: Path, spill: Path) -> None:
        parts = [rows_of(DAY, pa.array([key], type_)) for key, type_ in ((1, pa.int32()), (2**40, pa.int64()))]
        found, provenance = self.read(self.placed(table, parts), spill)
        assert (found.schema.field("user").type, found["user"].to_pylist()) == (pa.int64(), [1, 2**40])
        assert any(told.startswith("user is int32 in ") for told in provenance.tables[0].told)

    def test_a_provenance_names_files_with_rows_and_stamps(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2])), rows_of(DAY, pa.array([3, 4, 5]))])
        _, provenance = self.read(source, spill)
        (one,) = provenance.tables
        assert (one.rows, one.rows_of_day, one.newest, one.event_date) == (5, 5, DAY, "day")
        assert sorted(file.rows for file in one.files) == [2, 3]
        for file in one.files:
            status = Path(file.path).stat()
            assert (file.size, file.stamp) == (status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")
