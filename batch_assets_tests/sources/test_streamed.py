"""Rows that come in any order are put in order; what is raised while they come arrives as it was raised."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceTable
from batch_assets.ports import Port
from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.sources.source import Source
from batch_assets.sources.streamed import Streamed, StreamedSource
from batch_assets_tests.sources.source_behaviour import DAY, SourceBehaviour, rows_of


def settled(limit: str) -> str:
    """What DuckDB says that a limit is."""
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{limit}'")
        (found,) = connection.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    return str(found)


class HeapSource(StreamedSource):
    """Rows in an Arrow file, of a kind that only tests have; it fails after `fails_after` batches.

    If it `counts`, it does not know how many rows there are before the last one.
    """

    kind: Literal["heap"] = "heap"
    path: str
    fails_after: int | None = None
    counts: bool = False

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
            rows=0 if self.counts else len(table),
            event_date="day",
            newest=pc.max(day_of).as_py(),
            newest_until_day=pc.max(day_of.filter(pc.less_equal(day_of, wanted))).as_py(),
            rows_of_day=len(of_day),
        )

        came = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal came
            for number, batch in enumerate(of_day.to_batches(max_chunksize=2)):
                if number == self.fails_after:
                    raise SourceError("The heap fell over; build it again.")
                came += len(batch)
                yield batch

        rows = pa.RecordBatchReader.from_batches(of_day.schema, batches())
        yield Streamed(rows, known, counted=lambda: {"rows": came} if self.counts else {})


def heap(folder: Path, parts: Sequence[pa.Table], **said: int) -> HeapSource:
    path = folder / "heap.arrow"
    if parts:
        whole = pa.concat_tables(parts)
        with pa.ipc.new_file(path, whole.schema) as file:
            file.write_table(whole)
    return HeapSource(path=str(path), **said)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    (tmp_path / "spill").mkdir()
    return tmp_path / "spill"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package brought it."""
    monkeypatch.setattr(Port, "adapter", lambda port, kind: HeapSource)


class TestStreamed(SourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        return heap(folder, parts)

    def test_what_is_raised_while_rows_come_arrives_as_itself(self, table: Path, spill: Path) -> None:
        source = heap(table, [rows_of(DAY, pa.array(range(9)))], fails_after=2)
        with pytest.raises(SourceError, match=r"^The heap fell over; build it again\.$"):
            self.read(source, spill)

    def test_what_is_known_when_the_last_row_has_come_is_told(self, table: Path, spill: Path) -> None:
        source = heap(table, [rows_of(DAY, pa.array(range(9)))], counts=True)
        with source.read(DAY.isoformat(), ["user"], spill) as read:
            assert read.provenance.tables[0].rows == 9
            assert read.rows.read_all()["user"].to_pylist() == list(range(9))

    def test_a_limit_of_memory_that_is_none_is_a_sentence(self, table: Path, spill: Path) -> None:
        source = heap(table, [rows_of(DAY, pa.array([1]))]).model_copy(update={"memory_limit": "much"})
        with pytest.raises(SourceError, match=r"^The rows of heap cannot be put in order: .*Memory must have a number.*\.$"):
            self.read(source, spill)

    @pytest.mark.parametrize("limit", ["4GB", "1.5 gib", ".5G", "512MB", "3TiB"])
    def test_it_holds_what_the_limit_says_to_duckdb(self, tmp_path: Path, limit: str) -> None:
        held = heap(tmp_path, []).model_copy(update={"memory_limit": limit}).held()
        assert held is not None
        number, unit = settled(limit).split()
        said = float(number) * 1024 ** ("KiB", "MiB", "GiB", "TiB").index(unit) * 1024
        assert held == pytest.approx(said, rel=0.1)  # it says one digit behind the point, and no other is above

    @pytest.mark.parametrize("limit", ["80%", "none", "much"])
    def test_of_a_share_of_the_machine_it_does_not_say(self, tmp_path: Path, limit: str) -> None:
        assert heap(tmp_path, []).model_copy(update={"memory_limit": limit}).held() is None


class TestTableOfAQuery:
    """A source with its kind under `tables` of the duckdb source."""

    @staticmethod
    def query(folder: Path, text: str, parts: Sequence[pa.Table], **said: int) -> DuckdbSource:
        path = folder / "query.sql"
        path.write_text(text)
        pq.write_table(pa.table({"user": [1, 2, 3], "name": ["a", "b", "c"]}), folder / "names.parquet")
        names = {"path": str(folder / "names.parquet")}
        return DuckdbSource.model_validate(
            {"query": str(path), "tables": {"spent": heap(folder, parts, **said).model_dump(), "names": names}}
        )

    def test_it_is_joined_with_files(self, table: Path, spill: Path) -> None:
        text = "SELECT user, name, x FROM spent JOIN names USING (user) WHERE $partition IS NOT NULL"
        source = self.query(table, text, [rows_of(DAY, pa.array([3, 1]))])
        found, provenance = SourceBehaviour.read(source, spill)
        assert found.to_pydict() == {"user": [1, 3], "name": ["a", "c"], "x": [0.125, 0.0]}
        assert [(one.name, one.rows) for one in provenance.tables] == [("spent", 2), ("names", 3)]
        assert source.table_names() == ("spent", "names")
        assert list(spill.iterdir()) == []

    def test_it_may_be_read_twice_by_one_query(self, table: Path, spill: Path) -> None:
        text = "SELECT user, (SELECT count(*) FROM spent) AS n FROM spent WHERE $partition IS NOT NULL"
        found, _ = SourceBehaviour.read(self.query(table, text, [rows_of(DAY, pa.array([3, 1]))]), spill)
        assert found.to_pydict() == {"user": [1, 3], "n": [2, 2]}

    def test_what_is_raised_while_rows_come_arrives_as_itself(self, table: Path, spill: Path) -> None:
        source = self.query(
            table, "SELECT user FROM spent WHERE $partition IS NOT NULL", [rows_of(DAY, pa.array(range(9)))], fails_after=1
        )
        with pytest.raises(SourceError, match=r"^The heap fell over; build it again\.$"):
            SourceBehaviour.read(source, spill)

    def test_a_kind_that_is_none_is_told(self, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        with pytest.raises(ValueError, match="There is no table of the kind 'pile'"):
            DuckdbSource.model_validate({"query": "q.sql", "tables": {"spent": {"kind": "pile"}}})
