"""A card is made of a model and the features of one day; what it says of both is measured."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.histogram import Spread
from batch_assets.models.card import Card, make_card
from batch_assets.models.predictor import predict_scores
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.scoring.heads.classifier import Returns
from batch_assets.scoring.heads.head import Head
from batch_assets_tests.small import head_of

CONTRACT = FeatureContract.model_validate(
    {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": name} for name in ("x", "y", "z")]}
)
SEVERAL = FeatureContract.model_validate(
    {
        "key": {"name": "user", "dtype": "int64"},
        "columns": [
            {"name": "x"},
            {"name": "y"},
            {"name": "item", "dtype": "int64", "input": "ids", "categories": 20},
            {"name": "seen", "dtype": "int64", "length": "variable", "input": "history"},
        ],
        "inputs": [{"name": "features"}, {"name": "ids", "dtype": "int64"}, {"name": "history", "dtype": "int64"}],
    }
)
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((3_000, 3)).astype(np.float32)


class Several(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.out = torch.nn.Embedding(20, 4), torch.nn.Linear(10, 1)

    def forward(self, features: torch.Tensor, ids: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([features, self.items(ids[:, 0]), self.items(history).sum(dim=1)], dim=1))


def layer(width: int, *end: torch.nn.Module) -> bytes:
    torch.manual_seed(0)
    return export_model(torch.nn.Sequential(torch.nn.Linear(3, width), *end), 3)


def binary(returns: Returns) -> Head:
    return head_of(returns=returns, labels=("no", "yes"))


def card_of(model: bytes, returns: Returns, classes: int = 2, features: Any = FEATURES, **said: Any) -> Card:
    return make_card(
        model,
        said.pop("contract", CONTRACT),
        features,
        head=head_of(
            returns=returns,
            labels=tuple(f"class {number}" for number in range(classes)),
            confirmed=said.pop("confirmed", False),
        ),
        partition="2024-01-31",
        description="made up",
        metrics={},
        training={},
        **said,
    )


def test_a_sigmoid_of_its_own_gives_the_baseline_that_ours_gives() -> None:
    """It was squashed twice, and so was the baseline that nights are compared with."""
    theirs, ours = card_of(layer(1, torch.nn.Sigmoid()), "probabilities"), card_of(layer(1), "logits")
    np.testing.assert_allclose(theirs.head.decile_edges, ours.head.decile_edges, atol=1e-6)
    assert theirs.baseline.minimum == pytest.approx(ours.baseline.minimum, abs=1e-6)
    assert theirs.head.decile_edges[0] < 0.45
    probability = predict_scores(layer(1, torch.nn.Sigmoid()), FEATURES, binary("probabilities"))
    np.testing.assert_allclose(probability, predict_scores(layer(1), FEATURES, binary("logits")), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "returns", "classes", "message"),
    [
        (layer(1, torch.nn.Sigmoid()), "logits", 2, r'returns="probabilities", …\); if they are logits .* say confirmed=True'),
        (layer(1), "probabilities", 2, 'returns="logits"'),
        (layer(3, torch.nn.Softmax(dim=1)), "logits", 3, "squashed twice"),
        (layer(3), "logits", 2, r"gives 3 values a row, for the labels class 0, class 1 it must be one logit"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_card_is_made(model: bytes, returns: Returns, classes: int, message: str) -> None:
    with pytest.raises(ModelMisfit, match=message):
        card_of(model, returns, classes)


def test_more_classes_than_a_byte_tells_apart_are_refused_before_a_card_is_made() -> None:
    with pytest.raises(ValidationError, match="there are 128 labels and at most 127 can be told apart"):
        card_of(layer(3), "logits", 128)


def test_it_finds_out_whether_each_of_two_classes_has_a_value() -> None:
    assert card_of(layer(2), "logits").head.per_class
    assert not card_of(layer(1), "logits").head.per_class


def test_what_a_person_confirms_stands_in_the_card() -> None:
    assert card_of(layer(1, torch.nn.Sigmoid()), "logits", confirmed=True).head.confirmed


def test_several_inputs_have_an_array_each() -> None:
    several = (
        FEATURES[:, :2],
        RANDOM.integers(0, 20, (3_000, 1)),
        RANDOM.integers(0, 20, (3_000, 7)),
    )
    module = Several()
    model = export_model(module, SEVERAL)
    found = predict_scores(model, several, binary("logits"))
    with torch.inference_mode():
        expected = torch.sigmoid(module.eval()(*map(torch.from_numpy, several))[:, 0]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    card = card_of(model, "logits", features=several, contract=SEVERAL)
    assert card.features == {
        "x": Spread.of(FEATURES[:, 0]),
        "y": Spread.of(FEATURES[:, 1]),
        "item": Spread.of(several[1][:, 0], category=True),
    }
    with pytest.raises(ModelMisfit, match="has 3 inputs, but there are features for 2"):
        card_of(model, "logits", features=several[:2], contract=SEVERAL)
    with pytest.raises(ModelMisfit, match="features has 2 numbers a row by the contract, but the features have 3"):
        card_of(model, "logits", features=(FEATURES, *several[1:]), contract=SEVERAL)
    with pytest.raises(ModelMisfit, match="does not take these features"):
        predict_scores(model, several[:2], binary("logits"))
    with pytest.raises(ModelMisfit, match="equally many rows"):
        predict_scores(model, (several[0][:5], *several[1:]), binary("logits"))


def test_probabilities_that_are_none_are_not_cut_off() -> None:
    with pytest.raises(ModelMisfit, match=r"it returns probabilities, but [\d,]+ of 3,000 rows are not between 0 and 1"):
        predict_scores(layer(1), FEATURES, binary("probabilities"))


def test_a_baseline_without_scores_is_refused() -> None:
    said = card_of(layer(1), "logits").model_dump(mode="json")
    said["baseline"]["counts"] = [0] * len(said["baseline"]["counts"])
    with pytest.raises(ValidationError, match="holds no scores, and nights are compared with them"):
        Card.model_validate(said)
