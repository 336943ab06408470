"""What every table does, told through the port alone; a table's own tests inherit it and say how one is made and read."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import TableError
from batch_assets.tables.table import Day, Rows, Table

DAY, NEXT = Day("churn", date(2024, 3, 10)), Day("churn", date(2024, 3, 11))
OTHERS = Day("other", DAY.partition)


def rows(day: Day = DAY, count: int = 1_000, release: str = "first", *, batch_rows: int = 300, **columns: Any) -> Rows:
    """Rows of every type that predictions can have; even keys, in batches."""
    random = np.random.default_rng(count)
    table = pa.table(
        {
            "user": pa.array([f"user-{2 * n:07d} 'ä\"" for n in range(count)]),
            "number": pa.array(random.integers(-(2**63), 2**63 - 1, count)),
            "day": pa.array([date(1, 1, 1) + timedelta(days=n) for n in range(count)], pa.date32()),
            "probability": np.where(np.arange(count) % 7, random.random(count), np.nan).astype(np.float32),
            "value": random.standard_normal(count),
            "decile": pa.array(random.integers(-128, 128, count), pa.int8()),
            "label": pa.array(np.array(["no", "yes"])[random.integers(0, 2, count)]),
            "scores": pa.array(random.random((count, 3)).astype(np.float32).tolist(), pa.list_(pa.float32())),
            **{name: pa.array(values) for name, values in columns.items()},
            "model_version": pa.repeat(pa.scalar("v1"), count),
            "pipeline": pa.repeat(pa.scalar(day.pipeline), count),
            "partition": pa.repeat(pa.scalar(day.partition, pa.date32()), count),
            "release": pa.repeat(pa.scalar(release), count),
        }
    )

    def require_equal(batches: Iterable[pa.RecordBatch]) -> None:
        found = in_order(pa.Table.from_batches(list(batches)).cast(table.schema))
        if not same(found, table):
            raise TableError("It is something else.")

    return Rows(day, release, count, table.schema, lambda: iter(table.to_batches(batch_rows)), require_equal)


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("pipeline", "ascending"), ("partition", "ascending"), ("user", "ascending")]).combine_chunks()


def same(one: pa.Table, other: pa.Table) -> bool:
    """Bit for bit, so that NaN is the same as itself."""
    pairs = zip(one.combine_chunks().columns, other.combine_chunks().columns, strict=True)
    return all(_bits(left).equals(_bits(right)) for left, right in pairs)


def _bits(column: pa.ChunkedArray) -> pa.Array:
    whole = pa.concat_arrays(column.chunks)
    if pa.types.is_floating(whole.type):
        return whole.view(pa.int32() if pa.types.is_float32(whole.type) else pa.int64())
    return whole


class TableBehaviour:
    """Inherit it, and give the fixture `table` and `read`, which reads a table by other means than its adapter."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> Iterator[Table]:
        """An empty place."""
        raise NotImplementedError

    def read(self, table: Table) -> pa.Table:
        """Everything that somebody else sees in a table."""
        raise NotImplementedError

    def seen(self, table: Table, *expected: Rows) -> None:
        """Whoever reads sees these rows, and nothing else."""
        schema = expected[0].schema
        found = in_order(self.read(table).select(schema.names).cast(schema))
        wanted = in_order(pa.Table.from_batches([batch for one in expected for batch in one.batches()], schema))
        assert found.num_rows == wanted.num_rows
        assert same(found, wanted)

    def test_a_day_of_a_table_that_is_not_there_has_no_release(self, table: Table) -> None:
        assert table.release(DAY) is None
        table.withdraw(DAY)
        assert table.release(DAY) is None

    def test_a_day_is_there_as_it_was_given_bit_for_bit(self, table: Table) -> None:
        some = rows()
        table.replace(some)
        assert table.release(DAY) == "first"
        assert table.release(NEXT) is None
        assert table.release(OTHERS) is None
        self.seen(table, some)

    def test_a_day_is_replaced_and_others_stay(self, table: Table) -> None:
        every = [rows(), rows(NEXT), rows(OTHERS, 50)]
        for one in every:
            table.replace(one)
        again = rows(count=700, release="second")
        table.replace(again)
        self.seen(table, again, *every[1:])
        assert [table.release(one.day) for one in (again, *every[1:])] == ["second", "first", "first"]

    def test_twice_is_once(self, table: Table) -> None:
        for _ in range(2):
            table.replace(rows())
        self.seen(table, rows())

    def test_a_withdrawn_day_is_out_and_others_stay(self, table: Table) -> None:
        for one in (rows(), rows(NEXT), rows(OTHERS)):
            table.replace(one)
        table.withdraw(DAY)
        assert table.release(DAY) is None
        self.seen(table, rows(NEXT), rows(OTHERS))
        table.replace(rows(release="again"))
        self.seen(table, rows(release="again"), rows(NEXT), rows(OTHERS))

    def test_a_failure_in_the_middle_leaves_what_was_there(self, table: Table) -> None:
        table.replace(rows())

        def broken() -> Iterator[pa.RecordBatch]:
            yield from list(good.batches())[:2]
            raise TableError("the disk is gone")

        good = rows(count=900, release="second")
        with pytest.raises(TableError, match="the disk is gone"):
            table.replace(Rows(DAY, "second", 900, good.schema, broken, good.require_equal))
        self.seen(table, rows())
        assert table.release(DAY) == "first"
        table.replace(good)
        self.seen(table, good)

    def test_what_was_written_is_read_back(self, table: Table) -> None:
        some = rows()

        def never(batches: Iterable[pa.RecordBatch]) -> None:
            assert sum(map(len, batches)) == some.count
            raise TableError("it is something else")

        with pytest.raises(TableError, match="something else"):
            table.replace(Rows(DAY, "first", some.count, some.schema, some.batches, never))

    def test_days_that_are_written_at_once_do_not_harm_each_other(self, table: Table) -> None:
        every = [rows(Day("churn", date(2024, 3, day)), 200 + day) for day in range(1, 5)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(table.replace, every))
        self.seen(table, *every)

    def test_a_day_that_two_write_at_once_is_there_once(self, table: Table) -> None:
        table.replace(rows(release="zeroth"))

        def write(_: int) -> None:
            try:
                table.replace(rows())
            except TableError:  # the other was first: whoever asks again finds it there
                assert table.release(DAY) in ("zeroth", "first")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, range(2)))
        self.seen(table, rows())

    def test_other_columns_are_refused_and_named(self, table: Table) -> None:
        table.replace(rows())
        with pytest.raises(TableError, match="weight"):
            table.replace(rows(NEXT, weight=np.ones(1_000)))
        self.seen(table, rows())

    def test_its_settings_can_be_written_down(self, table: Table) -> None:
        assert type(table).model_validate_json(table.model_dump_json()) == table
