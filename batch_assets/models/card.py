"""The model card: what a version says of itself. It is immutable and part of the version's digest."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.contract import FeatureContract
from batch_assets.histogram import Histogram
from batch_assets.scoring.postprocess import Outputs


class Card(BaseModel):
    """What a model takes, what its outputs mean, what its scores looked like, and how well it did on later days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    model_sha256: str = Field(description="sha256 of model.pt2.")
    contract: FeatureContract
    outputs: Outputs
    baseline_partition: str = Field(description="The day whose scores the baseline and the deciles are taken from.")
    baseline: Histogram = Field(description="Histogram of the probabilities on the baseline day.")
    metrics: dict[str, dict[str, float]] = Field(description="Partition -> metrics measured on it after training.")
    training: dict[str, Any] = Field(description="How it was trained: partitions, seed, label, sizes.")
