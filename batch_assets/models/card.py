"""The model card: what a version says of itself. It is immutable and part of the version's digest."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
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


def make_card(
    model: bytes,
    contract: FeatureContract,
    probabilities: npt.NDArray[np.float32],
    *,
    partition: str,
    labels: tuple[str, ...],
    threshold: float | None = None,
    description: str,
    metrics: dict[str, dict[str, float]],
    training: dict[str, Any],
) -> Card:
    """The card of a classifier, with deciles and baseline taken from its probabilities on one day.

    Args:
        model: the exported program.
        contract: what the model takes.
        probabilities: shape (rows,), of a day that the model was not trained on; see `predictor.predict_probabilities`.
        partition: that day.
        labels: names of the classes; of two, the negative one comes first.
        threshold: of two classes, the probability from which on the positive label is given.
        description: one sentence for people.
        metrics: partition -> what was measured on it after training.
        training: how it was trained.
    """
    percentiles = np.unique(np.quantile(probabilities, np.arange(1, 100) / 100))
    deciles = np.quantile(probabilities, np.arange(1, 10) / 10)
    return Card(
        description=description,
        model_sha256=hashlib.sha256(model).hexdigest(),
        contract=contract,
        outputs=Outputs(labels=labels, threshold=threshold, decile_edges=tuple(deciles.tolist())),
        baseline_partition=partition,
        baseline=Histogram.of(probabilities, percentiles.tolist()),
        metrics=metrics,
        training=training,
    )
