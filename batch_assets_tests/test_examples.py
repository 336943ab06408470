"""The examples of the docs are followed to the letter, and their nights are stopped when their loads go wrong."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

from batch_assets.config import PipelineConfig
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.verdict import Verdict
from batch_assets.storage import LocalStorage
from batch_assets_tests.conftest import PROJECT
from batch_assets_tests.small import Quiet

pytestmark = pytest.mark.process

FLIGHTS = PROJECT / "docs" / "examples" / "flights"
SPEND = FLIGHTS.parent / "spend"
GOOD = [f"2013-02-{day:02d}" for day in range(7, 15)]
NIGHT = "2013-02-15"


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flights of fifty days, one file a day."""
    folder = tmp_path_factory.mktemp("rows") / "flights"
    command = [sys.executable, str(FLIGHTS / "make_rows.py"), "--days", "50", "--into", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def walked(folder: Path, example: Path, shorter: dict[str, str]) -> dict[str, str]:
    """What each command of an example's README prints, by its last word, in a copy of the project; some of it made shorter."""
    for name in ("batch_assets", "docs"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    (folder / ".dagster_home").mkdir()
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", folder / ".dagster_home")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "BATCH_ASSETS_ROOT")}
    environment["PYTHONPATH"] = str(folder)
    (commands,) = re.findall(r"^```\n(mkdir .*?)^```", (example / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    for one, other in shorter.items():
        assert one in commands
        commands = commands.replace(one, other)
    outputs = {}
    for line in commands.strip().splitlines():
        if " pip " in line:
            continue  # the tests have it
        done = subprocess.run(shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stderr
        outputs[line.split()[-1]] = done.stdout
        outputs[line.split()[1]] = done.stdout
    return outputs


@pytest.mark.long
def test_the_flights_are_walked_through(tmp_path: Path) -> None:
    """As the README of the example says, but for one day instead of sixty, and by a model of a few days."""
    shorter = {"2013-03-01": "2013-01-01", "flights/train.py": "flights/train.py --first 2013-03-25"}
    outputs = walked(tmp_path, FLIGHTS, shorter)
    assert re.search(r"AUC on 2013-04-06: 0\.[67]", outputs["2013-03-25"])
    assert "published" in outputs["2013-01-01"]
    assert "N14228" in outputs["N14228"]


@pytest.mark.long
def test_what_customers_spend_is_walked_through(tmp_path: Path) -> None:
    """A regression from YAML to an answer that can be explained: drift, audit and replay are of numbers, not of classes."""
    outputs = walked(tmp_path, SPEND, {"--from 1998-06-28": "--from 1998-06-29"})
    assert re.search(r"'mean': 3\.05.*'top_decile_share': 0\.[67]", outputs["docs/examples/spend/train.py"])
    assert outputs["run"].count("published") == 2
    for check in ("audit .* pass .* 320 rows scored again", "drift .* pass .* PSI", "ranks .* pass .* 23,570 keys"):
        assert re.search(check, outputs["verdict"]), outputs["verdict"]
    assert re.search(r"customer_id +42\s+value +0\.\d+\s+decile +\d", outputs["lookup"])
    assert re.search(r"prediction +value 0\.\d+, decile \d", outputs["explain"])
    assert "Equal bit for bit" in outputs["replay"]


class Loads:
    """The example's pipeline over a copy of the flights, of which some days may be loaded as they should not be."""

    def __init__(self, flights: Path, folder: Path) -> None:
        shutil.copytree(flights, folder / "flights")
        shutil.copytree(FLIGHTS, folder / "batch_assets" / "defs" / "late_planes")
        text = (FLIGHTS / "defs.yaml").read_text().replace("{{ context.project_root }}", str(folder))
        attributes = yaml.safe_load(text)["attributes"]
        attributes["quality"]["min_days"] = 7  # the good days here are days on which the windows are full
        self.config = PipelineConfig.model_validate(attributes)
        self.storage, self.rows = LocalStorage(str(folder / "data")), folder / "flights"

    def judged(self, day: str, *, refresh: bool = False) -> Verdict:
        return judge_features(self.config, self.storage, freeze(self.config, self.storage, day, Quiet(), refresh=refresh), day)

    def changed(self, query: str, day: str | None = None) -> None:
        """What the rows of a day, or of every day, are like from now on, in SQL over `rows`."""
        for path in self.rows.glob(f"{day or '*'}.parquet"):
            whole = path.with_suffix(".whole")
            path.rename(whole)
            duckdb.read_parquet(str(whole)).query("rows", query).write_parquet(str(path))
            whole.unlink()


@pytest.fixture(scope="session")
def good_days(flights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with eight days of the flights' features, all of them good."""
    folder = tmp_path_factory.mktemp("good_days")
    loads = Loads(flights, folder)
    for day in GOOD:
        verdict = loads.judged(day)
        assert verdict.good, [outcome.message for outcome in verdict.blocking]
        assert verdict.outcome("sources").passed, verdict.outcome("sources").message
    return folder / "data"


@pytest.fixture
def loads(flights: Path, good_days: Path, tmp_path: Path) -> Loads:
    shutil.copytree(good_days, tmp_path / "data")
    return Loads(flights, tmp_path)


def test_the_night_as_it_was_is_good(loads: Loads) -> None:
    verdict = loads.judged(NIGHT)
    assert verdict.good
    assert verdict.outcome("sources").passed
    assert 0.9 < verdict.outcome("sources").figures["flights_ratio"] < 1.1


HALF = "SELECT * FROM rows WHERE hash(tailnum, carrier, hour) % 2 = 0"
BAD_LOADS = {
    "half of the day": (HALF, NIGHT, r"sources: flights has 4\d\d rows of 2013-02-15, [45]\d% of the usual 9\d\d; at least "),
    "nothing of the day": (
        "SELECT * FROM rows LIMIT 0",
        NIGHT,
        "sources: flights has no row of 2013-02-15, the newest day is ",
    ),
    "seconds for minutes": (
        "SELECT * REPLACE (dep_delay * 60 AS dep_delay, air_time * 60 AS air_time) FROM rows",
        None,
        r"changes: .*air_time is about 60 times what it was",
    ),
    "kilometres for miles": (
        "SELECT * REPLACE (distance * 1.609344 AS distance) FROM rows",
        None,
        "feature_drift: distance is ",
    ),
}


@pytest.mark.parametrize("load", BAD_LOADS)
def test_a_bad_load_is_blocked_and_its_cause_is_named(loads: Loads, load: str) -> None:
    query, day, finding = BAD_LOADS[load]
    loads.changed(query, day)
    said = "; ".join(f"{one.name}: {one.message}" for one in loads.judged(NIGHT).blocking)
    assert re.search(finding, said), said


def test_three_nights_without_their_rows_are_all_blocked_until_they_are_loaded(loads: Loads) -> None:
    """The windows are as full as ever."""
    nights = [NIGHT, "2013-02-16", "2013-02-17"]
    whole = {day: (loads.rows / f"{day}.parquet").read_bytes() for day in nights}
    for day in nights:
        (loads.rows / f"{day}.parquet").unlink()
    for day in nights:
        assert f"no row of {day}, the newest day is {GOOD[-1]}" in loads.judged(day).outcome("sources").message
        assert loads.judged(day).outcome("sources").blocks
    for day in nights:
        (loads.rows / f"{day}.parquet").write_bytes(whole[day])
    for day in nights:
        assert loads.judged(day, refresh=True).good
