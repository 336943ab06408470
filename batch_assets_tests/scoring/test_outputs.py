"""What a model gives becomes what its card says, and a night on which it looks like something else is stopped."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from batch_assets.errors import ModelMisfit
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.records import MOST_NAMES
from batch_assets.runs.rejects import NO_PROBABILITIES, NON_FINITE_OUTPUT
from batch_assets.scoring.heads.classifier import Returns, no_probabilities
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.small import OUTPUTS, Small, Working, head_of, rows, small_model, with_values

Make = Callable[..., Small]
VALUES = torch.randn(1_000, 3, generator=torch.Generator().manual_seed(0))


def outputs(classes: int, returns: Returns = "logits", **said: Any) -> Head:
    labels = tuple(f"class {number}" for number in range(classes))
    return head_of(**{**OUTPUTS, "returns": returns, "labels": labels, **said})


class TestValues:
    """Whatever of the three a network ends in, the same is served."""

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (VALUES[:, :1], outputs(2, threshold=0.3)),
            (torch.sigmoid(VALUES[:, :1]), outputs(2, "probabilities", threshold=0.3)),
            (torch.cat([VALUES[:, 1:2], VALUES[:, 1:2] + VALUES[:, :1]], dim=1), outputs(2, threshold=0.3, per_class=True)),
            (
                torch.cat([1 - torch.sigmoid(VALUES[:, :1]), torch.sigmoid(VALUES[:, :1])], dim=1),
                outputs(2, "probabilities", threshold=0.3, per_class=True),
            ),
        ],
    )
    def test_two_classes(self, values: torch.Tensor, said: Head) -> None:
        found = said.records(values.t().numpy())
        expected = torch.sigmoid(VALUES[:, 0]).numpy()
        np.testing.assert_allclose(found["probability"], expected, atol=2e-7)
        assert found["probability"].dtype == np.float32
        np.testing.assert_array_equal(found["label"], expected >= np.float32(0.3))
        np.testing.assert_array_equal(found["decile"], np.minimum(np.floor(expected * 10), 9) + 1)

    @pytest.mark.parametrize(
        ("values", "returns"),
        [
            (VALUES, "logits"),
            (torch.log_softmax(VALUES, dim=1), "logits"),
            (torch.softmax(VALUES, dim=1), "probabilities"),
        ],
    )
    def test_three_classes(self, values: torch.Tensor, returns: Returns) -> None:
        found = outputs(3, returns).records(values.t().contiguous().numpy())
        probability, label = torch.softmax(VALUES, dim=1).max(dim=1)
        np.testing.assert_allclose(found["probability"], probability.numpy(), atol=3e-7)
        np.testing.assert_array_equal(found["label"], label.numpy())

    @pytest.mark.parametrize("value", [-0.01, 1.001, np.nan, np.inf, -np.inf])
    def test_what_is_no_probability_is_not_cut_off(self, value: float) -> None:
        found = outputs(2, "probabilities", threshold=0.5).records(np.array([[0.2, value, 0.9]], dtype=np.float32))
        np.testing.assert_array_equal(np.isnan(found["probability"]), [False, True, False])

    def test_nor_are_probabilities_with_another_sum_than_one(self) -> None:
        values = np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.4], [0.6, 0.6, 0.0], [1.2, -0.1, -0.1]], dtype=np.float32)
        found = outputs(3, "probabilities").records(values.T.copy())
        np.testing.assert_array_equal(np.isnan(found["probability"]), [False, True, True, True])

    @pytest.mark.parametrize("classes", [2, 3, 127])
    def test_but_those_that_were_rounded_to_bfloat16_are(self, classes: int) -> None:
        values = torch.softmax(torch.randn(10_000, classes, generator=torch.Generator().manual_seed(0)), dim=1)
        assert not no_probabilities(values.bfloat16().float().t().numpy()).any()

    def test_a_probability_that_was_rounded_up_is_one(self) -> None:
        found = outputs(2, "probabilities", threshold=0.5).records(np.array([[np.float32(1) + np.float32(2e-7)]]))
        assert found["probability"].tolist() == [1.0]


class TestWhatCanBeSaid:
    def test_what_a_model_returns_must_be_said(self) -> None:
        with pytest.raises(ValidationError, match="returns"):
            head_of(**{name: value for name, value in OUTPUTS.items() if name != "returns"})

    def test_more_classes_than_a_byte_tells_apart_are_refused_in_a_sentence(self) -> None:
        assert outputs(MOST_NAMES).width == 127
        with pytest.raises(ValidationError, match="there are 128 labels and at most 127 can be told apart"):
            outputs(128)

    @pytest.mark.parametrize(
        "said", [{"labels": ("a", "a")}, {"labels": ("a", "b", "c"), "threshold": None, "per_class": True}]
    )
    def test_what_does_not_fit_together_is_refused(self, said: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            head_of(**{**OUTPUTS, **said})


def between(count: int) -> pa.Table:
    """Rows of which every feature is between 0 and 1."""
    features = np.random.default_rng(0).random((3, count), dtype=np.float32)
    return pa.table({"user": np.arange(1, count + 1), **dict(zip("xyz", features, strict=True))})


class Strange(torch.nn.Module):
    """A probability, but not where `y` is large: there it is 1.5, or where it is very large, nothing."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        good = torch.sigmoid(features.sum(dim=1))
        return torch.where(features[:, 1] > 1_000, torch.nan, torch.where(features[:, 1] > 100, 1.5, good))


