"""What a night will take before it begins: seconds by stage, workers for a deadline, memory, bytes, money.

It is arithmetic: over explicit figures, which needs no pipeline, or over what the pipeline's last nights took, stage by stage
(`nightly/timings.py`, `nightly/estimates.py`), so each number of it comes with its interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import THREADS, Price
from batch_assets.errors import NotFound
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.estimates import LAST_NIGHTS, added, driver_peak, stages_take
from batch_assets.nightly.timings import OF_WORKERS, STAGES, NightTook, Stage, nights_took
from batch_assets.operations.cost import Cost, cost
from batch_assets.process import memory_there
from batch_assets.quality.statistics import Interval
from batch_assets.runs.chunks import count_chunks
from batch_assets.runs.manifest import latest_manifest
from batch_assets.serving.release import in_stores, release_name
from batch_assets.storage import Storage

_FAR, _TOO_FAR = 3, 100
"""So many times the rows of the largest night are a guess; and so many are refused."""


class Plan(BaseModel):
    """What a night of `rows` rows takes with `workers` workers.

    `pipeline` is empty, and `nights` is 0, of explicit figures; else it was made from so many nights, of which the largest had
    `largest` rows, and whose workers were `engine`. `seconds` are by stage, `total` is their sum; `unmeasured` are stages that
    no night has measured. `workers_needed` is how many workers hold the deadline (seconds), None if no number does: with as
    many as have something to do the night takes up to `shortest`. `driver_peak` is the most memory of its own that the process
    that drives has, in bytes: threads score in it, workers of Ray and Spark in others. `sizes` are bytes under the root,
    by what they are; `elsewhere` are stores that keep theirs somewhere else. `shares` says of what this machine has, and of the
    deadline, how much the night needs at most.
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
    shortest: float
    driver_peak: Interval | None = None
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

    @property
    def of_threads(self) -> bool:
        """Whether a worker is all threads of one process, so that several of them are several machines."""
        return self.engine.partition(", because ")[0] == THREADS

    def workers_are(self) -> str:
        """What several workers are, where that is not what `engine.workers` says; else nothing."""
        if not self.of_threads or self.workers == 1:
            return ""
        return (
            f"{self._many(self.workers)} are meant, with engine ray or spark: threads are one process, and `engine.workers` is "
            "how many of them score in it."
        )

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
            enough = f" {self._many(self.workers_needed)} would be enough." if self.workers_needed and fewer else ""
            return f"It fits: at most {_long(self.total.high)} of {have} ({self.total.high / deadline:.0%}).{enough}"
        missed = "It does not fit" if self.total.low > deadline else "It does not fit for sure"
        if self.workers_needed is None:
            enough = f"no number of workers is enough, as {self._not_shared(deadline)}"
        else:
            are = "is" if self.workers_needed == 1 else "are"
            by = ", with engine ray or spark," if self.of_threads else ""
            enough = f"{self._many(self.workers_needed)}{by} {are} enough"
        return f"{missed}: {_long(self.total.low)} to {_long(self.total.high)} of {have}; {enough}."

    def _many(self, workers: int) -> str:
        what = "machine" if self.of_threads else "worker"
        return f"{workers:,} {what}{'' if workers == 1 else 's'}{' such as the one measured' if self.of_threads else ''}"

    def _not_shared(self, deadline: float) -> str:
        """What takes longer than the deadline, however many workers there are."""
        rest = self.total.high - self.seconds["scoring"].high
        if rest > deadline:
            return f"everything but scoring takes up to {_long(rest)}"
        if not self.pipeline:
            return f"one batch takes {_long(self.shortest)}"
        chunk = f"one chunk and everything but scoring take up to {_long(self.shortest)}"
        return f"{chunk}: take smaller chunks (scoring.chunk_rows)"


@dataclass(frozen=True)
class Figures:
    """What is said instead of measured: batches of `batch_rows` rows, each of which takes `batch_seconds` on one worker.

    Each worker has as many batches as any other, in as many chunks, of about `chunk_rows` rows or fewer.
    """

    batch_rows: int
    batch_seconds: float
    chunk_rows: int = 131_072

    def batches(self, rows: int) -> int:
        """How many there are: more workers have nothing to do."""
        return math.ceil(rows / self.batch_rows)

    def chunks(self, rows: int, workers: int) -> int:
        """How many are shared by the workers."""
        return min(workers * math.ceil(rows / (workers * self.chunk_rows)), self.batches(rows))

    def scoring(self, rows: int, workers: int) -> float:
        """Seconds that scoring takes."""
        batches = self.batches(rows)
        return batches / min(workers, batches) * self.batch_seconds


def plan_figures(figures: Figures, rows: int, workers: int, deadline: float | None = None, price: Price | None = None) -> Plan:
    """A plan from explicit figures: only scoring is counted. Raises ConfigError, as `cost` does."""
    seconds, chunks, most = figures.scoring(rows, workers), figures.chunks(rows, workers), figures.batches(rows)
    taken = Interval(value=seconds, low=seconds, high=seconds)
    chunk_seconds = most * figures.batch_seconds / chunks
    return Plan(
        rows=rows,
        workers=workers,
        chunks=chunks,
        chunk_seconds=chunk_seconds,
        seconds={"scoring": taken},
        total=taken,
        deadline=deadline,
        workers_needed=_fewest(lambda number: figures.scoring(rows, number), deadline, most),
        shortest=figures.scoring(rows, most),
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
    peak = driver_peak(nights, config.features.source.held(), planned)
    shares = {"memory": peak.high / memory_there()} if peak else {}
    free = storage.free_bytes()
    shares |= {"disk": sum(sizes.values()) / max(free, 1)} if free is not None else {}
    return found.model_copy(
        update={"driver_peak": peak, "sizes": sizes, "elsewhere": elsewhere, "shares": {**shares, **found.shares}}
    )


def plan_from(
    nights: Sequence[NightTook], config: PipelineConfig, rows: int, workers: int, deadline: float | None = None
) -> Plan:
    """Seconds, workers and money of a night, from what some nights took; at least one. Raises NotFound."""
    price, chunks = config.engine.price, count_chunks(rows, config.scoring.chunk_rows)

    def at_most(number: int) -> float:
        return added(stages_take(nights, rows, chunks, number).values()).high

    seconds = stages_take(nights, rows, chunks, workers)
    if "scoring" not in seconds:
        raise NotFound(f"No night of {config.name} with its last model says what scoring takes: make another one first.")
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
        workers_needed=_fewest(at_most, deadline, chunks),
        shortest=at_most(chunks),
        shares={"deadline": total.high / deadline} if deadline else {},
        cost=cost(price, there, scoring, workers, share, chunk_seconds) if price else None,
    )


def _fewest(takes: Callable[[int], float], deadline: float | None, most: int) -> int | None:
    """The fewest workers that hold a deadline, of at most as many as have something to do; more of them never take longer."""
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


def _long(seconds: float) -> str:
    """A length of time for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
