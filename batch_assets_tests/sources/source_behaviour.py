"""What every source does, whatever it reads: a pack of tests that knows the port alone."""

import os
import pickle
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.provenance import Provenance
from batch_assets.features.snapshot import write_snapshot
from batch_assets.sources.source import SOURCES, Source

DAY, BEFORE, AFTER = (date(2024, 3, day) for day in (10, 9, 11))
ROWS = 300


class _Features(BaseModel):
    source: Annotated[Source, SOURCES]


def rows_of(day: date, keys: pa.Array, **columns: pa.Array) -> pa.Table:
    """Rows of one day, with a value that says in which of them it stood."""
    x = pa.array(np.arange(len(keys)) / 8, pa.float32())
    return pa.table({"day": pa.array([day] * len(keys), pa.date32()), "user": keys, "x": x, **columns})


def shuffled(table: pa.Table, seed: int = 1) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(len(table)))


class SourceBehaviour:
    """Inherited by the tests of each source, which say how rows are put in place, and nothing else.

    `lacks` are columns of `test_types_and_values_are_kept` whose types the back end does not have.
    """

    lacks: ClassVar[frozenset[str]] = frozenset()

    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        """A source of tables with a column `day`, each in a file of its own (or one for each of its days), in this order.

        The source gives the rows of the partition's day, in all their columns but `day`.
        """
        raise NotImplementedError

    @pytest.fixture
    def spill(self, tmp_path: Path) -> Path:
        (tmp_path / "spill").mkdir()
        return tmp_path / "spill"

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        (tmp_path / "table").mkdir()
        return tmp_path / "table"

    @pytest.fixture
    def elsewhere(self) -> Iterator[None]:
        """The machine's clocks are on the other side of the world."""
        before = os.environ.get("TZ")
        os.environ["TZ"] = "Pacific/Auckland"
        time.tzset()
        yield
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()

    @staticmethod
    def read(
        source: Source, spill: Path, *, day: date = DAY, keys: Sequence[str] = ("user",), zone: str = "UTC"
    ) -> tuple[pa.Table, Provenance]:
        with source.read(day.isoformat(), keys, spill, zone) as read:
            return read.rows.read_all(), read.provenance

    @pytest.mark.parametrize(
        "keys",
        [
            pa.array([5, -3, 2**40, 0, -(2**40)]),
            pa.array([2, 10, 1], pa.int32()),
            pa.array(["b", "ä", "a", "B", "", "10", "9", "😀", "zz"]),
        ],
    )
    def test_rows_come_in_the_order_of_their_keys(self, table: Path, spill: Path, keys: pa.Array) -> None:
        found, _ = self.read(self.placed(table, [rows_of(DAY, keys)]), spill)
        assert found["user"].to_pylist() == sorted(
            keys.to_pylist(), key=lambda key: key.encode() if keys.type == "string" else key
        )
        stood = {key: place / 8 for place, key in enumerate(keys.to_pylist())}
        assert dict(zip(found["user"].to_pylist(), found["x"].to_pylist(), strict=True)) == stood

    def test_several_key_columns_are_in_order_one_after_the_other(self, table: Path, spill: Path) -> None:
        users, items = pa.array([2, 1, 2, 1, 1]), pa.array(["b", "c", "a", "b", "a"])
        found, _ = self.read(self.placed(table, [rows_of(DAY, users, item=items)]), spill, keys=["user", "item"])
        pairs = list(zip(found["user"].to_pylist(), found["item"].to_pylist(), strict=True))
        assert pairs == sorted(zip(users.to_pylist(), items.to_pylist(), strict=True))
        found, _ = self.read(self.placed(table, []), spill, keys=["item", "user"])
        pairs = list(zip(found["item"].to_pylist(), found["user"].to_pylist(), strict=True))
        assert pairs == sorted(zip(items.to_pylist(), users.to_pylist(), strict=True))

    def test_types_and_values_are_kept(self, table: Path, spill: Path) -> None:
        columns = {
            **{f"i{bits}": pa.array([-1, None, 2], getattr(pa, f"int{bits}")()) for bits in (8, 16, 32, 64)},
            "f32": pa.array([0.1, float("nan"), None], pa.float32()),
            "f64": pa.array([0.1, float("inf"), None], pa.float64()),
            "flag": pa.array([True, None, False]),
            "word": pa.array(["é", None, ""]),
            "born": pa.array([date(1, 1, 1), None, date(9999, 12, 31)]),
            "at": pa.array([datetime(2024, 3, 10, 2, 30), None, datetime(1969, 1, 1)], pa.timestamp("us")),
            "items": pa.array([[1, 2], [], None], pa.list_(pa.int64())),
            "vector": pa.array([[0.5], [1.5, None], None], pa.list_(pa.float32())),
        }
        columns = {name: column for name, column in columns.items() if name not in self.lacks}
        placed = rows_of(DAY, pa.array([1, 2, 3]), **columns)
        found, _ = self.read(self.placed(table, [placed]), spill)
        assert found.schema.names == [name for name in placed.schema.names if name != "day"]
        for name in found.schema.names:
            assert found.schema.field(name).type == placed.schema.field(name).type, name
            assert repr(found[name].to_pylist()) == repr(placed[name].to_pylist()), name

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_the_same_rows_are_the_same_however_they_lie_in_files(self, tmp_path: Path, spill: Path, seed: int) -> None:
        whole = rows_of(DAY, pa.array(np.arange(ROWS)))
        others = [rows_of(day, pa.array(np.arange(ROWS))) for day in (BEFORE, AFTER)]
        mixed = shuffled(whole, seed)
        cuts = np.sort(np.random.default_rng(seed).integers(0, ROWS, 4))
        pieces = [mixed.slice(start, end - start) for start, end in zip([0, *cuts], [*cuts, ROWS], strict=True)]
        for name, parts in {"one": [whole], "many": [others[1], *pieces, others[0]]}.items():
            (tmp_path / name).mkdir()
            found, provenance = self.read(self.placed(tmp_path / name, parts), spill)
            assert found.equals(whole.drop_columns(["day"])), name
            assert provenance.tables[0].rows_of_day == ROWS

    def test_a_day_without_rows_is_empty_and_has_its_columns(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(BEFORE, pa.array([1, 2])), rows_of(AFTER, pa.array([3]))])
        there, known = self.read(source, spill, day=BEFORE)
        found, provenance = self.read(source, spill)
        assert (found.num_rows, there.num_rows) == (0, 2)
        assert found.schema == there.schema
        (one,) = provenance.tables
        assert (one.rows_of_day, one.newest_until_day) == (0, BEFORE)
        assert (known.tables[0].rows_of_day, provenance.day) == (2, DAY)

    @pytest.mark.parametrize(
        ("keys", "sentence"),
        [
            (pa.array([4, None, 5]), r"user is null in 1 .*: leave such rows out"),
            (pa.array([4, 5, 4]), r"user is there twice: 4;"),
            (pa.array(["b", "a", "b"]), r"user is there twice: 'b';"),
        ],
    )
    def test_a_key_that_is_none_is_told(self, table: Path, spill: Path, tmp_path: Path, keys: pa.Array, sentence: str) -> None:
        (tmp_path / "snapshot").mkdir()
        source = self.placed(table, [rows_of(DAY, keys)])
        with pytest.raises(BadKeys, match=sentence) as told, source.read(DAY.isoformat(), ["user"], spill) as read:
            write_snapshot(tmp_path / "snapshot", read.rows, ["user"], 100)
        assert "\n" not in str(told.value)

    def test_a_key_that_is_no_column_is_told_of(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1]))])
        with pytest.raises(SourceError, match=r"does not give the key nobody, only user, x\.$"):
            self.read(source, spill, keys=["user", "nobody"])

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
    def test_clocks_change_no_row(self, table: Path, spill: Path, zone: str, elsewhere: None) -> None:
        parts = [
            rows_of(day, pa.array([1, 2]), at=pa.array([datetime(2024, 3, 10, 2, 30)] * 2)) for day in (BEFORE, DAY, AFTER)
        ]
        found, provenance = self.read(self.placed(table, parts), spill, zone=zone)
        assert found.equals(parts[1].drop_columns(["day"]))
        assert provenance.timezone == zone

    def test_a_provenance_names_its_tables(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2])), rows_of(BEFORE, pa.array([3, 4, 5]))])
        _, provenance = self.read(source, spill)
        (one,) = provenance.tables
        assert (one.name,) == source.table_names()
        assert (one.rows_of_day, one.newest, one.newest_until_day) == (2, DAY, DAY)
        assert Provenance.model_validate_json(provenance.model_dump_json()) == provenance

    def test_what_decided_the_rows_is_in_it_as_a_digest(self, tmp_path: Path, spill: Path) -> None:
        parts = [rows_of(DAY, pa.array([1, 2]))]
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        one, other = (self.placed(tmp_path / name, parts) for name in ("one", "other"))
        digests = [self.read(source, spill)[1].settings_sha256 for source in (one, one, other)]
        assert digests[0] == digests[1] != digests[2]
        assert {len(digest) for digest in digests} == {64}

    def test_nothing_is_left_of_a_read(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2]))])
        self.read(source, spill)
        with pytest.raises(ZeroDivisionError), source.read(DAY.isoformat(), ["user"], spill):
            raise ZeroDivisionError
        assert list(spill.iterdir()) == []

    def test_settings_come_through_dumps_and_processes(self, table: Path, spill: Path) -> None:
        source = self.placed(table, [rows_of(DAY, pa.array([1, 2]))])
        found, provenance = self.read(source, spill)
        dumped = _Features(source=source)
        others: list[Any] = [
            pickle.loads(pickle.dumps(source)),
            _Features.model_validate(dumped.model_dump()).source,
            _Features.model_validate_json(dumped.model_dump_json()).source,
        ]
        for other in others:
            assert (other, type(other)) == (source, type(source))
            assert self.read(other, spill) == (found, provenance)
