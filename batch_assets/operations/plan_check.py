"""Whether plans are right: each of the last nights, predicted from the nights before it alone, beside what it took."""

from collections.abc import Sequence
from dataclasses import dataclass

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound
from batch_assets.nightly.estimates import CONFIDENCE, LAST_NIGHTS, added, stages_take
from batch_assets.nightly.timings import NightTook, nights_took
from batch_assets.quality.statistics import Interval
from batch_assets.storage import Storage

_CHANCE = 0.01
"""If plans were right, as few nights within would be seen less often than this; then they are called wrong."""


@dataclass(frozen=True)
class Compared:
    """A night, what was planned of it after `before` nights, and what it took, in seconds."""

    day: str
    rows: int
    before: int
    planned: Interval
    took: float

    @property
    def within(self) -> bool:
        """Whether it took what the interval says."""
        return self.planned.low <= self.took <= self.planned.high

    @property
    def error(self) -> float:
        """By which share the plan was too high (or, below zero, too low)."""
        return self.planned.value / self.took - 1


def check_plans(config: PipelineConfig, storage: Storage, last: int) -> list[Compared]:
    """Compare the last nights with their plans, in the order in which they were finished. Raises NotFound if there are none."""
    found = compare(nights_took(storage, config.name, last + LAST_NIGHTS))[-last:]
    if not found:
        raise NotFound(
            f"There are not two nights of {config.name} of which every stage was measured: run more of them, as a plan is "
            "compared with a night that came after another."
        )
    return found


def compare(nights: Sequence[NightTook]) -> list[Compared]:
    """Each whole night that comes after another, beside what the nights before it, and nothing else, say of it."""
    whole = [night for night in nights if night.whole]
    found = []
    for number, night in enumerate(whole[1:], start=1):
        before = whole[max(0, number - LAST_NIGHTS) : number]
        planned = added(stages_take(before, night.rows, night.chunks, night.workers).values())
        found.append(Compared(night.day, night.rows, len(before), planned, night.total))
    return found


def is_off(compared: Sequence[Compared]) -> bool:
    """Whether so few nights lie within their intervals that it is no chance: a one-sided binomial test of 90 % at 1 %."""
    from scipy.special import bdtr

    within = sum(one.within for one in compared)
    return bool(bdtr(within, len(compared), CONFIDENCE) < _CHANCE)
