"""The model card: what a version says of itself. It is immutable and part of the version's digest."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from batch_assets.contract import FeatureContract
from batch_assets.errors import ModelMisfit
from batch_assets.histogram import Histogram, Spread
from batch_assets.models.formats import FACTORY_PATTERN, MODEL_FILES, PT2, FormatName, ModelFormat
from batch_assets.scoring.postprocess import Outputs


def _is_pt2(name: str) -> bool:
    return name == "pt2"


def _is_none(value: object) -> bool:
    return value is None


class Card(BaseModel):
    """What a model takes, what its outputs mean, what its scores looked like, and how well it did on later days.

    The card of a `.pt2` says nothing of formats, as it did before there were others: the same card keeps the same bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    model_sha256: str = Field(description="sha256 of the model file.")
    format: FormatName = Field("pt2", description="What the model file is; see models.formats.", exclude_if=_is_pt2)
    module: str | None = Field(
        None, description="safetensors: package.file:factory of the network.", pattern=FACTORY_PATTERN, exclude_if=_is_none
    )
    module_sha256: str | None = Field(None, description="sha256 of that module's source file.", exclude_if=_is_none)
    contract: FeatureContract
    outputs: Outputs
    baseline_partition: str = Field(description="The day whose scores the baseline and the deciles are taken from.")
    baseline: Histogram = Field(description="Histogram of the probabilities on the baseline day.")
    features: dict[str, Spread] | None = Field(
        None, description="How each feature was spread on the baseline day.", exclude_if=_is_none
    )
    metrics: dict[str, dict[str, float]] = Field(description="Partition -> metrics measured on it after training.")
    training: dict[str, Any] = Field(description="How it was trained: partitions, seed, label, sizes.")

    @model_validator(mode="after")
    def _weights_need_a_module(self) -> Self:
        if (self.format == "safetensors") != (self.module is not None) or (self.module is None) != (self.module_sha256 is None):
            raise ValueError("safetensors need a module and its module_sha256, other formats have none")
        return self

    @property
    def form(self) -> ModelFormat:
        """How the model file is read."""
        return ModelFormat(self.format, self.module, self.module_sha256)

    @property
    def model_file(self) -> str:
        """How the model file is called in the version's folder."""
        return MODEL_FILES[self.format]


def make_card(
    model: bytes,
    contract: FeatureContract,
    probabilities: npt.NDArray[np.float32],
    *,
    partition: str,
    labels: tuple[str, ...],
    threshold: float | None = None,
    features: Mapping[str, npt.NDArray[np.generic]] | None = None,
    description: str,
    metrics: dict[str, dict[str, float]],
    training: dict[str, Any],
    form: ModelFormat = PT2,
) -> Card:
    """The card of a classifier, with deciles and baseline taken from its probabilities on one day.

    Args:
        model: the model file.
        contract: what the model takes.
        probabilities: shape (rows,), of a day that the model was not trained on; see `predictor.predict_probabilities`.
        partition: that day.
        labels: names of the classes; of two, the negative one comes first.
        threshold: of two classes, the probability from which on the positive label is given.
        features: the values of that day's features by name, each of shape (rows,); nights are compared with them, too.
        description: one sentence for people.
        metrics: partition -> what was measured on it after training.
        training: how it was trained.
        form: what the model file is.
    """
    percentiles = np.unique(np.quantile(probabilities, np.arange(1, 100) / 100))
    deciles = np.quantile(probabilities, np.arange(1, 10) / 10)
    return Card(
        description=description,
        model_sha256=hashlib.sha256(model).hexdigest(),
        format=form.name,
        module=form.module,
        module_sha256=form.module_sha256,
        contract=contract,
        outputs=Outputs(labels=labels, threshold=threshold, decile_edges=tuple(deciles.tolist())),
        baseline_partition=partition,
        baseline=Histogram.of(probabilities, percentiles.tolist()),
        features={name: Spread.of(values, category=name in contract.categories) for name, values in features.items()}
        if features
        else None,
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
