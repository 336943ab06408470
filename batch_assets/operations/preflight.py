"""Preflight: a sample of the night through the old model and the new one, before a single chunk is scored.

It says within a minute what the night will be like, each number with its bounds, and whether to go.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from batch_assets.config import PipelineConfig
from batch_assets.errors import ContractBroken, PreflightFailed
from batch_assets.histogram import Histogram
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.estimates import LAST_NIGHTS, memory, scoring_minutes
from batch_assets.nightly.freeze import frozen_for_a_look
from batch_assets.nightly.judge import decided_for, known_runs, trailing_runs
from batch_assets.nightly.judge_features import features_verdict
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.nightly.shift import compared, expected_shift, model_before
from batch_assets.nightly.timings import nights_took
from batch_assets.nightly.verdict import read_verdict
from batch_assets.operations.sample import Sampled, places, score_sample
from batch_assets.quality.drift import MEASURES, Levels, between, nearest_scores
from batch_assets.quality.model_shift import judge_model_shift
from batch_assets.quality.statistics import Distance, Interval, resampled, share
from batch_assets.storage import Storage


class Preflight(BaseModel):
    """What a sample of a day says of the night; `reasons` are why not to go.

    `dead_letters` is the share of the rows that are not excluded. `drift` is the distance to the nearest comparable day and
    `shift` that to the version before on the same rows, by measure; empty if there is nothing to compare with. `minutes` and
    `cost` are None while no run says how fast it is. `memory` is of one process, in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str
    partition: str
    version: str
    against: str | None = None
    rows: int
    sampled: int = 0
    dead_letters: Interval | None = None
    drift: dict[str, Interval] = {}
    shift: dict[str, Interval] = {}
    minutes: Interval | None = None
    memory: Interval | None = None
    cost: Interval | None = None
    currency: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def go(self) -> bool:
        """Whether nothing speaks against the night."""
        return not self.reasons

    def sentence(self) -> str:
        """What it says, for a log."""
        dead = f"{self.dead_letters.low:.2%} to {self.dead_letters.high:.2%} dead letters" if self.dead_letters else "no rows"
        return f"Preflight of {self.pipeline} {self.partition} with {self.version}: {self.sampled:,} rows, {dead}; go."

    def require(self) -> None:
        """Raise PreflightFailed, with every reason, if it is a no-go."""
        if self.reasons:
            raise PreflightFailed(
                f"Preflight of {self.pipeline} {self.partition} with {self.version} says no: {'; '.join(self.reasons)}. Not a "
                "chunk was scored."
            )


def preflight(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, progress: Progress) -> Preflight:
    """Score a sample of a day with a version and with the one before, and say whether to go.

    Nothing is left behind: a day that is not frozen is frozen for the time of this call only, and no verdict is recorded.

    Raises:
        SourceError, BadKeys: the day is not frozen, and cannot be.
        SnapshotChanged, ModelChanged: a file is not what was recorded.
    """
    with frozen_for_a_look(config, storage, day, progress) as snapshot:
        return _look(Night.open(config, storage, day, model, snapshot))


