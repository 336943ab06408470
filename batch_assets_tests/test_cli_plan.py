"""`batch-assets plan` as its users run it."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from batch_assets_tests.conftest import PROJECT, Command

pytestmark = pytest.mark.process

PIPELINE = "customer_propensity"
FIGURES = ("--rows", "500e6", "--deadline", "6h", "--batch-size", "256", "--batch-ms", "50", "--gpus")


@pytest.fixture
def bare(tmp_path: Path) -> Command:
    """The command where there is nothing: no model, no night."""
    return Command(tmp_path / "root", tmp_path)


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory, trained_root: Path) -> Command:
    """Three nights of the demo; its tests only read."""
    folder = tmp_path_factory.mktemp("nights")
    shutil.copytree(trained_root, folder / "root")
    (folder / "home").mkdir()
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", folder / "home")
    command = Command(folder / "root", folder / "home")
    done = command.run("run", PIPELINE, "--from", "1998-06-24", "--to", "1998-06-26", "--engine", "local")
    assert done.returncode == 0, done.stderr
    return command


def answer(command: Command, *arguments: str) -> dict[str, Any]:
    done = command.run("plan", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestFigures:
    def test_half_a_billion_rows_on_eight_gpus_fit_six_hours(self, bare: Command) -> None:
        shown = bare.run("plan", *FIGURES, "8").stdout
        assert "12,207 s a worker (GPU) = 3.4 h." in shown
        assert "It fits: at most 3.4 h of 6.0 h (57%)." in shown
        found = answer(bare, *FIGURES, "8")
        assert (found["rows"], found["workers"], found["fits"], found["workers_needed"]) == (500_000_000, 8, True, 5)

    def test_a_deadline_that_is_not_held_is_exit_status_1(self, bare: Command) -> None:
        done = bare.run("plan", *FIGURES, "4")
        assert done.returncode == 1
        assert "It does not fit: 6.8 h to 6.8 h of 6.0 h; 5 workers are enough." in done.stderr
        assert json.loads(bare.run("plan", *FIGURES, "4", "--json").stdout)["error"]

    def test_played_nights_are_drawn(self, bare: Command, tmp_path: Path) -> None:
        money = ("--per-hour", "3", "--spot-per-hour", "1", "--preemptions-per-hour", "0.1")
        played = ("--simulate", "20", "--seed", "1", "--picture", str(tmp_path / "plan.svg"))
        found = answer(bare, *FIGURES, "8", *money, *played)
        assert found["cost"]["spot"]["cost"]["value"] < found["cost"]["on_demand"]["value"]
        assert found["simulated"]["low"] <= found["simulated"]["median"] <= found["simulated"]["high"]
        assert ElementTree.parse(tmp_path / "plan.svg").getroot().tag.endswith("svg")
        assert answer(bare, *FIGURES, "8", *money, *played) == found, "the same seed"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--rows", "5"), "Say a PIPELINE, or --rows, --batch-size, --batch-ms and --gpus."),
            ((*FIGURES, "8", "--check"), "Say a PIPELINE"),
            ((PIPELINE, "--batch-ms", "5"), "A PIPELINE has its own rates"),
            ((*FIGURES, "8", "--spot-per-hour", "1"), "come beside --per-hour"),
            ((*FIGURES, "8", "--per-hour", "2", "--spot-per-hour", "1"), "need each other"),
            ((*FIGURES, "8", "--picture", "x.svg"), "it needs --simulate"),
            (("--rows", "many"), "'many' is no number of rows"),
            (("--rows", "inf"), "'inf' is no number of rows"),
            (("--rows", "1e400"), "'1e400' is no number of rows"),
            (("--rows", "nan"), "'nan' is no number of rows"),
            (("--deadline", "soon"), "'soon' is no length of time"),
            (("--deadline", "..h"), "'..h' is no length of time"),
            (("--deadline", "1.2.3h"), "'1.2.3h' is no length of time"),
            (("--deadline", "0m"), "'0m' is no length of time"),
            (("--batch-ms", "nan"), "'nan' is no number"),
            (("--per-hour", "inf"), "'inf' is no number"),
        ],
    )
    def test_what_does_not_fit_together_is_exit_status_2(self, bare: Command, arguments: tuple[str, ...], said: str) -> None:
        done = bare.run("plan", *arguments)
        assert done.returncode == 2
        assert said in done.stderr


class TestAPipeline:
    def test_without_a_night_it_says_what_to_do(self, bare: Command) -> None:
        done = bare.run("plan", PIPELINE)
        assert done.returncode == 1
        assert (
            f"No night of {PIPELINE} was measured yet: `batch-assets run {PIPELINE} --partition DAY` makes one" in done.stderr
        )

    def test_a_night_is_planned_by_the_nights_before(self, three_nights: Command) -> None:
        found = answer(three_nights, PIPELINE, "--deadline", "6h")
        assert (found["nights"], found["rows"], found["unmeasured"], found["fits"]) == (3, found["largest"], [], True)
        assert found["total"]["value"] == pytest.approx(sum(one["value"] for one in found["seconds"].values()))
        assert found["sizes"].keys() == {"snapshot", "predictions", "release in arrow"}
        shown = three_nights.run("plan", PIPELINE, "--rows", "1e6").stdout
        for said in (
            "features",
            "publishing",
            "total",
            "memory of the process that drives",
            "gives out first",
            "this is a guess",
        ):
            assert said in shown

    def test_several_workers_of_threads_are_machines(self, three_nights: Command) -> None:
        shown = three_nights.run("plan", PIPELINE, "--workers", "8").stdout
        assert "with 8 machines (threads of one process)" in shown
        assert "8 machines such as the one measured are meant, with engine ray or spark" in shown

    def test_it_is_played(self, three_nights: Command) -> None:
        found = answer(three_nights, PIPELINE, "--simulate", "50")["simulated"]
        assert 0 < found["low"] <= found["high"]

    def test_plans_are_compared_with_the_nights_that_came(self, three_nights: Command) -> None:
        done = three_nights.run("plan", PIPELINE, "--check", "--json")
        found = json.loads(done.stdout)
        assert [one["day"] for one in found["compared"]] == ["1998-06-25", "1998-06-26"]
        assert found["within"] == sum(one["within"] for one in found["compared"])
        shown = three_nights.run("plan", PIPELINE, "--check").stdout
        assert "nights within the interval, which is to hold 90 %." in shown
