"""The comparison's own tests: what is compared with what, and whether all of it is shown."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import batch_assets
from batch_assets.engines.auto_engine import AutoEngine
from batch_assets.engines.engine import EngineSettings
from batch_assets.orchestration.resources import Engines

BENCHMARKS = Path(batch_assets.__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def made_of(engine: Any) -> Any:
    """What an engine is, without its connection."""
    parts = {name: value for name, value in vars(engine).items() if name != "_connection"}
    return type(engine), {name: made_of(one) if hasattr(one, "open") else one for name, one in parts.items()}


def test_ours_is_scored_by_the_engine_of_a_night_for_which_nobody_says_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import subjects

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    taken: list[Any] = []
    monkeypatch.setattr(subjects, "_ours", lambda workload, engine: taken.append(engine))
    subjects.ours(subjects.Job(None, 0, Path(), subjects.Settings()))
    assert made_of(taken[0]) == made_of(Engines().engine(EngineSettings()))
    assert isinstance(taken[0], AutoEngine)


def report_of(names: list[str]) -> dict[str, Any]:
    import bench

    rates = {name: bench._rates(1_000, [2.0 + number], [1.0]) for number, name in enumerate(names)}
    return {"rows": 1_000, "rounds": 1, "machine": {"cores": 2}, **rates, "forward_only": {"steady_rows_per_s": 5_000.0}}


def test_the_table_shows_every_subject_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    import report
    from subjects import PIPELINES

    assert list(report._TITLES) == [*PIPELINES, "forward_only", "stages"]
    report.print_table(report_of(list(PIPELINES)))
    rows = {line.split("  ")[0].strip(): line.split()[-6:] for line in capsys.readouterr().out.splitlines()}
    assert rows["batch-assets"] == ["800", "1.00", "2.0", "1.00", "1.0", "1.00"]
    assert rows["Daft"] == ["160", "5.00", "6.0", "3.00", "1.0", "1.00"]
    assert rows["model alone"][-2:] == ["5,000", "0.16"]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    import report

    report.draw(report_of(["ours", "daft"]), tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_threads_that_load_the_model_at_once_have_the_same_weights() -> None:
    from model import mlp

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: mlp(inplace=True), range(32)))
    assert len({next(model.parameters()).sum().item() for model in models}) == 1


class TestPackages:
    def test_they_are_installed_once_and_never_halfway(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import packages

        calls: list[list[str]] = []

        def pip(command: list[str], *, check: bool) -> None:
            calls.append(command)
            target = Path(command[command.index("--target") + 1])
            target.mkdir()
            (target / "half").touch()
            if len(calls) == 1:
                raise subprocess.CalledProcessError(1, command)

        monkeypatch.setattr(subprocess, "run", pip)
        with pytest.raises(subprocess.CalledProcessError):
            packages.of("daft", tmp_path)
        assert not list(tmp_path.iterdir())
        folder = packages.of("daft", tmp_path)
        assert folder == packages.of("daft", tmp_path)
        assert len(calls) == 2
        assert list(tmp_path.iterdir()) == [folder]

    def test_others_have_none(self, tmp_path: Path) -> None:
        import packages

        assert packages.of("ray_data", tmp_path) is None


@pytest.mark.process
@pytest.mark.long
def test_the_command_compares_the_default_engine_with_the_others(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--rows=2000", "--rounds=1", f"--data={tmp_path}", "--json"]
    done = subprocess.run([*command, "--subjects=ours,ours_local,forward_only"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for name in ("ours", "ours_local"):
        assert found[name]["total_rows_per_s"] == 2_000 / found[name]["total_s"]
        assert "steady_rows_per_s" in found[name]
    assert found["ours"]["predicted"] == found["ours_local"]["predicted"]
    assert found["forward_only"]["steady_rows_per_s"] > 0


@pytest.mark.process
@pytest.mark.long
def test_the_batcher_is_measured_beside_one_row_at_a_time(trained_root: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "batcher.py"), "--rows=2000", "--rounds=1", f"--root={trained_root}", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["subjects"]
    assert set(found) == {"one row at a time", "batcher of 64", "batcher of 256", "batcher of 1,024", "row by row in a loop"}
    for one in found.values():
        assert one["to_one_row_at_a_time"] == one["rows_per_s"] / found["one row at a time"]["rows_per_s"]


@pytest.mark.process
@pytest.mark.long
@pytest.mark.usefixtures("s3_gateway")
def test_the_control_plane_is_measured_in_a_folder_and_in_a_bucket() -> None:
    command = [sys.executable, str(BENCHMARKS / "control_plane.py"), "--rows=1500000", "--days=2", "--days-in-bucket=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert lines[0] == ["", "folder", "bucket", "bucket, 20 ms away"]
    rows = {name: figures for name, *figures in lines[2:]}
    assert all(float(figure) >= 0 for figure in rows["resume: listing and footers"])
    assert all(figures[0] and figures[1] for figures in rows.values())


@pytest.mark.process
@pytest.mark.long
def test_the_drivers_memory_is_measured_for_a_day_and_a_hundredth_of_it() -> None:
    command = [sys.executable, str(BENCHMARKS / "control_plane.py"), "--driver-memory", "--rows=20000000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| 200,000 rows | 20,000,000 rows |" in done.stdout
    assert [line.partition("|")[2].split("|")[0].strip() for line in done.stdout.splitlines()[2:]] == ["USS", "RSS"]


@pytest.mark.process
@pytest.mark.long
def test_nights_are_planned_before_they_are_made(tmp_path: Path) -> None:
    sizes = ["--train", "1e3", "2e3", "4e3", "--unseen", "3e3", "5e3"]
    command = [sys.executable, str(BENCHMARKS / "plan.py"), *sizes, "--columns=4", "--engine=local", f"--folder={tmp_path}"]
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [one["rows"] for one in found["nights"]] == [3_000, 5_000]
    for one in found["nights"]:
        low, high = one["planned"]["low"], one["planned"]["high"]
        assert one["within"] == (low <= one["took"] <= high)
        assert one["took"] < one["command"]
        assert one["took"] == pytest.approx(sum(took for _, took in one["stages"].values()))
