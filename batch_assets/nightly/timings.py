"""What the verbs of a night took, kept beside what they made, so that it can be said beforehand what another night will take.

A measurement is a file of its own in `_took/` of the snapshot or the run that it is about: it is pruned with its subject, and
no digest or run id knows of it. The first counts, whoever writes it. Only what was done whole is measured: not a snapshot that
was there, a run that was resumed, a verdict that was kept, a release that was built before. What scoring took stands in the
manifest.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from batch_assets.errors import AlreadyExists
from batch_assets.features.snapshot import days_of
from batch_assets.nightly.accepted import accepted_run
from batch_assets.runs.manifest import Manifest, manifest_log
from batch_assets.storage import Storage
from batch_assets.threads import in_threads

Stage = Literal["features", "judging features", "start-up", "scoring", "proof", "judging", "publishing", "checking"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The stages of a night, in their order; `proof` is proof and audit, `checking` reads what is published back."""

OF_WORKERS: tuple[Stage, ...] = ("start-up", "scoring", "proof")
"""The stages in which the workers are there."""


class Timing(BaseModel):
    """How long a stage of so many rows took, and the most memory of its own that its process had meanwhile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    rows: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class NightTook:
    """What an accepted night took: seconds of each stage that was done whole; `workers` are those of its engine.

    `model` is the digest of the version that scored it. `peaks` is by stage the most memory of its own, in bytes, that the
    process which drove it had; that of `scoring` holds start-up and proof. The workers of Ray and Spark are other processes.
    `finished` is when its run was.
    """

    day: str
    rows: int
    chunks: int
    workers: int
    engine: str
    model: str
    seconds: dict[Stage, float]
    peaks: dict[Stage, int]
    finished: str

    @property
    def whole(self) -> bool:
        """Whether every stage was measured."""
        return len(self.seconds) == len(STAGES)

    @property
    def total(self) -> float:
        """Seconds of all stages that were measured."""
        return sum(self.seconds.values())


def keep_timing(storage: Storage, folder: str, stage: Stage, rows: int, seconds: float, peak_bytes: int) -> None:
    """Keep what a stage took that was done whole, beside the snapshot or the run in a folder."""
    timing = Timing(stage=stage, rows=rows, seconds=round(seconds, 6), peak_bytes=peak_bytes)
    with suppress(AlreadyExists):
        storage.create(f"{folder}/_took/{stage.replace(' ', '-')}.json", timing.model_dump_json().encode())


def kept_timings(storage: Storage, folder: str) -> dict[Stage, Timing]:
    """The measurement of each stage beside a snapshot or a run."""
    names = [name for name in storage.names(f"{folder}/_took") if name.endswith(".json")]
    found = [Timing.model_validate_json(storage.read(f"{folder}/_took/{name}")) for name in names]
    return {one.stage: one for one in found}


def nights_took(storage: Storage, pipeline: str, last: int) -> list[NightTook]:
    """The accepted nights of the newest days that scored all of their rows in one go, in the order in which they were finished.

    A run is finished once: a replay of its dead letters, or a purge, makes it no newer.
    """
    newest = in_threads(lambda day: _took(storage, pipeline, day), reversed(days_of(storage, pipeline)))
    return sorted(islice((one for one in newest if one is not None), last), key=lambda one: one.finished)


def _took(storage: Storage, pipeline: str, day: str) -> NightTook | None:
    accepted = accepted_run(storage, pipeline, day, ())
    entry = manifest_log(storage, accepted.folder).latest() if accepted else None
    manifest = entry.body if entry else None
    if manifest is None or not manifest.rows or manifest.scored_here < manifest.rows:
        return None
    kept = kept_timings(storage, manifest.snapshot_folder) | kept_timings(storage, manifest.folder)
    seconds = {stage: one.seconds for stage, one in kept.items()} | _scoring(manifest)
    return NightTook(
        day=day,
        rows=manifest.rows,
        chunks=len(manifest.by_chunk()),
        workers=max(manifest.work.workers, 1),
        engine=manifest.work.engine,
        model=manifest.model.digest,
        seconds={stage: seconds[stage] for stage in STAGES if stage in seconds},
        peaks={stage: one.peak_bytes for stage, one in kept.items()} | {"scoring": manifest.peak_bytes},
        finished=manifest.finished,
    )


def _scoring(manifest: Manifest) -> dict[Stage, float]:
    """The seconds of a run; its start-up is that of a worker, as workers start side by side."""
    start = manifest.work.seconds.get("start-up", 0.0) / max(manifest.work.workers, 1)
    start = min(start, manifest.wall_seconds - manifest.proof_seconds)
    rest = manifest.wall_seconds - manifest.proof_seconds - start
    return {"start-up": start, "scoring": rest, "proof": manifest.proof_seconds}
