"""The model card: what a version says of itself. It is immutable and part of the version's digest."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_assets.contract import FeatureContract
from batch_assets.errors import ModelMisfit
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


def read_card(data: bytes, name: str) -> Card:
    """A card from its JSON; `name` is for messages. Raises ModelMisfit."""
    try:
        return Card.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelMisfit(f"{name} is not a model card: {where + ': ' if where else ''}{first['msg']}.") from error


def differences(before: Card, after: Card) -> dict[str, tuple[Any, Any]]:
    """What two cards say differently, as path -> (before, after); None where one says nothing."""
    one, other = _leaves(before.model_dump(mode="json")), _leaves(after.model_dump(mode="json"))
    return {path: (one.get(path), other.get(path)) for path in {**one, **other} if one.get(path) != other.get(path)}


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every plain value by its path; a long list of numbers counts as one value."""
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        items = enumerate(value)
    else:
        return {path: value}
    return {name: leaf for key, one in items for name, leaf in _leaves(one, f"{path}.{key}".lstrip(".")).items()}
