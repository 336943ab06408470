"""Which checks say something about real nights on which nothing was wrong: every one of them is a false alarm.

    python benchmarks/real_days.py [--from 1997-06-01] [--to 1998-06-30]
    python benchmarks/real_days.py --flights [--from 2013-01-01] [--to 2013-03-01] [--faults]

A model scores every day in turn, from nothing, in a folder of its own: freeze, judge, score, judge, publish, without Dagster.
One line a day says whether it was published, and which checks said something; exit status 1 if a day is blocked. The model
card's baseline is of one day of a population that ages. That `baseline` and `feature_baseline` warn of days that are far from
it is no false alarm; it is counted all the same.

With `--flights` it is the example of docs/examples/flights, whose own programs make its rows and its model. With `--faults`
some of its days are first loaded as they should not be: each has to be blocked, is loaded again as it should be, and goes on.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import yaml

from batch_assets.config import PipelineConfig
from batch_assets.demo import train as training
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.models.card import read_card
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import Verdict
from batch_assets.orchestration.catalog import pipeline
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.storage import Storage, open_storage

PROJECT = Path(__file__).parent.parent
EXAMPLE = PROJECT / "docs" / "examples" / "flights"

EXPECTED_TO_WARN = ("baseline", "feature_baseline")

SECONDS = "SELECT * REPLACE (dep_delay * 60 AS dep_delay, air_time * 60 AS air_time) FROM rows"
NOTHING = "SELECT * FROM rows LIMIT 0"
KILOMETRES = "SELECT * REPLACE (distance * 1.609344 AS distance) FROM rows"
FAULTS = {
    "half of the day's rows": ("SELECT * FROM rows WHERE hash(tailnum, carrier, hour) % 2 = 0", ("2013-01-22", "2013-02-16")),
    "no rows, three days long": (NOTHING, ("2013-02-04", "2013-02-05", "2013-02-06")),
    "seconds for minutes": (SECONDS, ("2013-01-29", "2013-02-20")),
    "kilometres for miles": (KILOMETRES, ("2013-01-31", "2013-02-22")),
}
"""What is done to which days. Units are those of all files: a supplier changes them for good, and says nothing. A day that is
missing was published before a later one is tried without both: its features are known, and its rows are gone again.
"""


class Silent:
    """Progress that tells nobody."""

    def say(self, message: str) -> None:
        """Nothing."""

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Nothing."""


@dataclass
class Nights:
    """The nights of a pipeline with an approved model, and what every check said of them."""

    config: PipelineConfig
    storage: Storage
    found: dict[str, list[tuple[str, CheckOutcome]]] = field(default_factory=lambda: defaultdict(list))
    blocked: list[str] = field(default_factory=list)

    def night(self, day: str) -> Verdict:
        """One of them, judged, and published if nothing blocks."""
        verdict = self.judged(day)
        for outcome in verdict.outcomes:
            self.found[outcome.name].append((day, outcome))
        said = [f"{outcome.name}: {outcome.message}" for outcome in verdict.blocking]
        warned = [outcome.name for outcome in verdict.outcomes if _how(outcome) == "warned"]
        if said:
            self.blocked.append(day)
            print(f"{day}  BLOCKED    {'; '.join(said)}")
        else:
            publish(Night.open(self.config, self.storage, day, Registry(self.storage).resolve(self.config.model)), Silent())
            print(f"{day}  published  {'warned: ' + ', '.join(warned) if warned else ''}")
        return verdict

    def judged(self, day: str, *, refresh: bool = False) -> Verdict:
        """Features, and, if they are good, scores; the newest verdict."""
        model, progress = Registry(self.storage).resolve(self.config.model), Silent()
        frozen = freeze(self.config, self.storage, day, progress, refresh=refresh)
        verdict = judge_features(self.config, self.storage, frozen, day)
        if verdict.good:
            score(Night.open(self.config, self.storage, day, model), LocalEngine(2), progress)
            verdict = judge(Night.open(self.config, self.storage, day, model))
        return verdict

    def summary(self, days: list[str], seconds: float) -> None:
        """What each check said how often, and on how many days one said something that it should not have."""
        print(f"\n{len(days)} days, {days[0]} to {days[-1]}, in {seconds:.0f} s")
        print(f"{'check':16}{'passed':>8}{'no other day':>14}{'warned':>8}{'blocked':>9}   farthest")
        for name, outcomes in self.found.items():
            counts = Counter(_how(outcome) for _, outcome in outcomes)
            figures: dict[str, float] = {}
            for _, outcome in outcomes:
                for figure, value in outcome.figures.items():
                    worst = min if figure.endswith(_LOW_IS_FAR) else max
                    figures[figure] = worst(figures.get(figure, value), value)
            shown = ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
            print(f"{name:16}" + "{:>8}{:>14}{:>8}{:>9}   ".format(*(counts[how] for how in _HOW)) + shown)
        alarms = defaultdict(list)
        for name, outcomes in self.found.items():
            for day, outcome in outcomes:
                if _how(outcome) in ("warned", "blocked") and name not in EXPECTED_TO_WARN:
                    alarms[name].append(day)
        for name, when in alarms.items():
            print(f"{name} said something on {len(when)} days ({len(when) / len(days):.1%}), from {when[0]} to {when[-1]}")
        any_of_them = {day for when in alarms.values() for day in when}
        print(f"{len(any_of_them)} of {len(days)} days have an alarm but {' and '.join(EXPECTED_TO_WARN)}")
        print(f"{len(self.blocked)} of {len(days)} days blocked ({len(self.blocked) / len(days):.1%})")


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", action="store_true")
    parser.add_argument("--faults", action="store_true", help="of --flights: load some days as they should not be")
    parser.add_argument("--from", dest="first")
    parser.add_argument("--to", dest="last")
    options = parser.parse_args()
    if options.faults and not options.flights:
        parser.error("--faults goes with --flights")
    with tempfile.TemporaryDirectory() as folder:
        nights = _flights(Path(folder)) if options.flights else _cdnow(Path(folder))
        standard = ("2013-01-01", "2013-03-01") if options.flights else ("1997-06-01", "1998-06-30")
        first, last = options.first or standard[0], options.last or standard[1]
        days, started = nights.config.partitions.between(first, last, nights.config.name), time.perf_counter()
        passed = []
        for day in days:
            for name in [name for name, (_, when) in FAULTS.items() if options.faults and day in when]:
                passed += [] if _stopped(nights, Path(folder) / "flights", day, name) else [f"{day}: {name}"]
            nights.night(day)
        nights.summary(days, time.perf_counter() - started)
        for line in passed:
            print(f"NOT BLOCKED: {line}")
    raise SystemExit(bool(nights.blocked or passed))


