"""Rows of whom no night knows yet -> their records, by the version that is approved for that, in batches."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from batch_assets.clock import utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.scoring.rows import Row, RowScorer, permitted
from batch_assets.serving.batcher import DynamicBatcher
from batch_assets.serving.settings import RealtimeSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    """A version with its predictor behind a batcher."""

    version: ModelVersion
    batcher: DynamicBatcher[Row, np.void]


class Realtime:
    """Scores a pipeline's rows in one event loop, with the version that its realtime alias names.

    It looks every few seconds, when it is asked, whether another was approved, and goes on with the one it has meanwhile.
    """

    def __init__(
        self, config: PipelineConfig, settings: RealtimeSettings, registry: Registry, threads: Executor, fresh_s: float = 5.0
    ) -> None:
        self._config, self._settings, self._registry, self._threads = config, settings, registry, threads
        self._fresh_s, self._turn, self._look_at = fresh_s, asyncio.Lock(), 0.0
        self._loaded: _Loaded | None = None
        self._following: asyncio.Task[None] | None = None

    async def score(self, features: Mapping[str, object]) -> dict[str, Any]:
        """The record of a row, marked as fresh, with its lineage.

        Raises:
            NotScored: the contract does not permit the features, a business rule excludes the row, or the model raises.
            NoSuchModel, ModelChanged, ModelMisfit, ContractBroken: no version can be used.
            Overloaded, DeadlinePassed: there was no answer in time.
        """
        loaded = await self._now()
        version, card = loaded.version, loaded.version.card
        found = await loaded.batcher.ask(permitted(card.contract, features), timeout_ms=self._settings.timeout_ms)
        return {
            "record": {**card.head.record.as_mapping(found), "model_version": version.version},
            "fresh": True,
            "lineage": {
                "pipeline": self._config.name,
                "model": version.name,
                "model_sha256": card.model_sha256,
                "alias": version.alias,
                "approval": version.approval,
                "scored_at": utc_now().isoformat(timespec="milliseconds"),
            },
        }

    async def close(self) -> None:
        """Answer who waits, and take no more."""
        if self._following is not None:
            await asyncio.wait([self._following])
        if self._loaded is not None:
            await self._loaded.batcher.close()

    async def _now(self) -> _Loaded:
        loop = asyncio.get_running_loop()
        if self._loaded is None:
            async with self._turn:
                if self._loaded is None:
                    self._loaded = await self._load()
                    self._look_at = loop.time() + self._fresh_s
        elif loop.time() >= self._look_at and (self._following is None or self._following.done()):
            self._look_at = loop.time() + self._fresh_s
            self._following = loop.create_task(self._follow(self._loaded))
        return self._loaded

    async def _follow(self, loaded: _Loaded) -> None:
        """Take another version if another was approved; who was asked before it answers whom it has."""
        approvals = self._registry.approvals(self._config.model.name, self._settings.alias)
        try:
            latest = await asyncio.get_running_loop().run_in_executor(self._threads, approvals.latest)
            if latest is None or latest.number == loaded.version.approval:
                return
            self._loaded = await self._load()
        except BatchAssetsError as error:
            _LOG.warning("%s is scored by %s: %s", self._config.name, loaded.version.version, error)
            return
        await loaded.batcher.close()

    async def _load(self) -> _Loaded:
        version, scorer = await asyncio.get_running_loop().run_in_executor(self._threads, self._read)
        return _Loaded(version, DynamicBatcher(scorer, self._settings.batcher))

    def _read(self) -> tuple[ModelVersion, RowScorer]:
        config = self._config
        version = self._registry.resolve(config.model.model_copy(update={"alias": self._settings.alias}))
        card, name = version.card, f"{version.name} {version.version}"
        config.answers.require(card.head, name)
        config.features.contract.require_same(card.contract, name)
        predictor = PredictorLoader(version.storage, version.path, card.model_sha256, card.runtime)(
            config.scoring.device, config.scoring.precision
        )
        return version, RowScorer(config.features.contract, card.head, predictor, config.scoring.exclude)
