"""What every source of a lake's tables does beyond that: it reads one state of a table, whatever is written meanwhile."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.sources.source import Source
from batch_assets_tests.sources.source_behaviour import AFTER, BEFORE, DAY, SourceBehaviour, rows_of


class LakeSourceBehaviour(SourceBehaviour):
    """Inherited by the tests of sources that read a format whose tables have states with a name."""

    def source(self, folder: Path, **said: Any) -> Source:
        """A source of the table in a folder, `day` and `columns` as they are said."""
        raise NotImplementedError

    def append(self, folder: Path, rows: pa.Table) -> None:
        """Make the table, or write more rows, with more columns perhaps."""
        raise NotImplementedError

    def delete(self, folder: Path, user: int) -> None:
        """Delete the rows of a user."""
        raise NotImplementedError

    def pin(self, folder: Path) -> dict[str, int]:
        """The setting that names the present state."""
        raise NotImplementedError

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        for part in parts:
            self.append(folder, part)
        return self.source(folder, day="day")

    def test_what_is_written_after_the_read_began_never_shows(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2])), rows_of(DAY, pa.array([3]))])
        before, known = self.read(source, spill)
        with source.read(DAY.isoformat(), ["user"], spill) as read:
            self.append(table, rows_of(DAY, pa.array([4])))
            self.delete(table, 3)
            self.append(table, rows_of(DAY, pa.array([3])))
            found = read.rows.read_all()
        assert found.equals(before)
        assert read.provenance == known
        assert self.read(source, spill)[0]["user"].to_pylist() == [1, 2, 3, 4]

    def test_a_state_that_is_named_is_read_though_there_are_newer_ones(self, table: Path, spill: Path) -> None:
        self.append(table, rows_of(DAY, pa.array([1, 2])))
        pin = self.pin(table)
        self.append(table, rows_of(DAY, pa.array([3])))
        self.delete(table, 1)
        (number,) = pin.values()
        found, provenance = self.read(self.source(table, day="day", **pin), spill)
        assert found["user"].to_pylist() == [1, 2]
        (one,) = provenance.tables
        assert (one.rows, one.pinned.split()[-1]) == (2, str(number))
        found, provenance = self.read(self.source(table, day="day"), spill)
        assert (found["user"].to_pylist(), provenance.tables[0].rows) == ([2, 3], 2)
        assert provenance.tables[0].pinned != one.pinned

    def test_a_state_that_is_not_there_is_a_sentence(self, table: Path, spill: Path) -> None:
        self.append(table, rows_of(DAY, pa.array([1])))
        (name,) = self.pin(table)
        with pytest.raises(SourceError, match=rf"{table}.*77") as refused:
            self.read(self.source(table, **{name: 77}), spill)
        assert "\n" not in str(refused.value)

    def test_a_provenance_has_the_files_that_may_have_rows_of_the_day(self, table: Path, spill: Path) -> None:
        parts = [rows_of(BEFORE, pa.array([1])), rows_of(DAY, pa.array([1, 2])), rows_of(AFTER, pa.array([3]))]
        _, provenance = self.read(self.placed(table, parts), spill)
        (one,) = provenance.tables
        (file,) = one.files
        assert (file.rows, file.size) == (2, Path(file.path.removeprefix("file://")).stat().st_size)
        assert (one.rows, one.rows_of_day, one.newest, one.newest_until_day) == (4, 2, AFTER, DAY)

    def test_files_of_other_days_are_not_opened(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(BEFORE, pa.array([1])), rows_of(DAY, pa.array([2]))])
        _, provenance = self.read(source, spill, day=BEFORE)
        Path(provenance.tables[0].files[0].path.removeprefix("file://")).unlink()
        found, provenance = self.read(source, spill)
        assert (found["user"].to_pylist(), provenance.tables[0].newest) == ([2], DAY)

    def test_days_are_read_where_a_file_has_several(self, table: Path, spill: Path) -> None:
        days = [date(2024, 3, 1), BEFORE, DAY, DAY, AFTER, None]
        rows = rows_of(DAY, pa.array(range(6))).set_column(0, "day", pa.array(days, pa.date32()))
        source = self.placed(table, [rows])
        for day, said in {
            DAY: (2, AFTER, DAY),
            date(2024, 3, 5): (0, AFTER, date(2024, 3, 1)),
            date(2024, 2, 1): (0, AFTER, None),
        }.items():
            found, provenance = self.read(source, spill, day=day)
            (one,) = provenance.tables
            assert (one.rows_of_day, one.newest, one.newest_until_day) == said
            assert (found.num_rows, one.rows) == (said[0], 6)

    def test_a_table_without_a_day_is_read_as_a_whole(self, table: Path, spill: Path) -> None:
        self.append(table, rows_of(BEFORE, pa.array([2])))
        self.append(table, rows_of(DAY, pa.array([1])))
        found, provenance = self.read(self.source(table), spill)
        assert (found["user"].to_pylist(), found["day"].to_pylist()) == ([1, 2], [DAY, BEFORE])
        (one,) = provenance.tables
        assert (one.event_date, one.newest, one.rows_of_day, one.rows, len(one.files)) == (None, None, None, 2, 2)

    def test_columns_come_as_they_are_named(self, table: Path, spill: Path) -> None:
        self.append(table, rows_of(DAY, pa.array([1]), word=pa.array(["a"])))
        found, _ = self.read(self.source(table, day="day", columns=("word", "day", "user")), spill)
        assert found.to_pylist() == [{"word": "a", "day": DAY, "user": 1}]

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"columns": ("user", "nobody")}, r"has no column nobody, only day, user, x\.$"),
            ({"day": "nobody"}, r"has no column nobody, which its setting day names, only day, user, x\.$"),
            ({"day": "x"}, r"the day x is float, which is no date; name a column of dates or time stamps\.$"),
        ],
    )
    def test_a_column_that_is_not_there_is_a_sentence(
        self, table: Path, spill: Path, said: dict[str, Any], sentence: str
    ) -> None:
        self.append(table, rows_of(DAY, pa.array([1])))
        with pytest.raises(SourceError, match=sentence):
            self.read(self.source(table, **said), spill)

    def test_a_column_that_was_added_is_null_in_older_files(self, table: Path, spill: Path) -> None:
        self.append(table, rows_of(DAY, pa.array([1])))
        self.append(table, rows_of(DAY, pa.array([2]), amount=pa.array([Decimal("1.10")], pa.decimal128(20, 2))))
        found, _ = self.read(self.source(table, day="day"), spill)
        assert found["amount"].to_pylist() == [None, Decimal("1.10")]

    def test_decimals_are_exact(self, table: Path, spill: Path) -> None:
        values = [Decimal("12345678901234567890123456.123456789012"), Decimal("-0.000000000001"), None]
        self.append(table, rows_of(DAY, pa.array([1, 2, 3]), amount=pa.array(values, pa.decimal128(38, 12))))
        found, _ = self.read(self.source(table, day="day"), spill)
        assert (found["amount"].to_pylist(), found["amount"].type) == (values, pa.decimal128(38, 12))

    def test_bytes_and_points_in_time_are_kept(self, table: Path, spill: Path) -> None:
        at = pa.array([datetime(1, 1, 1, tzinfo=UTC), datetime(2024, 3, 10, 5, 0, 0, 1, UTC)], pa.timestamp("us", "UTC"))
        blob = pa.array([b"\x00\xff", None], pa.binary())
        self.append(table, rows_of(DAY, pa.array([1, 2]), at=at, blob=blob))
        found, _ = self.read(self.source(table, day="day"), spill)
        assert found.schema.field("at").type == pa.timestamp("us", "UTC")
        assert (found["at"].to_pylist(), found["blob"].to_pylist()) == (at.to_pylist(), blob.to_pylist())

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Auckland"])
    @pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.string()], ids=str)
    def test_a_day_begins_at_midnight_of_its_zone(self, table: Path, spill: Path, kind: pa.DataType, zone: str) -> None:
        hours = [datetime(2024, 3, 29, tzinfo=UTC) + timedelta(hours=hour) for hour in range(24 * 4)]
        zoned = pa.types.is_timestamp(kind) and kind.tz
        values = [str(hour.replace(tzinfo=None)) for hour in hours] if kind == pa.string() else hours
        columns = {"day": pa.array(values, kind), "user": pa.array(range(len(hours)))}
        for part in np.array_split(np.arange(len(hours)), 3):
            self.append(table, pa.table(columns).take(part))
        for day in (date(2024, 3, 30), date(2024, 3, 31)):  # on the second one clocks are changed in Berlin
            found, provenance = self.read(self.source(table, day="day"), spill, day=day, zone=zone)
            local = [hour.astimezone(ZoneInfo(zone)).date() if zoned else hour.date() for hour in hours]
            assert found["user"].to_pylist() == [user for user, of in enumerate(local) if of == day]
            (one,) = provenance.tables
            assert (one.rows_of_day, one.newest, one.newest_until_day) == (found.num_rows, max(local), day)

    @pytest.mark.parametrize("damage", ["empty", "cut", "text", "footer", "gone"])
    def test_a_damaged_file_is_named_in_one_sentence(self, table: Path, spill: Path, damage: str) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array(np.arange(300))), rows_of(DAY, pa.array([-1]))])
        _, provenance = self.read(source, spill)
        named = max(provenance.tables[0].files, key=lambda file: file.rows).path
        path = Path(named.removeprefix("file://"))
        whole = path.read_bytes()
        damages = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "text": b"user,x\n1,2\n" * 20,
            "footer": whole[:-100] + bytes(92) + whole[-8:],
        }
        path.unlink()
        if damage in damages:
            path.write_bytes(damages[damage])
        with pytest.raises(SourceError, match="is not there any more" if damage == "gone" else "is damaged") as refused:
            self.read(source, spill)
        assert named in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_text_that_is_no_date_is_a_sentence(self, table: Path, spill: Path) -> None:
        self.append(table, pa.table({"day": ["2024-03-10", "soon"], "user": [1, 2]}))
        with pytest.raises(SourceError, match=r"a value of the day day is no date \(.*soon.*\); correct it\.$"):
            self.read(self.source(table, day="day"), spill)
