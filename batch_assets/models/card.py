"""The model card: what a version says of itself. It is immutable and part of the version's digest."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.histogram import Histogram, Spread
from batch_assets.models.predictor import Matrix, outputs_of
from batch_assets.models.runtimes.runtime import RUNTIMES, Runtime
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.heads.head import HEADS, Head


def _is_none(value: object) -> bool:
    return value is None


class Card(BaseModel):
    """What a model is, what it takes, what its outputs mean, what its scores looked like, how well it did on later days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    model_sha256: str = Field(description="sha256 of the model file.")
    runtime: Annotated[Runtime, RUNTIMES] = Field(description="What the model file is, and so which library computes with it.")
    contract: FeatureContract
    head: Annotated[Head, HEADS] = Field(description="What its outputs mean.")
    baseline_partition: str = Field(description="The day whose scores the baseline and the deciles are taken from.")
    baseline: Histogram = Field(description="Histogram of the scores on the baseline day.")
    features: dict[str, Spread] | None = Field(
        None, description="How each feature was spread on the baseline day.", exclude_if=_is_none
    )
    metrics: dict[str, dict[str, float]] = Field(description="Partition -> metrics measured on it after training.")
    training: dict[str, Any] = Field(description="How it was trained: partitions, seed, label, sizes.")

    @field_validator("baseline")
    @classmethod
    def _has_scores(cls, baseline: Histogram) -> Histogram:
        if not baseline.total:
            raise ValueError("it holds no scores, and nights are compared with them: let it be of those of the baseline day")
        return baseline

    @property
    def model_file(self) -> str:
        """How the model file is called in the version's folder."""
        return self.runtime.model_file


def make_card(
    model: bytes,
    contract: FeatureContract,
    features: Matrix | Sequence[Matrix],
    *,
    head: Head,
    partition: str,
    description: str,
    metrics: dict[str, dict[str, float]],
    training: dict[str, Any],
    runtime: Runtime = PT2,
) -> Card:
    """The card of a model, with deciles and baselines taken from one day: what it says of it, and how its features are.

    Args:
        model: the model file.
        contract: what the model takes.
        features: those of a day that the model was not trained on, shape (rows, columns), of a contract with several inputs
            one such array for each; nights are compared with them. See `predictor.predict_scores`.
        head: what its outputs mean; its deciles are measured here.
        partition: that day.
        description: one sentence for people.
        metrics: partition -> what was measured on it after training.
        training: how it was trained.
        runtime: what the model file is.

    Raises:
        ModelMisfit: the model does not give what is said of it, or there are other features than the contract names.
    """
    matrices = [features] if isinstance(features, np.ndarray) else list(features)
    spreads = _spreads(contract, matrices)
    cast = [matrix.astype(one.dtype) for matrix, one in zip(matrices, contract.inputs, strict=True)]
    values = outputs_of(model, cast, runtime=runtime)
    fitted = head.fitted(values)
    scores = fitted.score_of(values)
    seen = scores[np.isfinite(scores)]
    return Card(
        description=description,
        model_sha256=hashlib.sha256(model).hexdigest(),
        runtime=runtime,
        contract=contract,
        head=fitted,
        baseline_partition=partition,
        baseline=Histogram.of(scores, np.unique(np.quantile(seen, np.arange(1, 100) / 100)).tolist()),
        features=spreads,
        metrics=metrics,
        training=training,
    )


def _spreads(contract: FeatureContract, matrices: Sequence[Matrix]) -> dict[str, Spread]:
    """How the single-valued columns are spread; raises ModelMisfit if the features are not those of the contract."""
    if len(matrices) != len(contract.inputs):
        raise ModelMisfit(f"The contract has {len(contract.inputs)} inputs, but there are features for {len(matrices)}.")
    found = {}
    for model_input, values in zip(contract.inputs, matrices, strict=True):
        columns = contract.columns_of(model_input.name)
        if columns[0].length == "variable":
            continue
        matrix = values[:, None] if values.ndim == 1 else values
        places = list(accumulate((column.length if isinstance(column.length, int) else 1 for column in columns), initial=0))
        if matrix.shape[1] != places[-1]:
            raise ModelMisfit(
                f"The input {model_input.name} has {places[-1]} numbers a row by the contract, but the features have "
                f"{matrix.shape[1]}."
            )
        for column, place in zip(columns, places, strict=False):
            if column.length is None:
                found[column.name] = Spread.of(matrix[:, place], category=column.categories is not None)
    return found


def read_card(data: bytes, name: str) -> Card:
    """A card from its JSON; `name` is for messages. Raises ModelMisfit."""
    try:
        return Card.model_validate_json(data)
    except ValidationError as error:
        raise ModelMisfit(f"{name} is not a model card: {_first(error)}.") from error


def _first(error: ValidationError) -> str:
    """What a validation says first, and of which field."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


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
