"""A function that is applied to the rows of another source, on processes of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from typing_extensions import override

from batch_assets.errors import BadKeys, SourceError
from batch_assets.features.provenance import Provenance
from batch_assets.features.snapshot import write_snapshot
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.sources.python.crew import applied
from batch_assets.sources.python_source import PythonSource
from batch_assets.sources.source import Source
from batch_assets_tests.servers.server import wait_until_ended
from batch_assets_tests.sources.source_behaviour import DAY, SourceBehaviour, _Features
from batch_assets_tests.sources.test_source_behaviour import written

pytestmark = pytest.mark.process

HERE = "batch_assets_tests.sources.preprocessing"
ROWS = 40

Ask = Callable[..., tuple[pa.Table, Provenance]]


class TestPython(SourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        written(folder, parts)
        return PythonSource(
            source=ParquetSource(path=str(folder), day="day"), function=f"{HERE}:same", workers=1, batch_rows=100
        )


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Applies a function to users 0 to 39, in the order of their numbers, and their texts."""
    (tmp_path / "table").mkdir()
    texts = pa.array([" ".join(["word"] * (user % 5 + 1)) for user in range(ROWS)])
    pq.write_table(pa.table({"user": range(ROWS), "text": texts}), tmp_path / "table" / "0.parquet")

    def ask(function: str, workers: int = 1, batch_rows: int = 4, modules: Sequence[str] = ()) -> tuple[pa.Table, Provenance]:
        inner = ParquetSource(path=str(tmp_path / "table"))
        source = PythonSource(source=inner, function=function, workers=workers, batch_rows=batch_rows, modules=tuple(modules))
        return SourceBehaviour.read(source, tmp_path)

    return ask


def test_rows_are_what_the_function_makes_of_them(ask: Ask) -> None:
    found, _ = ask(f"{HERE}:words", workers=2)
    assert found.schema.names == ["user", "text", "words"]
    assert found["user"].to_pylist() == list(range(ROWS))
    assert found["words"].to_pylist() == [user % 5 + 1 for user in range(ROWS)]


def test_it_may_leave_rows_out_and_give_more_of_one(ask: Ask, tmp_path: Path) -> None:
    found, _ = ask(f"{HERE}:twice_and_odd")
    assert found["user"].to_pylist() == [user for user in range(ROWS) if user % 2 for _ in range(2)]
    source = PythonSource(source=ParquetSource(path=str(tmp_path / "table")), function=f"{HERE}:twice_and_odd", workers=1)
    (tmp_path / "snapshot").mkdir()
    with (
        pytest.raises(BadKeys, match="user is there twice: 1;"),
        source.read(DAY.isoformat(), ["user"], tmp_path) as read,
    ):
        write_snapshot(tmp_path / "snapshot", read.rows, ["user"], 100)


def test_it_holds_what_the_source_holds_that_it_reads() -> None:
    read = ParquetSource(path="/data/table", memory_limit="512MiB")
    assert PythonSource(source=read, function=f"{HERE}:words").held() == read.held() == 512 << 20


def test_it_runs_on_so_many_processes_and_none_of_them_is_this(ask: Ask) -> None:
    found, _ = ask(f"{HERE}:process", workers=2, batch_rows=1)
    assert os.getpid() not in set(found["process"].to_pylist())
    assert 1 <= len(set(found["process"].to_pylist())) <= 2


def test_no_more_batches_are_under_way_than_its_processes_need() -> None:
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for user in range(9):
            taken += 1
            yield pa.RecordBatch.from_pydict({"user": [user]})

    with applied(f"{HERE}:same", batches(), pa.schema({"user": pa.int64()}), ["user"], workers=1) as rows:
        found = [(batch["user"].to_pylist(), taken) for batch in rows]
    assert found == [([user], min(user + 2, 9)) for user in range(9)]


