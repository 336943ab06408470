"""Whole nights of models that answer otherwise than with a probability: a number, and the score of every class."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ModelMisfit, NotFound
from batch_assets.histogram import Histogram
from batch_assets.models.predictor import predict_scores
from batch_assets.models.registry import ModelVersion
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.explain import explain
from batch_assets.operations.replay import replay
from batch_assets.operations.rollout import plan_rollout
from batch_assets.runs.manifest import latest_manifest
from batch_assets.scoring.heads.classifier import Classes
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.heads.value import Value
from batch_assets.serving.reader import Reader
from batch_assets_tests.small import DAY, Small, rows, small_model, with_values

Make = Callable[..., Small]
NAMES = ("low", "middle", "high")


class Spend(torch.nn.Module):
    """Dollars, of which some are negative."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 40 + 100 * features[:, 0] - 7 * features[:, 1] + features[:, 2]


class Three(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 2 * features


def registered(small: Small, head: Head, module: torch.nn.Module, version: str = "v2") -> ModelVersion:
    """A version whose card was fitted to the rows of the source."""
    model = export_model(module, 3)
    features = np.stack([pq.read_table(small.source)[name].to_numpy() for name in "xyz"], axis=1)
    fitted = head.fitted(predict_values(model, features))
    card = small.card(model).model_copy(
        update={"head": fitted, "baseline": Histogram.of(predict_scores(model, features, head), np.unique(fitted.decile_edges))}
    )
    small.registry.register("small", version, card, model)
    small.registry.approve("small", "batch", version, why="test", by="the test")
    return small.model


def predict_values(model: bytes, features: np.ndarray) -> Any:
    from batch_assets.models.predictor import outputs_of

    return outputs_of(model, [features])


@pytest.fixture
def spend(make_small: Make) -> Small:
    """A pipeline of a regression, with a row that has no features."""
    table = with_values(rows(2_000), "y", {41: None})
    small = make_small(table, answers={"kind": "value"})
    small.replace_rows(rows(2_000))
    registered(small, Value(), Spend())
    small.replace_rows(table)
    return small


class TestValue:
    def test_a_night_of_it_is_served_explained_and_replayed(self, spend: Small) -> None:
        published = spend.night()
        manifest = latest_manifest(spend.storage, f"small/predictions/date={DAY}/run={published.release.run_id}")
        assert manifest is not None
        assert (manifest.scored, manifest.dead_lettered, manifest.labels) == (1_999, 1, ())
        assert manifest.histogram.minimum < 0 < manifest.histogram.maximum
        table = rows(2_000)
        x, y, z = (table[name].to_numpy() for name in "xyz")
        expected = np.float32(40) + 100 * x - 7 * y + z
        answer = Reader.open("small", spend.storage).lookup(7)
        assert list(answer.record) == ["user", "value", "decile", "model_version", "partition"]
        assert answer.record["value"] == pytest.approx(float(expected[6]), rel=1e-6)
        assert published_matches(spend.opened(DAY)).passed
        explained = explain(spend.config, spend.storage, spend.registry, "7", DAY)
        assert explained.prediction == {name: answer.record[name] for name in ("value", "decile")}
        again = replay(spend.config, spend.storage, spend.registry, "7", DAY)
        assert again.bit_equal
        assert again.replayed == explained.prediction
        assert explain(spend.config, spend.storage, spend.registry, "42", DAY).fate == "dead letter"

    def test_its_drift_and_ranks_are_looked_at(self, spend: Small) -> None:
        spend.night("2024-03-09")
        moved = rows(2_000)
        spend.replace_rows(moved.set_column(1, "x", pa.array(moved["x"].to_numpy() * -1 + 2, pa.float32())))
        model = spend.model
        freeze(spend.config, spend.storage, DAY, spend.progress)
        score(Night.open(spend.config, spend.storage, DAY, model), LocalEngine(1), spend.progress)
        verdict = judge(Night.open(spend.config, spend.storage, DAY, model))
        named = {outcome.name: outcome for outcome in verdict.outcomes}
        assert not named["drift"].passed
        assert not named["ranks"].passed
        assert named["scores"].passed
        assert "finite scores from -" in named["scores"].message

    def test_a_number_that_is_the_same_for_all_says_nothing(self, spend: Small) -> None:
        class Same(torch.nn.Module):
            def forward(self, features: torch.Tensor) -> torch.Tensor:
                return features.sum(dim=1) * 0 + 3

        with pytest.raises(ModelMisfit, match="says the same of everybody"):
            registered(spend, Value(), Same(), "v3")


class TestScores:
    def test_the_score_of_every_class_is_served(self, make_small: Make) -> None:
        small = make_small(rows(2_000), answers={"kind": "classes", "labels": NAMES, "scores": True})
        registered(small, Classes(returns="logits", labels=NAMES, scores=True), Three())
        small.night()
        record = Reader.open("small", small.storage).lookup(7).record
        assert list(record) == ["user", "probability", "decile", "label", "scores", "model_version", "partition"]
        table = rows(2_000)
        logits = torch.tensor([[table[name][6].as_py() for name in "xyz"]]) * 2
        np.testing.assert_allclose(record["scores"], torch.softmax(logits, dim=1)[0].numpy(), atol=3e-7)
        assert record["probability"] == max(record["scores"])
        assert record["label"] == NAMES[int(np.argmax(record["scores"]))]
        again = replay(small.config, small.storage, small.registry, "7", DAY)
        assert again.bit_equal
        assert again.replayed["scores"] == record["scores"]


class TestAnswers:
    def test_a_version_that_answers_otherwise_is_refused_when_it_is_approved_and_at_night(self, spend: Small) -> None:
        spend.night("2024-03-09")
        before = spend.model
        spend.registry.register("small", "v3", spend.card(small_model()), small_model())
        with pytest.raises(ModelMisfit, match=r"v3 does not answer what .* readers know: its head is binary, not value"):
            plan_rollout(spend.config, spend.storage, spend.registry, "v3")
        stranger = replace(spend.registry.version("small", "v3"), alias=before.alias, approval=before.approval)
        freeze(spend.config, spend.storage, DAY, spend.progress)
        with pytest.raises(ModelMisfit, match="v3 does not answer"):
            score(Night.open(spend.config, spend.storage, DAY, stranger), LocalEngine(1), spend.progress)
        with pytest.raises(NotFound, match="is not scored by small v3 yet"):
            publish(Night.open(spend.config, spend.storage, DAY, stranger), spend.progress)
