"""A night: one day of one pipeline by one model version, opened once and handed on from verb to verb.

The run id is a digest of everything that decides the result. The same work has the same id and resumes; anything else
has another, so two models or two settings never mix.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound
from batch_assets.features.snapshot import SnapshotReader, current_log
from batch_assets.logs import NumberedLog
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.freeze import Frozen, frozen
from batch_assets.runs.chunks import Chunk, plan_chunks
from batch_assets.runs.commit import day_folder, run_folder
from batch_assets.runs.manifest import Manifest, manifest_log, read_manifest
from batch_assets.scoring.batch_size import BatchSize, pin, resolved
from batch_assets.scoring.scorer import SCORING_FORMAT, ScoringTask
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.storage import Storage


@dataclass(frozen=True)
class Night:
    """What scoring a day with a model version means, whether or not it has begun; `settings` have no `auto` any more.

    It was read once and checked once, when it was opened: the snapshot's files, the model's bytes, the plan.
    """

    config: PipelineConfig
    storage: Storage
    day: str
    frozen: Frozen
    model: ModelVersion
    settings: ScoringSettings
    plan: tuple[Chunk, ...]
    run_id: str

    @classmethod
    def open(
        cls, config: PipelineConfig, storage: Storage, day: str, model: ModelVersion, snapshot: Frozen | None = None
    ) -> "Night":
        """The night of a day, or of a snapshot that is given.

        Raises:
            NotFound: the day is not frozen.
            SnapshotChanged: a frozen file was changed.
        """
        snapshot = snapshot or frozen(config, storage, day)
        return cls._planned(config, storage, day, snapshot, model, _settings(config, storage, day, model))

    @classmethod
    def _planned(
        cls,
        config: PipelineConfig,
        storage: Storage,
        day: str,
        snapshot: Frozen,
        model: ModelVersion,
        settings: ScoringSettings,
    ) -> "Night":
        plan = plan_chunks(snapshot.snapshot, settings.chunk_rows)
        identity = {
            "pipeline": config.name,
            "partition": day,
            "snapshot": snapshot.snapshot.digest,
            "timezone": config.partitions.timezone,
            "model": [model.name, model.version, model.digest],
            "contract": config.features.contract.fingerprint(),
            "plan": [[chunk.file, chunk.start, chunk.rows] for chunk in plan],
            "settings": settings.deciding(),
            "scoring_format": SCORING_FORMAT,
        }
        run_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return cls(config, storage, day, snapshot, model, settings, plan, run_id)

    def begun(self) -> "Night":
        """The same night with the batch size that its day was begun with, which is written down if nobody has begun it."""
        if self.config.scoring.batch_size != "auto":
            return self
        settings = pin(batch_size_log(self.config, self.storage, self.day, self.model), self.settings)
        if settings == self.settings:
            return self
        return self._planned(self.config, self.storage, self.day, self.frozen, self.model, settings)

    @property
    def folder(self) -> str:
        """Where the run's files lie."""
        return run_folder(self.config.name, self.day, self.run_id)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"Run {self.run_id} of {self.config.name} {self.day}"

    def manifest(self) -> Manifest:
        """What the finished run says of itself. Raises NotFound if it is not finished, CommitBroken if files are missing."""
        found = read_manifest(self.storage, self.folder)
        if found is None:
            scored = f"{self.config.name} {self.day} is not scored by {self.model.name} {self.model.version} yet"
            raise NotFound(f"{scored}: materialize predictions first.")
        return found

    def made_from(self) -> list[NumberedLog[Any]]:
        """The logs that decide what the run is: the day's snapshot, its batch size, the model's approval."""
        size = batch_size_log(self.config, self.storage, self.day, self.model)
        return [current_log(self.storage, self.config.name, self.day), size, *self.model.logs]

    def log(self) -> NumberedLog[Manifest]:
        """The run's manifests."""
        return manifest_log(self.storage, self.folder)

    def task(self) -> ScoringTask:
        """What workers are told, after the columns were compared with what the model takes. Raises ContractBroken."""
        card = self.model.card
        reader = SnapshotReader(self.frozen.storage, self.frozen.folder, self.frozen.snapshot)
        card.contract.require(reader.schema(), f"The snapshot of {self.config.name} {self.day}")
        return ScoringTask(
            storage=self.frozen.storage,
            snapshot=self.frozen.snapshot,
            snapshot_folder=self.frozen.folder,
            contract=card.contract,
            head=card.head,
            histogram_edges=card.baseline.edges,
            settings=self.settings,
            run_id=self.run_id,
            run_folder=self.folder,
            day=self.day,
            model_version=self.model.version,
            model_sha256=card.model_sha256,
            library=card.runtime.versioned(),
            load=PredictorLoader(self.model.storage, self.model.path, card.model_sha256, card.runtime),
        )


def _settings(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> ScoringSettings:
    """Settings with a number for `auto`: the one that the day was begun with, else what a sweep found, else the default."""
    if config.scoring.batch_size != "auto":
        return config.scoring
    begun = batch_size_log(config, storage, day, model)
    found = resolved(storage, config.scoring, model.card.model_sha256, model.card.runtime.versioned())
    return pin(begun, found) if begun.latest() else found


def batch_size_log(config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> NumberedLog[BatchSize]:
    """Which batch size `auto` means for a day and a model."""
    key = f"{model.card.model_sha256[:16]}-{config.scoring.device}-{config.scoring.precision}"
    return NumberedLog(storage, f"{day_folder(config.name, day)}/_batch_size/{key}", BatchSize)
