"""Where a day's answers lie: the files that count and no others, and a view of DuckDB's that follows what is live."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from batch_assets import cli
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import CommitBroken, NoPrediction, NotPublishable
from batch_assets.nightly import night as night_module
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import replay
from batch_assets.operations.path import Paths, paths, write_view
from batch_assets.operations.releases import go_back
from batch_assets.orchestration import catalog
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.nights import DAYS
from batch_assets_tests.small import Small, rows, with_values

Make = Callable[..., Small]


def found(small: Small, day: str | None = None) -> Paths:
    return paths(small.config, small.storage, small.registry, day)


class View:
    """A view that was written once, and is read over a new connection each time."""

    def __init__(self, small: Small, folder: Path) -> None:
        self.file = folder / "small.sql"
        write_view(small.storage, "small", self.file)

    def ask(self, query: str) -> list[Any]:
        with duckdb.connect() as connection:
            connection.execute(self.file.read_text())
            return connection.execute(query).fetchall()


@pytest.fixture
def two_days(make_small: Make) -> Small:
    small = make_small(rows(600))
    for day in DAYS[:2]:
        small.night(day)
    return small


def test_all_rows_once_of_what_is_live_or_of_a_day(two_days: Small) -> None:
    folder = Path(found(two_days).predictions[0]).parent
    (folder / "chunk-00099.parquet").write_bytes(b"no file of the manifest's")
    for day, expected in [(None, DAYS[1]), (DAYS[0], DAYS[0])]:
        answers = found(two_days, day)
        frame = pd.concat(map(pd.read_parquet, answers.predictions))
        assert answers.partition == expected
        assert (answers.rows, frame["user"].tolist()) == (600, list(range(1, 601)))
        assert answers.release is not None
        with pa.memory_map(answers.release) as file:
            table = pa.ipc.open_file(file).read_all()
        assert table["probability"].to_pylist() == frame["probability"].tolist()
        assert answers.export is None


def test_there_is_nothing(make_small: Make) -> None:
    small = make_small(rows(300))
    with pytest.raises(NoPrediction, match="Nothing of small has been published"):
        found(small)
    with pytest.raises(NotPublishable, match=f"No run of small {DAYS[0]} is accepted"):
        found(small, DAYS[0])


def test_a_file_is_missing(two_days: Small) -> None:
    Path(found(two_days).predictions[1]).unlink()
    with pytest.raises(CommitBroken, match=r"chunk-00001\.parquet is missing"):
        found(two_days)


class TestView:
    def test_it_follows_what_is_live_and_needs_no_other(self, make_small: Make, tmp_path: Path) -> None:
        small = make_small(rows(600))
        view = View(small, tmp_path)
        with pytest.raises(duckdb.IOException, match="No files found"):
            view.ask("FROM small")
        for day in DAYS[:3]:
            small.night(day)
            assert view.ask("SELECT DISTINCT partition FROM small") == [(day,)]
        assert view.ask("SELECT count(*), count(DISTINCT user), min(user), max(user) FROM small") == [(600, 600, 1, 600)]
        go_back(small.config, small.storage, small.registry, "prices were wrong")
        assert view.ask("SELECT DISTINCT partition FROM small") == [(DAYS[1],)]

    def test_it_has_the_columns_of_the_predictions(self, two_days: Small, tmp_path: Path) -> None:
        columns = [name for name, *_ in View(two_days, tmp_path).ask("DESCRIBE small")]
        assert columns == ["user", "probability", "decile", "label", "model_version", "partition"]

    def test_an_entry_that_is_missing_is_an_error_and_never_an_older_day(self, two_days: Small, tmp_path: Path) -> None:
        two_days.storage.local_path("small/serving/_current/000002.json").unlink()
        with pytest.raises(duckdb.InvalidInputException, match="another release of small went live, and its entry is missing"):
            View(two_days, tmp_path).ask("FROM small")

    def test_rows_that_were_replayed_come_with_their_release(
        self, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small, flag = make_small(with_values(rows(2_000), "x", {5: 77.0})), tmp_path / "library is broken"
        flag.touch()
        real = night_module.PredictorLoader
        monkeypatch.setattr(night_module, "PredictorLoader", lambda *args: Faulty(real(*args), "broken", 77.0, str(flag)))
        freeze(small.config, small.storage, DAYS[0], small.progress)
        manifest = score(small.opened(DAYS[0]), LocalEngine(), small.progress).manifest
        judge(small.opened(DAYS[0]))
        publish(small.opened(DAYS[0]), small.progress)
        flag.unlink()
        replay(small.config, small.storage, small.registry, manifest.folder, LocalEngine(), small.progress)
        view = View(small, tmp_path)
        assert (found(small).rows, view.ask("SELECT count(*) FROM small")) == (1_999, [(1_999,)]), "as it went live"
        judge(small.opened(DAYS[0]))
        publish(small.opened(DAYS[0]), small.progress)
        assert (found(small).rows, view.ask("SELECT count(*) FROM small")) == (2_000, [(2_000,)])
        assert len(found(small, DAYS[0]).predictions) == len(manifest.files) + 1


class TestCommand:
    @pytest.fixture
    def printed(
        self, make_small: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> Iterator[Callable[..., str]]:
        small = make_small(rows(600), export={"shards": 4})
        small.night(DAYS[0])
        monkeypatch.setattr(catalog, "pipeline", {"small": small.config}.__getitem__)
        monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)
        capfd.readouterr()

        def printed(*arguments: str) -> str:
            cli.main(["path", "small", *arguments], standalone_mode=False)
            return capfd.readouterr().out

        before = signal.getsignal(signal.SIGTERM)  # the command has a handler of its own
        yield printed
        signal.signal(signal.SIGTERM, before)

    def test_a_path_a_line_is_what_a_shell_hands_on(self, printed: Callable[..., str]) -> None:
        files = printed().splitlines()
        assert len(files) == 3
        assert len(pd.concat(map(pd.read_parquet, files))) == 600
        assert printed("--partition", DAYS[0]).splitlines() == files
        assert json.loads(printed("--json"))["predictions"] == files

    def test_the_release_and_the_export(self, printed: Callable[..., str]) -> None:
        with pa.memory_map(printed("--of", "release").strip()) as file:
            assert pa.ipc.open_file(file).read_all().num_rows == 600
        assert len(pd.read_parquet(printed("--of", "export").strip())) == 600

    def test_a_view(self, printed: Callable[..., str], tmp_path: Path) -> None:
        file = tmp_path / "view.sql"
        assert printed("--view", str(file)) == f"{file}\n"
        with duckdb.connect() as connection:
            connection.execute(file.read_text())
            assert connection.execute("SELECT count(*) FROM small").fetchall() == [(600,)]
        with pytest.raises(click.UsageError, match="leave --partition out"):
            printed("--view", str(file), "--partition", DAYS[0])

    def test_there_is_no_export(self, printed: Callable[..., str], make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        config = make_small(rows(10)).config
        monkeypatch.setattr(catalog, "pipeline", {"small": config}.__getitem__)
        with pytest.raises(click.ClickException, match="has no export: it needs `export` in the YAML"):
            printed("--of", "export")
