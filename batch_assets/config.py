"""What can be said about a pipeline: the settings that the rooms own, put together.

A pipeline is one YAML file; this is its schema. Everything is frozen, and a key that nobody knows is an error.
"""

from datetime import date, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.alerts import Receiver
from batch_assets.clock import TimeOfDay, TimeZone, end_of, next_at, today, utc_now
from batch_assets.engines.engine import EngineSettings
from batch_assets.errors import PartitionOutOfRange
from batch_assets.features.contract import FeatureContract
from batch_assets.models.registry import ModelSettings
from batch_assets.quality.changes import ChangeSettings
from batch_assets.quality.completeness import CompletenessSettings
from batch_assets.quality.drift import DriftSettings
from batch_assets.quality.expectations import ExpectationSettings
from batch_assets.quality.sla import SlaSettings
from batch_assets.quality.sources import SourceSettings
from batch_assets.scoring.heads.head import Answers
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.serving.export import EVENT_TIMESTAMP, ExportSettings
from batch_assets.serving.items import ItemSettings
from batch_assets.serving.settings import ServiceSettings
from batch_assets.serving.store import STORES, Store
from batch_assets.shorthand import TextOrMore
from batch_assets.sources.source import SOURCES, Source
from batch_assets.tables.table import PIPELINE, RELEASE, TABLES, Table

NAME = r"[a-z][a-z0-9_]*"
"""What a pipeline can be called."""