def _look(night: Night) -> Preflight:
    config, storage, day, model, snapshot = night.config, night.storage, night.day, night.model, night.frozen
    rows = snapshot.snapshot.rows
    found = Preflight(pipeline=config.name, partition=day, version=model.version, rows=rows)
    judged = features_verdict(config, storage, snapshot, day, read_verdict(snapshot.storage, snapshot.folder))
    reasons = [f"{one.name}: {one.message}" for one in judged.blocking]
    drawn = places(night)
    try:
        sample = score_sample(night, drawn)
    except ContractBroken as error:
        return found.model_copy(update={"reasons": (*reasons, str(error))})
    previous = model_before(config, model)
    if previous and config.features.contract.changes(previous.card.contract):
        previous = None  # it cannot score these features
    old = score_sample(Night.open(config, storage, day, previous, snapshot), drawn) if previous else None
    dead = share(sample.dead, len(sample.scores) - sample.excluded)
    slower = max(sample.seconds / old.seconds, 1.0) if old and old.seconds else 1.0
    minutes = scoring_minutes(nights_took(storage, config.name, LAST_NIGHTS), [rows], config.scoring.chunk_rows, slower)
    price = config.engine.price
    drift, against_trailing = _drift(night, sample)
    shift, against_previous = _shift(config, model, previous, sample, old, day)
    passed = decided_for(night)
    reasons += _of_rows(config, sample, dead)
    reasons += against_trailing if "drift" not in passed else []
    reasons += against_previous if "previous_model" not in passed else []
    return found.model_copy(
        update={
            "against": previous.version if previous else None,
            "sampled": len(sample.scores),
            "dead_letters": dead,
            "drift": drift,
            "shift": shift,
            "minutes": minutes,
            "memory": memory(night),
            "cost": minutes.times(price.per_minute) if minutes and price else None,
            "currency": price.currency if price else "",
            "reasons": tuple(reasons),
        }
    )


def _of_rows(config: PipelineConfig, sample: Sampled, dead: Interval) -> list[str]:
    most, scores = 1 - config.quality.completeness.min_output_ratio, sample.scored
    reasons = []
    if dead.low > most:
        reasons.append(f"{dead.low:.2%} to {dead.high:.2%} of the rows would be dead letters, at most {most:.2%} are wanted")
    if len(scores) > 1 and scores.min() == scores.max():
        reasons.append(f"all {len(scores):,} scores of the sample are {scores[0]:.6g}: the model says nothing")
    return reasons


def _drift(night: Night, sample: Sampled) -> tuple[dict[str, Interval], list[str]]:
    """The distance of the sample's scores to the day that the gate will compare them with."""
    trailing = {day: one.histogram for day, one in trailing_runs(night).items()}
    scores, edges, quality = sample.scored, night.model.card.baseline.edges, night.config.quality
    near = nearest_scores(night.day, Histogram.of(scores, edges), trailing, quality.drift, quality.changes.compare_days)
    if near is None:
        return {}, []
    expected = trailing[near[0]]
    found = _bounds(lambda taken: between(expected, Histogram.of(scores[taken], expected.edges)), len(scores))
    few = known_runs(night) < quality.min_days
    return found, [] if few else _reached(found, near[1], quality.drift.block)


def _shift(
    config: PipelineConfig,
    model: ModelVersion,
    previous: ModelVersion | None,
    sample: Sampled,
    old: Sampled | None,
    day: str,
) -> tuple[dict[str, Interval], list[str]]:
    """The distance between the two versions' scores of the same rows, and what the gate would say of it."""
    found = compared(old.scores, sample.scores, day, previous.version) if previous and old else None
    if found is None or old is None:
        return {}, []
    both = np.isfinite(old.scores) & np.isfinite(sample.scores)
    before, after, edges = old.scores[both], sample.scores[both], found.edges
    bounds = _bounds(lambda taken: between(*(Histogram.of(one[taken], edges) for one in (before, after))), len(before))
    outcome = judge_model_shift(found.distance, found.shift, expected_shift(config, model), config.quality.drift, edges)
    return bounds, [f"previous_model: {outcome.message}"] if outcome.blocks else []


def _bounds(apart: Callable[[npt.NDArray[np.intp]], Distance], rows: int) -> dict[str, Interval]:
    """Each measure of a distance that is taken from some of `rows` rows, by name."""

    def bounds(measure: str) -> Interval:
        return resampled(lambda taken: float(getattr(apart(taken), measure).value), rows)

    return {measure: bounds(measure) for measure in MEASURES}


def _reached(found: dict[str, Interval], sampled: Distance, levels: Levels) -> list[str]:
    """The measures whose lower bound is at the level where the gate blocks, and not by chance."""
    return [
        f"drift: {name.upper()} would be {found[name].low:.4f} to {found[name].high:.4f}, it blocks at {getattr(levels, name)}"
        for name in levels.reached(sampled)
        if found[name].low >= getattr(levels, name)
    ]
