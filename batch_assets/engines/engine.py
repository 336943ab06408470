"""What every engine does, and what can be set about it. Nothing here changes a value: an engine is no part of a run id."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.scoring.scorer import Scorer, ScoringTask

EngineName = Literal["auto", "ray", "local", "spark"]
Notice = Callable[[str], None]

IN_HAND = 3
"""Chunks of a worker: one being read, one in the model, one being written."""

THREADS = "threads of one process"
"""How an engine calls its one worker, which is this process with all that scores in it."""

POOL = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
"""What a pool can be called; a file can be called so, too."""


class Named(Protocol):
    """What is handed out: it has a name for messages."""

    @property
    def name(self) -> str:
        """How messages call it."""


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result")


class Price(BaseModel):
    """What scoring costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_hour: float = Field(description="What all workers together cost in an hour.", gt=0)
    currency: str = Field("EUR", description="In which currency.")
    spot_per_hour: float | None = Field(
        None, description="The same on spot machines, which may be taken away at any moment; for `batch-assets plan`.", gt=0
    )
    preemptions_per_hour: float | None = Field(None, description="How often one worker on spot is taken away in an hour.", ge=0)
    replacement_seconds: float = Field(
        120.0, description="How long it takes until another worker is there in its place, with the model loaded.", ge=0
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.spot_per_hour is None) != (self.preemptions_per_hour is None):
            raise ValueError("spot_per_hour and preemptions_per_hour need each other: say both, or neither")
        return self

    @property
    def per_minute(self) -> float:
        """What they cost in a minute."""
        return self.per_hour / 60


class EngineSettings(BaseModel):
    """Where a pipeline is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: EngineName = Field(
        "auto",
        description="ray: actors of a Ray cluster. spark: Python workers of Spark. local: threads of this process. auto: Ray "
        "where a cluster is named, where the model runs on a GPU, where a process died at this run before, or where the rest "
        "takes long; else threads.",
    )
    workers: int | None = Field(
        None, description="How many; by default one per CPU (or per GPU, if the model runs there).", ge=1
    )
    stall_seconds: float = Field(
        300.0,
        description="A Ray worker that makes no progress for so long is replaced, and its chunks are given to others. So long, "
        "and two minutes at least, one may wait for its place in the cluster, and then load the model.",
        gt=0,
    )
    max_attempts: int = Field(5, description="How often a chunk is tried before the run stops and names it.", ge=1)
    keep_seconds: float = Field(
        300.0, description="How long Ray workers without work stay for the next run; 0 ends them with their run.", ge=0
    )
    master: str | None = Field(
        None,
        description="Of Spark: its master, like spark://host:7077; by default this machine. A session that is there is used.",
    )
    conf: dict[str, str] = Field({}, description="Of Spark: its configuration, like spark.executor.memory: 4g.")
    resource: str | None = Field(
        None,
        description="The key of a resource of the project that connects Ray, like dagster-ray's LocalRay, or makes a Spark "
        "session: Dagster sets it up before a day is scored. A command line connects by itself.",
        pattern=r"^[A-Za-z_]\w*$",
    )
    pool: str | None = Field(
        None,
        description="The Dagster pool in which its runs wait for each other, as in gpu-2; by default that of what scores: this "
        "machine's, or one for each cluster that is named. A command line that asks for another engine stays in it, unless "
        "that one scores on another cluster, or on this machine instead of a cluster.",
        pattern=POOL,
    )
    price: Price | None = Field(None, description="What scoring costs, for plans of nights and of roll-outs.")


@dataclass(frozen=True)
class Spent:
    """When a worker began to serve a task, its seconds by stage since then, and the bytes that it has read over the network."""

    since: float
    seconds: dict[str, float]
    received: int


@dataclass(frozen=True)
class WorkTimes:
    """Seconds of the workers by stage, summed, and of their lifetimes; `wall` is how long the engine was open.

    `workers` is the most that were there at a time; of Spark, all that there were.
    `received` is how many bytes they read over the network, `engine` says in words what they were.
    """

    workers: int
    wall: float
    lifetimes: float
    seconds: dict[str, float]
    received: int
    engine: str


class Workers(Protocol):
    """Workers that have loaded one task's model."""

    def map(self, work: Callable[[Scorer, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Do picklable work on every item, in any order; yields each result when it is there. Raises what the work raised."""

    def times(self) -> WorkTimes:
        """What the workers' time went into until now."""


class Engine(Protocol):
    """Has workers somewhere."""

    def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> AbstractContextManager[Workers]:
        """A context manager: workers for a task. `notice` is told when one is lost or replaced.

        `died` says that a process died while it worked on this task before.
        """
