"""Is a day published by its deadline (its SLA), and if not yet, will it be?"""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.clock import TimeOfDay, TimeZone, end_of, next_at
from batch_assets.quality.gates import GATES
from batch_assets.quality.outcome import CheckOutcome, Severity


class SlaSettings(BaseModel):
    """By when a day is published: the first such time after the day is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    published_by: TimeOfDay = Field(description='"HH:MM", in quotes.')
    timezone: TimeZone | None = Field(None, description="The zone of that time; by default the partitions'.")


class SlaState(StrEnum):
    """What has become of an SLA."""

    kept = "published in time"
    late = "published late"
    on_course = "not yet, on course"
    at_risk = "at risk"
    missed = "missed"


_PASSED = {SlaState.kept, SlaState.on_course}
_SEVERITIES: dict[SlaState, Severity] = {SlaState.missed: "error", SlaState.on_course: "info"}


@dataclass(frozen=True)
class Sla:
    """A day's SLA as it stands at a moment. Moments are aware; `zone` is that in which they are told."""

    day: date
    now: datetime
    deadline: datetime
    zone: str
    published: datetime | None = None
    """When the day, or a newer one, went live."""
    eta_low: datetime | None = None
    eta_high: datetime | None = None
    """Between when and when it is expected to go live, where that can be told."""

    @property
    def state(self) -> SlaState:
        """What has become of it."""
        if self.published is not None:
            return SlaState.kept if self.published <= self.deadline else SlaState.late
        if self.now > self.deadline:
            return SlaState.missed
        return SlaState.at_risk if self.eta_high and self.eta_high > self.deadline else SlaState.on_course

    def outcome(self) -> CheckOutcome:
        """`sla`: what is observed is by how many minutes the (expected) publication is after the deadline."""
        state, moment = self.state, self.published or self.eta_high
        return GATES["sla"].outcome(
            passed=state in _PASSED,
            severity=_SEVERITIES.get(state, "warn"),
            observed=round((moment - self.deadline).total_seconds() / 60, 1) if moment else None,
            threshold=0.0,
            message=f"{self.day} is due by {self._told(self.deadline)} ({self.zone}): {state}{self._detail()}.",
        )

    def _detail(self) -> str:
        if self.published is not None:
            return f", it went live at {self._told(self.published)}"
        if self.eta_low is None or self.eta_high is None:
            return ", and nothing tells when it will be"
        low, high = self._told(self.eta_low), self._told(self.eta_high)
        return f", expected {f'at {low}' if low == high else f'between {low} and {high}'}"

    def _told(self, moment: datetime) -> str:
        return moment.astimezone(ZoneInfo(self.zone)).strftime("%Y-%m-%d %H:%M")


def deadline_of(day: date, settings: SlaSettings, days_zone: str) -> datetime:
    """By when a day is due, in UTC."""
    return next_at(end_of(day, days_zone), settings.published_by, settings.timezone or days_zone)
