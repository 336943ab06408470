"""Rows that come in any order are put in order; what is raised while they come arrives as it was raised."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceTable
from batch_assets.sources.source import SOURCES, Source
from batch_assets.sources.streamed import Streamed, StreamedSource
from batch_assets_tests.sources.source_behaviour import DAY, SourceBehaviour, rows_of


class HeapSource(StreamedSource):
    """Rows in an Arrow file, of a kind that only tests have; it fails after `fails_after` batches."""

    kind: Literal["heap"] = "heap"
    path: str
    fails_after: int | None = None

    @property
    @override
    def table_name(self) -> str:
        return "heap"

    @override
    @contextmanager
    def streamed(self, day: str, spill: Path, timezone: str) -> Iterator[Streamed]:
        table = pa.ipc.open_file(self.path).read_all()
        day_of, wanted = table["day"], date.fromisoformat(day)
        of_day = table.filter(pc.equal(day_of, wanted)).drop_columns(["day"])
        known = SourceTable(
            name="heap",
            path=self.path,
            rows=len(table),
            event_date="day",
            newest=pc.max(day_of).as_py(),
            newest_until_day=pc.max(day_of.filter(pc.less_equal(day_of, wanted))).as_py(),
            rows_of_day=len(of_day),
        )

        def batches() -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(of_day.to_batches(max_chunksize=2)):
                if number == self.fails_after:
                    raise SourceError("The heap fell over; build it again.")
                yield batch

        yield Streamed(pa.RecordBatchReader.from_batches(of_day.schema, batches()), known)


def heap(folder: Path, parts: Sequence[pa.Table], **said: int) -> HeapSource:
    path = folder / "heap.arrow"
    if parts:
        whole = pa.concat_tables(parts)
        with pa.ipc.new_file(path, whole.schema) as file:
            file.write_table(whole)
    return HeapSource(path=str(path), **said)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package brought it."""
    monkeypatch.setattr(type(SOURCES), "adapter", lambda port, kind: HeapSource)


class TestStreamed(SourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        return heap(folder, parts)

    def test_what_is_raised_while_rows_come_arrives_as_itself(self, table: Path, spill: Path) -> None:
        source = heap(table, [rows_of(DAY, pa.array(range(9)))], fails_after=2)
        with pytest.raises(SourceError, match=r"^The heap fell over; build it again\.$"):
            self.read(source, spill)

    def test_a_limit_of_memory_that_is_none_is_a_sentence(self, table: Path, spill: Path) -> None:
        source = heap(table, [rows_of(DAY, pa.array([1]))]).model_copy(update={"memory_limit": "much"})
        with pytest.raises(SourceError, match=r"^The rows of heap cannot be put in order: .*Memory must have a number.*\.$"):
            self.read(source, spill)
