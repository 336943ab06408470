"""What a night will take before it begins: seconds by stage, workers for a deadline, memory, bytes, money.

It is arithmetic: over explicit figures, which needs no pipeline, or over what the pipeline's last nights took, stage by stage
(`nightly/timings.py`, `nightly/estimates.py`), so each number of it comes with its interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
from pydantic import BaseModel, ConfigDict

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import Price
from batch_assets.errors import NotFound
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.estimates import LAST_NIGHTS, added, amount_at, stages_take
from batch_assets.nightly.timings import OF_WORKERS, STAGES, NightTook, Stage, nights_took
from batch_assets.operations.cost import Cost, cost
from batch_assets.quality.statistics import Interval
from batch_assets.runs.manifest import latest_manifest
from batch_assets.serving.release import in_stores, release_name
from batch_assets.storage import Storage

_FAR, _TOO_FAR = 3, 100
"""So many times the rows of the largest night are a guess; and so many are refused."""


class Plan(BaseModel):
    """What a night of `rows` rows takes with `workers` workers.

    `pipeline` is empty, and `nights` is 0, of explicit figures; else it was made from so many nights, of which the largest had
    `largest` rows, and whose workers were `engine`. `seconds` are by stage, `total` is their sum; `unmeasured` are stages that
    no night has measured. `workers_needed` is how many workers hold the deadline (seconds), None if no number does. `memory`
    is of the process at work, in bytes; `sizes` are bytes under the root, by what they are; `elsewhere` are stores that keep
    theirs somewhere else. `shares` says of what this machine has, and of the deadline, how much the night needs at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str = ""
    rows: int
    workers: int
    chunks: int
    chunk_seconds: float
    engine: str = ""
    nights: int = 0
    largest: int = 0
    seconds: dict[Stage, Interval]
    total: Interval
    unmeasured: tuple[Stage, ...] = ()
    deadline: float | None = None
    workers_needed: int | None = None
    memory: Interval | None = None
    sizes: dict[str, int] = {}
    elsewhere: tuple[str, ...] = ()
    shares: dict[str, float] = {}
    cost: Cost | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the deadline is held in 19 of 20 nights; None if there is none."""
        return None if self.deadline is None else self.total.high <= self.deadline

    @property
    def is_far(self) -> bool:
        """Whether it is about far more rows than any night had."""
        return bool(self.nights) and self.rows > _FAR * self.largest

    def sentence(self) -> str:
        """Whether the deadline is held, and what would be enough; of spot, too, if there is a price of that."""
        if self.deadline is None:
            return ""
        spot = self.cost.spot if self.cost else None
        if spot is None:
            return self._held(self.deadline)
        longest = self.total.high + spot.extra_seconds.high
        held = f"{longest / self.deadline:.0%}" if longest <= self.deadline else "which does not fit"
        return f"{self._held(self.deadline)} On spot at most {_long(longest)}, {held}."

    def _held(self, deadline: float) -> str:
        have = _long(deadline)
        if self.fits:
            fewer = self.workers_needed is not None and self.workers_needed < self.workers
            enough = f" {self.workers_needed:,} workers would be enough." if fewer else ""
            return f"It fits: at most {_long(self.total.high)} of {have} ({self.total.high / deadline:.0%}).{enough}"
        missed = "It does not fit" if self.total.low > deadline else "It does not fit for sure"
        if self.workers_needed is None:
            rest = self.total.high - self.seconds["scoring"].high
            enough = f"no number of workers is enough, as everything but scoring takes up to {_long(rest)}"
        else:
            enough = f"{self.workers_needed:,} workers are enough"
        return f"{missed}: {_long(self.total.low)} to {_long(self.total.high)} of {have}; {enough}."


@dataclass(frozen=True)
class Figures:
    """What is said instead of measured: batches of `batch_rows` rows, each of which takes `batch_seconds` on one worker."""

    batch_rows: int
    batch_seconds: float
    chunk_rows: int = 131_072

    def worker_seconds(self, rows: int) -> float:
        """Seconds that all workers together score."""
        return math.ceil(rows / self.batch_rows) * self.batch_seconds


def plan_figures(figures: Figures, rows: int, workers: int, deadline: float | None = None, price: Price | None = None) -> Plan:
    """A plan from explicit figures: only scoring is counted. Raises ConfigError, as `cost` does."""

    def scoring(number: int) -> Interval:
        return _certain(figures.worker_seconds(rows) / number)

    taken, chunks = scoring(workers), max(math.ceil(rows / figures.chunk_rows), 1)
    chunk_seconds = taken.value * workers / chunks
    return Plan(
        rows=rows,
        workers=workers,
        chunks=chunks,
        chunk_seconds=chunk_seconds,
        seconds={"scoring": taken},
        total=taken,
        deadline=deadline,
        workers_needed=_fewest(lambda number: scoring(number).high, deadline, chunks),
        shares={"deadline": taken.high / deadline} if deadline else {},
        cost=cost(price, taken, taken, workers, 1.0, chunk_seconds) if price else None,
    )


def plan_night(
    config: PipelineConfig,
    storage: Storage,
    rows: int | None = None,
    workers: int | None = None,
    deadline: float | None = None,
    last: int = LAST_NIGHTS,
) -> Plan:
    """A plan from what the last nights took, by default of as many rows and workers as the last one had.

    Raises:
        NotFound: no night was measured yet, or none of nearly so many rows.
        ConfigError: as `cost` does.
    """
    nights = nights_took(storage, config.name, last)
    if not nights:
        raise NotFound(
            f"No night of {config.name} was measured yet: `batch-assets run {config.name} --partition DAY` makes one; or leave "
            "the pipeline out and say --rows, --batch-size, --batch-ms and --gpus."
        )
    planned, largest = rows or nights[-1].rows, max(night.rows for night in nights)
    if planned > _TOO_FAR * largest:
        raise NotFound(
            f"No night of {config.name} had more than {largest:,} rows, which say nothing of {planned:,}: make one of at least "
            f"{math.ceil(planned / _TOO_FAR):,} first, or leave the pipeline out and say --rows, --batch-size, --batch-ms and "
            "--gpus."
        )
    found = plan_from(nights, config, planned, workers or nights[-1].workers, deadline)
    sizes, elsewhere = _sizes(config, storage, nights[-1], planned)
    needs = amount_at([(night.rows, float(night.peak_bytes)) for night in nights], planned)
    shares = {"memory": needs.high / psutil.virtual_memory().total} if needs else {}
    free = storage.free_bytes()
    shares |= {"disk": sum(sizes.values()) / free} if free else {}
    return found.model_copy(
        update={"memory": needs, "sizes": sizes, "elsewhere": elsewhere, "shares": {**shares, **found.shares}}
    )


def plan_from(
    nights: Sequence[NightTook], config: PipelineConfig, rows: int, workers: int, deadline: float | None = None
) -> Plan:
    """Seconds, workers and money of a night, from what some nights took; at least one."""
    price, chunk_rows = config.engine.price, config.scoring.chunk_rows

    def stages(number: int) -> dict[Stage, Interval]:
        return stages_take(nights, rows, number, chunk_rows)

    seconds, chunks = stages(workers), max(math.ceil(rows / chunk_rows), 1)
    total, scoring = added(seconds.values()), seconds["scoring"]
    there = added(interval for stage, interval in seconds.items() if stage in OF_WORKERS)
    share, chunk_seconds = workers / nights[-1].workers, scoring.value / math.ceil(chunks / workers)
    return Plan(
        pipeline=config.name,
        rows=rows,
        workers=workers,
        chunks=chunks,
        chunk_seconds=chunk_seconds,
        engine=nights[-1].engine,
        nights=len(nights),
        largest=max(night.rows for night in nights),
        seconds=seconds,
        total=total,
        unmeasured=tuple(stage for stage in STAGES if stage not in seconds),
        deadline=deadline,
        workers_needed=_fewest(lambda number: added(stages(number).values()).high, deadline, chunks),
        shares={"deadline": total.high / deadline} if deadline else {},
        cost=cost(price, there, scoring, workers, share, chunk_seconds) if price else None,
    )


def _fewest(takes: Callable[[int], float], deadline: float | None, most: int) -> int | None:
    """The fewest workers that hold a deadline, of at most one for each chunk; more of them never take longer."""
    if deadline is None or takes(most) > deadline:
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(middle) <= deadline else (middle + 1, high)
    return low


def _sizes(config: PipelineConfig, storage: Storage, night: NightTook, rows: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bytes of snapshot, predictions and release in each store by what those of a night have for each row.

    Also the stores that say nothing of that, as they keep theirs elsewhere.
    """
    accepted = accepted_run(storage, config.name, night.day, ())
    manifest = latest_manifest(storage, accepted.folder) if accepted else None
    if manifest is None:
        return {}, ()
    snapshot = storage.names(manifest.snapshot_folder)
    bytes_of = {
        "snapshot": sum(size for name, size in snapshot.items() if name.startswith("part-")),
        "predictions": sum(file.size + (file.rejects.size if file.rejects else 0) for file in manifest.files),
    }
    elsewhere = list[str]()
    for release in in_stores(storage, config.name, release_name(manifest)):
        if "size" in release.built:
            bytes_of[f"release in {release.store.called}"] = int(release.built["size"])
        else:
            elsewhere.append(release.store.called)
    return {name: round(size * rows / night.rows) for name, size in bytes_of.items()}, tuple(elsewhere)


def _certain(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def _long(seconds: float) -> str:
    """A length of time for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
