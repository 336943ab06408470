"""Find a pipeline's batch size: measure on its own rows and model, draw the curve, remember the knee."""

from dataclasses import dataclass

import psutil

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound, OutOfMemory
from batch_assets.features.snapshot import current_log, days_of, snapshot_folder
from batch_assets.logs import Change
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.night import Night
from batch_assets.nightly.progress import Progress
from batch_assets.pictures.plots import plot_sweep
from batch_assets.process import memory_there
from batch_assets.scoring.batch_size import Measured, Sweep, measure, pick, sweep_log
from batch_assets.scoring.inputs import SHAPE
from batch_assets.storage import Storage
from batch_assets.threads import cores


@dataclass(frozen=True)
class Swept:
    """A sweep and where its picture lies under the storage root."""

    sweep: Sweep
    picture: str


def sweep(
    config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, progress: Progress, memory_limit: int | None = None
) -> Swept:
    """Measure batch sizes on a day's frozen rows, up to a memory limit in bytes.

    By default it is what a GPU has, or a worker's share of what is free on this machine.

    Raises:
        NotFound: the day is not frozen, or has no rows.
        OutOfMemory: not a single row fits.
    """
    night = Night.open(config, storage, day, model)
    if not night.plan:
        raise NotFound(f"{config.name} {day} has no rows to measure with.")
    workers = config.engine.workers or cores()
    of_device = model.card.runtime.memory(night.settings.device)
    limit = memory_limit or of_device or min(psutil.virtual_memory().available, memory_there()) // workers
    measured: list[Measured] = []
    ended = ""
    for found in measure(night.task(), night.plan[0], limit):
        if isinstance(found, str):
            ended = found
        else:
            measured.append(found)
            progress.say(
                f"{found.batch_rows:>12,} rows a batch: {found.rows_per_s:>12,.0f} rows/s, {found.memory / 1e6:>8,.0f} MB"
            )
    if not any(one.batch_rows % SHAPE == 0 for one in measured):
        raise OutOfMemory(f"No batch of {SHAPE} rows or more could be measured: {ended}.")
    library, settings, sha256 = model.card.runtime.versioned(), night.settings, model.card.model_sha256
    result = Sweep(
        model_sha256=sha256,
        device=settings.device,
        precision=settings.precision,
        library=library,
        memory_limit=limit,
        measured=tuple(measured),
        ended=ended,
        batch_rows=pick(measured, limit),
    )
    curve = [(one.batch_rows, one.rows_per_s, one.memory) for one in measured]
    picture_bytes = plot_sweep(curve, result.batch_rows, f"{model.name} {model.version} on {settings.device}")
    log = sweep_log(storage, sha256, settings, library)
    entry = log.update(lambda _: Change(result, f"sweep on {config.name} {day}"))
    picture = f"{log.folder}/{entry.number:06d}.png"
    storage.create(picture, picture_bytes)
    return Swept(result, picture)


def newest_frozen_day(config: PipelineConfig, storage: Storage) -> str:
    """The newest day that has a snapshot. Raises NotFound."""
    for day in reversed(days_of(storage, config.name)):
        entry = current_log(storage, config.name, day).latest()
        if entry is not None and storage.names(snapshot_folder(config.name, day, entry.body.digest)):
            return day
    raise NotFound(f"No day of {config.name} is frozen yet: run one, or materialize user_features.")