def _cdnow(folder: Path) -> Nights:
    """The demo's pipeline and model."""
    config, storage = pipeline(training.PIPELINE), open_storage(str(folder))
    registry = Registry(storage)
    model = training.train(config, registry, Silent())
    registry.approve(model.name, config.model.alias, model.version, why="benchmark", by="benchmark", after=0)
    return Nights(config, storage)


def _flights(folder: Path) -> Nights:
    """The example's pipeline, in a copy of the project where its own programs made rows and model."""
    shutil.copytree(PROJECT / "batch_assets", folder / "batch_assets", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    defs = folder / "batch_assets" / "defs" / "late_planes"
    defs.mkdir()
    for name in ("defs.yaml", "features.sql"):
        shutil.copy(EXAMPLE / name, defs)
    for program in ("make_rows.py", "train.py"):
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run([sys.executable, str(EXAMPLE / program)], cwd=folder, env=environment, check=True)  # noqa: S603
    text = (defs / "defs.yaml").read_text().replace("{{ context.project_root }}", str(folder))
    config = PipelineConfig.model_validate(yaml.safe_load(text)["attributes"])
    storage = open_storage(str(folder / "data"))
    registry = Registry(storage)
    card = read_card((folder / "card.json").read_bytes(), "card.json")
    registry.register(config.model.name, "v1", card, (folder / "model.pt2").read_bytes())
    registry.approve(config.model.name, config.model.alias, "v1", why="benchmark", by="benchmark", after=0)
    return Nights(config, storage)


def _stopped(nights: Nights, flights: Path, day: str, name: str) -> bool:
    """Load a day as it should not be; whether it is blocked. Then it is as it was, and frozen again."""
    whole, (change, when) = flights.with_name("whole"), FAULTS[name]
    shutil.copytree(flights, whole)
    for path in _files(flights, day, change, when):
        duckdb.read_parquet(str(whole / path.name)).query("rows", change).write_parquet(str(path))
    verdict = nights.judged(day)
    shutil.rmtree(flights)
    whole.rename(flights)
    reasons = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in verdict.blocking)
    print(f"{day}  {'blocked' if reasons else 'NOT BLOCKED'} as it should be with {name}: {reasons}")
    nights.judged(day, refresh=True)
    return bool(reasons)


def _files(flights: Path, day: str, change: str, when: tuple[str, ...]) -> list[Path]:
    """All files where the supplier changed a unit, else those of the day and of the days before it that the fault lasts."""
    late = [one for one in when if one <= day] if change == NOTHING else [day]
    return [path for path in sorted(flights.glob("*.parquet")) if change in (SECONDS, KILOMETRES) or path.stem in late]


_HOW = ("passed", "nothing to compare", "warned", "blocked")
_LOW_IS_FAR = ("rank_correlation", "top_decile_overlap", "_ratio", "_rows", "_usual", "changed_share")


def _how(outcome: CheckOutcome) -> str:
    if outcome.blocks:
        return "blocked"
    return "nothing to compare" if outcome.severity == "info" else "passed" if outcome.passed else "warned"


if __name__ == "__main__":
    main()