@pytest.mark.parametrize(("batch_rows", "lengths"), [(16, {16: 32, 8: 8}), (100, {40: 40})])
def test_batches_are_cut_the_same_way_every_time(ask: Ask, batch_rows: int, lengths: dict[int, int]) -> None:
    found, _ = ask(f"{HERE}:length", batch_rows=batch_rows)
    assert {length: found["length"].to_pylist().count(length) for length in lengths} == lengths


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("raises", r"preprocessing:raises fails on the batch that begins with the key 4: Refused: 7 is refused: it is odd\.$"),
        ("leaves", r"preprocessing:leaves fails on a batch without rows: SystemExit: 3\.$"),
        ("dies", r"A process of .*preprocessing:dies ended while the batch that begins with the key \d+, or one near it, was"),
        (
            "other_types",
            r"other_types gives user int64, text string, sum int64 for some rows and .*, sum null for a batch",
        ),
        ("backwards", r"backwards fails on the batch that begins with the key 0: it gives rows in another order of user than"),
        ("negative", r"negative fails on the batch that begins with the key 4: it gives rows in another order of user than"),
        ("without_key", r"preprocessing:without_key does not give the key user, only text\.$"),
        ("table", r"fails on a batch without rows: it gives a Table, and must give a pyarrow\.RecordBatch\.$"),
        ("nothing", r"nothing fails on a batch without rows: AttributeError: module .* has no attribute 'nothing'\.$"),
    ],
)
def test_a_function_that_does_not_do_what_it_must_is_a_sentence(ask: Ask, function: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence) as told:
        ask(f"{HERE}:{function}")
    assert "\n" not in str(told.value)


def test_a_day_without_rows_has_the_columns_that_the_function_makes(ask: Ask, tmp_path: Path) -> None:
    there, _ = ask(f"{HERE}:words")
    pq.write_table(pq.read_table(tmp_path / "table" / "0.parquet").slice(0, 0), tmp_path / "table" / "0.parquet")
    found, _ = ask(f"{HERE}:words")
    assert (found.num_rows, found.schema) == (0, there.schema)


class TestCode:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A module of the test's own, and one that it uses."""
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "own_vocabulary.py").write_text("WORD = 'word'\n")
        path = tmp_path / "lib" / "own_function.py"
        path.write_text("def same(batch):\n    return batch\n")
        monkeypatch.syspath_prepend(str(tmp_path / "lib"))
        return path

    def test_what_it_is_decides_the_digest_and_is_kept(self, ask: Ask, module: Path) -> None:
        said = ("own_function:same", 1, 4, ["own_vocabulary"])
        _, one = ask(*said)
        assert ask(*said)[1] == one
        assert one.tables[0].pinned.startswith("own_function:same ")
        found = [one]
        module.write_text("def same(batch):\n    return batch.slice(1)\n")
        found.append(ask(*said)[1])
        (module.parent / "own_vocabulary.py").write_text("WORD = 'other'\n")
        found.append(ask(*said)[1])
        assert len({one.settings_sha256 for one in found}) == len({one.tables[0].pinned for one in found}) == 3

    def test_code_that_is_changed_while_it_runs_is_told_of(self, module: Path, tmp_path: Path, ask: Ask) -> None:
        source = PythonSource(source=ParquetSource(path=str(tmp_path / "table")), function="own_function:same", workers=1)
        with (
            pytest.raises(SourceError, match=r"The code of own_function:same was changed while it ran; run the day again\.$"),
            source.read(DAY.isoformat(), ["user"], tmp_path),
        ):
            module.write_text("def same(batch):\n    return batch.slice(1)\n")

    @pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module", "sys"], indirect=False)
    def test_a_module_that_is_not_there_is_a_sentence(self, ask: Ask, module: str) -> None:
        with pytest.raises(SourceError, match=rf"^The module {module} .*install its package where this runs"):
            ask(f"{module}:f")

    @pytest.mark.parametrize("function", ["f", "module.f", "module:", "module:f()", "a/b.py:f"])
    def test_what_is_no_name_of_a_function_is_refused(self, function: str) -> None:
        with pytest.raises(ValidationError, match="function"):
            PythonSource(source=ParquetSource(path="x"), function=function)


def test_processes_end_with_the_one_that_started_them(ask: Ask, tmp_path: Path) -> None:
    script, begun = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(f"""
from pathlib import Path
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.sources.python.crew import applied
from batch_assets.sources.python_source import PythonSource

if __name__ == "__main__":
    source = PythonSource(source=ParquetSource(path={str(tmp_path / "table")!r}), function="{HERE}:waits", workers=2)
    with source.read("2024-03-10", ["user"], Path({str(tmp_path)!r})) as read:
        read.rows.read_all()
""")
    environment = {**os.environ, "BEGUN": str(begun), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as started:
        deadline = time.monotonic() + 60
        while not begun.exists() and started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGKILL)
    assert children
    assert wait_until_ended(children, 60) == []


def test_a_schema_of_settings_has_an_end() -> None:
    (within,) = [
        one["properties"]["source"]
        for one in _Features.model_json_schema()["properties"]["source"]["anyOf"]
        if "function" in one.get("properties", {})
    ]
    assert within["required"] == ["kind"]