class TestNights:
    def test_a_first_chunk_that_looks_like_probabilities_stops_the_night(self, make_small: Make) -> None:
        """Made-up rows did not show it."""
        small = make_small(between(2_000))
        small.register("v2", small_model([0.6, 0.2, 0.1]))
        working = Working(small)
        with pytest.raises(ModelMisfit, match=r"The model v2 does not fit its card on 2024-03-10: .*squashed twice.*confirm"):
            working.score_all()
        assert 0 not in working.commits()

    def test_unless_a_person_has_confirmed_it(self, make_small: Make) -> None:
        small = make_small(between(2_000))
        small.register("v2", small_model([0.6, 0.2, 0.1]), confirmed=True)
        assert sum(commit.scored for commit in Working(small).score_all().values()) == 2_000

    def test_a_few_rows_say_nothing(self, make_small: Make) -> None:
        small = make_small(between(63))
        small.register("v2", small_model([0.6, 0.2, 0.1]))
        assert Working(small).score_all()[0].scored == 63

    def test_rows_that_are_alike_say_nothing_though_one_is_a_dead_letter(self, make_small: Make) -> None:
        alike = pa.table({"user": np.arange(1, 257), **{name: np.ones(256, dtype=np.float32) for name in "xyz"}})
        small = make_small(with_values(alike, "y", {3: None}))
        assert Working(small).score_all()[0].scored == 255

    def test_probabilities_are_served_as_they_are(self, make_small: Make) -> None:
        small = make_small(rows(600))
        small.register(
            "v2", export_model(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Sigmoid()), 3), returns="probabilities"
        )
        working = Working(small)
        working.score_all()
        (given,) = working.task.load("cpu", "float32").forward(
            [(np.stack([rows(600)[name].to_numpy()[:64] for name in "xyz"]),)]
        )
        np.testing.assert_array_equal(pq.read_table(working.path(0))["probability"].to_numpy()[:64], given[0])

    def test_single_rows_that_are_none_are_dead_letters_with_their_reason(self, make_small: Make) -> None:
        """256 rows of a chunk: five that are none are single rows, six are not."""
        bad = with_values(rows(600), "y", {3: 200.0, 70: 200.0, 100: 2_000.0, 300: 200.0})
        small = make_small(bad)
        small.register("v2", export_model(Strange(), 3), returns="probabilities")
        working = Working(small)
        working.score_all()
        dead = {row["user"]: row["reason"] for row in working.rejects()}
        assert dead == {4: NO_PROBABILITIES, 71: NO_PROBABILITIES, 101: NON_FINITE_OUTPUT, 301: NO_PROBABILITIES}
        working.prove()

    def test_many_such_rows_stop_the_night(self, make_small: Make) -> None:
        small = make_small(with_values(rows(600), "y", dict.fromkeys(range(6), 200.0)))
        small.register("v2", export_model(Strange(), 3), returns="probabilities")
        working = Working(small)
        with pytest.raises(ModelMisfit, match=r"6 of 256 rows are not between 0 and 1 \(one is 1.5\)"):
            Scorer(working.task).score(working.run.plan[0])
