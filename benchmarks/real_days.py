"""Which checks say something about real nights on which nothing was wrong: every one of them is a false alarm.

    python benchmarks/real_days.py [--from 1997-06-01] [--to 1998-06-30]

The demo's model scores every day of CDNOW in turn, from nothing, in a folder of its own: freeze, judge, score, judge, publish,
without Dagster. Exit status 1 if a day is blocked. The model card's baseline is of one day of a cohort that ages, so that
`baseline` warns of days that are far from it is no false alarm; it is counted all the same.
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from batch_assets.demo import train as training
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NotPublishable
from batch_assets.models.registry import Registry
from batch_assets.orchestration.catalog import pipeline
from batch_assets.pipeline.freeze import freeze
from batch_assets.pipeline.judge import judge, judge_features
from batch_assets.pipeline.publish import publish
from batch_assets.pipeline.score import score
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.storage import open_storage


class Silent:
    """A watch that tells nobody."""

    def say(self, message: str) -> None:
        """Nothing."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Nothing."""


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="first", default="1997-06-01")
    parser.add_argument("--to", dest="last", default="1998-06-30")
    options = parser.parse_args()
    config, watch, started = pipeline(training.PIPELINE), Silent(), time.perf_counter()
    days = config.partitions.between(options.first, options.last, config.name)
    found: dict[str, list[tuple[str, CheckOutcome]]] = defaultdict(list)
    blocked = []
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(str(Path(folder)))
        registry = Registry(storage)
        model = training.train(config, registry, watch)
        registry.approve(model.name, config.model.alias, model.version, why="benchmark", by="benchmark", after=0)
        model = registry.resolve(config.model)
        for day in days:
            verdict = judge_features(config, storage, freeze(config, storage, day, watch), day)
            if verdict.good:
                score(config, storage, day, model, LocalEngine(2), watch)
                verdict = judge(config, storage, day, model)
            for outcome in verdict.outcomes:
                found[outcome.name].append((day, outcome))
            try:
                publish(config, storage, day, model, watch)
            except NotPublishable as error:
                blocked.append(f"{day}: {error}")
    print(f"{len(days)} days, {days[0]} to {days[-1]}, in {time.perf_counter() - started:.0f} s")
    print(f"{'check':16}{'passed':>8}{'no other day':>14}{'warned':>8}{'blocked':>9}   farthest")
    for name, outcomes in found.items():
        counts = Counter(_how(outcome) for _, outcome in outcomes)
        figures: dict[str, float] = {}
        for _, outcome in outcomes:
            for figure, value in outcome.figures.items():
                worst = min if figure in ("rank_correlation", "top_decile_overlap") else max
                figures[figure] = worst(figures.get(figure, value), value)
        shown = ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
        print(f"{name:16}" + "{:>8}{:>14}{:>8}{:>9}   ".format(*(counts[how] for how in _HOW)) + shown)
    warned = {name: [day for day, outcome in outcomes if _how(outcome) == "warned"] for name, outcomes in found.items()}
    for name, when in warned.items():
        if when:
            print(f"{name} warned on {len(when)} days, from {when[0]} to {when[-1]}")
    for line in blocked:
        print(f"blocked: {line}")
    print(f"{len(blocked)} of {len(days)} days blocked")
    raise SystemExit(bool(blocked))


_HOW = ("passed", "nothing to compare", "warned", "blocked")


def _how(outcome: CheckOutcome) -> str:
    if outcome.blocks:
        return "blocked"
    return "nothing to compare" if outcome.severity == "info" else "passed" if outcome.passed else "warned"


if __name__ == "__main__":
    main()
