"""What of a pipeline the look-up service is told: when what is live is too old, and whether it scores on a miss."""

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.serving.batcher import BatcherSettings


class RealtimeSettings(BaseModel):
    """Scoring rows that somebody sends, for whom no night has a prediction yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field("realtime", description="The alias whose version scores them, approved like the one of the nights.")
    timeout_ms: float = Field(1_000, description="Milliseconds after which an answer is worth nothing.", gt=0)
    batcher: BatcherSettings = BatcherSettings()


class ServiceSettings(BaseModel):
    """How a pipeline is served by `batch-assets serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stale_after_hours: float | None = Field(
        None,
        description="Hours since the live day was over after which the service is not ready; without it, no day is too old.",
        gt=0,
    )
    realtime: RealtimeSettings | None = Field(None, description="Score on a miss; without it nothing is scored by day.")
