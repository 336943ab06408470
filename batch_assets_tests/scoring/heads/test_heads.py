"""Our heads, and what `answers` of a pipeline fixes."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from batch_assets.errors import ModelMisfit
from batch_assets.scoring.heads.classifier import Binary, Classes
from batch_assets.scoring.heads.head import Answers, Head, Values
from batch_assets.scoring.heads.value import Value
from batch_assets_tests.scoring.heads.head_behaviour import HeadBehaviour

LOGITS = np.random.default_rng(0).standard_normal((3, 2_000)).astype(np.float32)
SOFTMAX = (np.exp(LOGITS) / np.exp(LOGITS).sum(axis=0)).astype(np.float32)
NAMES = ("low", "middle", "high")


class TestBinary(HeadBehaviour):
    @pytest.fixture(params=["logits", "probabilities", "two logits", "two probabilities"])
    def case(self, request: pytest.FixtureRequest) -> tuple[Head, Values]:
        sigmoid = 1 / (1 + np.exp(-LOGITS[:1]))
        two, returns = request.param.startswith("two"), request.param.split()[-1]
        values = {"logits": LOGITS[: 1 + two], "probabilities": np.concatenate([1 - sigmoid, sigmoid])[1 - two :]}[returns]
        return Binary(returns=returns, labels=("no", "yes"), threshold=0.3, per_class=two), values

    @pytest.fixture
    def head(self, case: tuple[Head, Values]) -> Head:
        return case[0]

    @pytest.fixture
    def values(self, case: tuple[Head, Values]) -> Values:
        return case[1]

    def test_the_label_is_the_positive_one_from_the_threshold_on(self, head: Head, values: Values) -> None:
        records = head.records(values)
        np.testing.assert_array_equal(records["label"], records.score >= np.float32(0.3))
        assert head.record.dtype.itemsize == 6
        assert sum(records.by_label()) == len(records)


class TestClasses(HeadBehaviour):
    @pytest.fixture(params=[False, True], ids=["plain", "with scores"])
    def scores(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture(params=["logits", "probabilities"])
    def returns(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def head(self, scores: bool, returns: Any) -> Head:
        return Classes(returns=returns, labels=NAMES, scores=scores)

    @pytest.fixture
    def values(self, returns: Any) -> Values:
        return LOGITS if returns == "logits" else SOFTMAX

    def test_every_score_is_in_the_record_if_it_is_asked_for(self, head: Head, values: Values, scores: bool) -> None:
        records = head.records(values)
        assert head.record.dtype.itemsize == (18 if scores else 6)
        if scores:
            np.testing.assert_allclose(records["scores"], SOFTMAX.T, atol=3e-7)
            rows = np.arange(len(records))
            np.testing.assert_array_equal(records["scores"][rows, records["label"]], records["probability"])
            np.testing.assert_array_equal(records["scores"].argmax(axis=1), records["label"])


class TestValue(HeadBehaviour):
    @pytest.fixture
    def head(self) -> Head:
        return Value()

    @pytest.fixture
    def values(self) -> Values:
        return 1_000 * LOGITS[:1]

    def test_the_number_is_what_the_model_gives(self, head: Head, values: Values) -> None:
        np.testing.assert_array_equal(head.records(values)["value"], values[0])
        assert head.records(values).by_label() == ()

    def test_differences_are_told_in_its_standard_deviation(self, head: Head, values: Values) -> None:
        assert head.spread(values[0]) == pytest.approx(float(values.std()), rel=1e-5)
        assert head.spread(np.ones(5, dtype=np.float32)) == 1.0


class TestAnswers:
    @pytest.mark.parametrize(
        "said",
        [
            {"kind": "binary", "labels": ["no", "yes"]},
            {"kind": "classes", "labels": list(NAMES)},
            {"kind": "classes", "labels": list(NAMES), "scores": True},
            {"kind": "value"},
        ],
    )
    def test_what_decides_the_record_is_said(self, said: dict[str, Any]) -> None:
        assert Answers.model_validate(said).model_dump() == said

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"kind": "binary"}, "answers of the kind binary say labels, not nothing"),
            ({"kind": "value", "labels": ["a"]}, "answers of the kind value say nothing else, not labels"),
            ({"kind": "binary", "labels": ["no", "yes"], "threshold": 0.3}, "say labels, not labels, threshold"),
            ({"kind": "oracle"}, "There is no head of the kind 'oracle'; there is binary, classes, value"),
        ],
    )
    def test_what_does_not_or_is_missing_is_refused(self, said: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            Answers.model_validate(said)

    def test_a_version_with_the_same_record_is_taken(self) -> None:
        answers = Answers.model_validate({"kind": "binary", "labels": ["no", "yes"]})
        answers.require(Binary(returns="probabilities", labels=("no", "yes"), threshold=0.9, per_class=True), "churn v2")

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            (Value(), "its head is value, not binary"),
            (Binary(returns="logits", labels=("yes", "no")), r"its labels are \('yes', 'no'\), not \('no', 'yes'\)"),
        ],
    )
    def test_one_with_another_is_refused(self, head: Head, message: str) -> None:
        answers = Answers.model_validate({"kind": "binary", "labels": ["no", "yes"]})
        with pytest.raises(ModelMisfit, match=rf"churn v2 does not answer what .* readers know: {message}; register"):
            answers.require(head, "churn v2")

    def test_scores_that_nobody_expects_are_another_record(self) -> None:
        answers = Answers.model_validate({"kind": "classes", "labels": list(NAMES)})
        with pytest.raises(ModelMisfit, match="its scores are True, not False"):
            answers.require(Classes(returns="logits", labels=NAMES, scores=True), "churn v2")