class PartitionSettings(BaseModel):
    """Which days there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: date = Field(description="The first day.")
    end: date | None = Field(None, description="The last day, included; without it every day until yesterday.")
    timezone: TimeZone = Field("UTC", description="Where a day begins and ends, like Europe/Berlin.")

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "PartitionSettings":
        if self.end and self.end < self.start:
            raise ValueError(f"the last day {self.end} is before the first day {self.start}")
        return self

    def last(self, now: datetime | None = None) -> date:
        """The newest day there is: yesterday in the partitions' time zone, or the end if that is earlier."""
        yesterday = today(now or utc_now(), self.timezone) - timedelta(days=1)
        return min(self.end, yesterday) if self.end else yesterday

    def morning_after(self, day: str, at: str) -> datetime:
        """When a clock there shows HH:MM on the day after a partition."""
        return next_at(end_of(date.fromisoformat(day), self.timezone) - timedelta(seconds=1), at, self.timezone)

    def require(self, day: str, pipeline: str, now: datetime | None = None) -> str:
        """The day as YYYY-MM-DD. Raises PartitionOutOfRange."""
        last = self.last(now)
        try:
            found = date.fromisoformat(day)
        except ValueError:
            raise PartitionOutOfRange(f"{day!r} is not a day; a partition is written like {last}.") from None
        if not self.start <= found <= last:
            raise PartitionOutOfRange(f"{pipeline} has partitions from {self.start} to {last}, not {found}.")
        return found.isoformat()

    def between(self, first: str, last: str, pipeline: str) -> list[str]:
        """Every day from one to another, both included, oldest first. Raises PartitionOutOfRange."""
        start, end = (date.fromisoformat(self.require(day, pipeline)) for day in (first, last))
        if end < start:
            raise PartitionOutOfRange(f"{last} is before {first}; say the older day first.")
        return [(start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


class NightlySettings(BaseModel):
    """When yesterday is scored; a pipeline whose partitions have an end has no schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: TimeOfDay = Field("02:00", description='"HH:MM", in quotes, in the partitions\' time zone.')
    wait_until: TimeOfDay | None = Field(
        None,
        description='Until when a night waits for the assets in features.deps, "HH:MM" after `at`; then it runs with what is '
        "there, and its checks judge that. Without it, it waits as long as it takes.",
    )

    @model_validator(mode="after")
    def _waits_after_it_begins(self) -> "NightlySettings":
        if self.wait_until is not None and self.wait_until <= self.at:
            raise ValueError(f"wait_until, {self.wait_until}, is not after at, {self.at}")
        return self


class Upstream(TextOrMore):
    """An asset of somebody else's that a source reads; written as a text, it is its key alone."""

    asset: str = Field(description="Its key, like warehouse/orders.", pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")
    table: str | None = Field(None, description="What the source calls its table; by default the last part of the key.")

    @property
    def named(self) -> str:
        """What the source calls its table."""
        return self.table or self.asset.rpartition("/")[2]


class FeatureSettings(BaseModel):
    """Where rows come from and what they must look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[Source, SOURCES]
    contract: FeatureContract
    deps: tuple[Upstream, ...] = Field(
        (),
        description="Assets that the source reads, like warehouse/orders: a night begins when each of them has its day (or, "
        "without partitions, was made after it), and the lineage of its columns leads to them.",
    )


class QualitySettings(BaseModel):
    """What must hold before anything is published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_days: int = Field(
        7,
        description="Of fewer good days before, changes, feature_drift and drift only warn: the first days differ truly.",
        ge=1,
    )
    sources: SourceSettings = SourceSettings()
    expectations: ExpectationSettings = ExpectationSettings()
    completeness: CompletenessSettings = CompletenessSettings()
    changes: ChangeSettings = ChangeSettings()
    drift: DriftSettings = DriftSettings()


class RetentionSettings(BaseModel):
    """How much of the past is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_days: int = Field(35, description="The newest days of which everything is kept; older ones are pruned.", ge=1)
    history_days: int = Field(
        400,
        description="For how many days Dagster keeps its records of a run, counted from when that began; at least keep_days.",
        ge=1,
    )
    schedule: bool = Field(False, description="Whether Dagster prunes every night; else `batch-assets prune` does when asked.")


class PipelineConfig(BaseModel):
    """One nightly job: features -> predictions -> serving table.

    An error about a setting does not show its value: it may hold a receiver's secret address.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(description="The asset keys' prefix and the folder under the storage root.", pattern=f"^{NAME}$")
    description: str = Field("", description="What the scores are for.")
    partitions: PartitionSettings
    features: FeatureSettings
    model: ModelSettings
    answers: Answers = Field(
        description="What every version of the model answers; a version that answers otherwise is refused."
    )
    stores: tuple[Annotated[Store, STORES], ...] = Field(
        default_factory=lambda: (STORES.adapter("arrow").model_validate({}),),
        description="Where releases are kept and looked up; the first is asked by look-ups. At least one.",
    )
    items: ItemSettings = ItemSettings()
    serve: ServiceSettings = ServiceSettings()
    export: ExportSettings | None = Field(
        None,
        description="Whether a published day is written as Parquet, too, in a folder for each shard; it is not by default.",
    )
    tables: tuple[Annotated[Table, TABLES], ...] = Field(
        (), description="Tables of a lake or a warehouse that get every accepted day, too; none by default."
    )
    engine: EngineSettings = EngineSettings()
    scoring: ScoringSettings = ScoringSettings()
    preflight: bool = Field(False, description="Whether a sample is scored, and may say no, before a day is.")
    quality: QualitySettings = QualitySettings()
    retention: RetentionSettings = RetentionSettings()
    nightly: NightlySettings = NightlySettings()
    sla: SlaSettings | None = Field(None, description="By when yesterday is published; without it nobody looks.")
    alerts: tuple[Receiver, ...] = Field((), description="Who is told when a night goes wrong; nobody by default.")

    def days_needed(self) -> int:
        """How many of the newest days later work looks at: checks compare with them, an approval scores them again."""
        quality = self.quality
        looked_back = (quality.drift.trailing_days, quality.changes.compare_days, quality.min_days)
        return max(*looked_back, self.model.rescore_days)

    @model_validator(mode="after")
    def _fits_together(self) -> "PipelineConfig":
        taken = {"models": "the registry", "sweeps": "what sweeps measured"}
        if self.name in taken:
            raise ValueError(f"a pipeline cannot be called {self.name}: that folder holds {taken[self.name]}")
        if self.nightly.wait_until is not None and not self.features.deps:
            raise ValueError("nightly.wait_until waits for nothing: features.deps names no asset")
        if not self.stores:
            raise ValueError("stores names none; name at least one, or leave it out for the Arrow file")
        for what, called in {
            "stores": [store.called for store in self.stores],
            "tables": [table.called for table in self.tables],
        }.items():
            if len(set(called)) < len(called):
                raise ValueError(f"{what} are called the same: {', '.join(called)}; give them a name each")
        reserved = {"model_version", "partition", "kind", "reason", "error", "file", "row", *self.answers.names}
        if self.tables:
            reserved |= {PIPELINE, RELEASE}
        if self.export:
            reserved |= {EVENT_TIMESTAMP, self.export.by}
        contract = self.features.contract
        taken_names = reserved & {*contract.identity, *(one.name for one in contract.carry)}
        if taken_names:
            name = min(taken_names)
            what = "the key" if name in contract.identity else "a carried column"
            raise ValueError(f"{what} cannot be called {name}: predictions have such a column")
        single = {column.name for column in self.features.contract.columns if column.length is None}
        unknown = {rule.column for rule in self.scoring.exclude} - single
        if unknown:
            raise ValueError(f"exclude names columns that the contract does not, or lists: {', '.join(sorted(unknown))}")
        strangers = {one.column for one in self.quality.expectations.own} - single
        if strangers:
            raise ValueError(
                f"quality.expectations.own names columns that the contract does not, or lists: {', '.join(sorted(strangers))}"
            )
        unknown = set(self.quality.sources.not_daily) - set(self.features.source.table_names())
        if unknown:
            raise ValueError(f"quality.sources.not_daily names tables that the source does not: {', '.join(sorted(unknown))}")
        if self.retention.keep_days < self.days_needed():
            raise ValueError(
                f"retention.keep_days is {self.retention.keep_days}, but the last {self.days_needed()} days are needed by "
                "drift.trailing_days, changes.compare_days, min_days or model.rescore_days"
            )
        return self
