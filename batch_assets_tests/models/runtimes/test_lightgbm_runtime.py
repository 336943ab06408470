"""What is particular to LightGBM's files."""

import re
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import ConfigError, ModelMisfit, UnsafeModel
from batch_assets.features.contract import FeatureContract
from batch_assets.models.card import make_card
from batch_assets.models.predictor import predict_scores
from batch_assets.models.runtimes.lightgbm_runtime import LightgbmRuntime
from batch_assets.models.trial import check_model
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.heads.classifier import Binary
from batch_assets.scoring.inputs import Staging
from batch_assets_tests.models.test_trial import card_of, contract_of
from batch_assets_tests.small import Small

HEAD = Binary(returns="probabilities", labels=("no", "yes"))
RUNTIME = LightgbmRuntime()
RANDOM = np.random.default_rng(5)
FEATURES = RANDOM.standard_normal((2_000, 3)).astype(np.float32)
FEATURES[:, 2] = RANDOM.integers(0, 40, 2_000)
CLASS = (FEATURES[:, 0] + (FEATURES[:, 2] % 3 == 0) > FEATURES[:, 1]).astype(int)
CLASSES = CLASS + (FEATURES[:, 1] > 0.5)
NAMES = ["x", "y", "z"]


def boosted(labels: Any = CLASS, features: Any = FEATURES, names: Any = NAMES, categorical: Any = "auto", **said: Any) -> Any:
    data = lightgbm.Dataset(features, labels, feature_name=names, categorical_feature=categorical)
    return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1, **said}, data, 15)


def text(booster: Any) -> bytes:
    return booster.model_to_string().encode()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> bytes:
    return text(boosted())


def check(model: bytes, contract: FeatureContract, **said: Any) -> tuple[str, ...]:
    card = card_of(model, contract, "probabilities", **said).model_copy(update={"runtime": RUNTIME})
    return check_model(model, card, "m")


class TestScores:
    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (CLASS, {}),
            (CLASSES, {"objective": "multiclass", "num_class": 3}),
            (CLASSES, {"objective": "multiclassova", "num_class": 3}),
            (FEATURES[:, 0] * 2, {"objective": "regression"}),
            (FEATURES[:, 0] * 2, {"objective": "regression", "linear_tree": True}),
            (CLASS, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
            (CLASS, {"categorical": [2], "min_data_per_group": 1}),
        ],
    )
    def test_they_are_its_own_bit_for_bit(self, labels: np.ndarray, said: dict[str, Any]) -> None:
        booster = boosted(labels, **said)
        rows = FEATURES.copy()
        rows[::7, 0] = np.nan
        rows[::11, 2] = 77
        expected = np.float32(booster.predict(rows)).reshape(len(rows), -1).T
        predictor = RUNTIME.load(text(booster), "m")
        (found,) = predictor.forward([(rows.T.copy(),)])
        np.testing.assert_array_equal(found.view(np.int32), np.ascontiguousarray(expected).view(np.int32))

    def test_a_float64_is_on_its_own_side_of_a_threshold(self) -> None:
        """Rounded to float32 it would be on the other one."""
        wide = np.repeat(1 + np.arange(8) * 1e-9, 250)[:, None]
        booster = boosted((wide[:, 0] > 1 + 3.5e-9).astype(int), wide, ["x"], min_data_in_bin=1)
        expected = np.float32(booster.predict(wide))
        assert len(np.unique(expected)) == 2
        columns = [{"name": "x", "dtype": "float64"}]
        contract = contract_of(columns, {"name": "features", "dtype": "float64"})
        staged = Staging(contract, len(wide)).fill(pa.table({"x": wide[:, 0]}))
        run = ForwardPass(RUNTIME.load(text(booster), "m"), 1, 1_024, 0.01)
        passed = run(staged, np.ones(len(wide), dtype=bool), "chunk")
        assert np.array_equal(passed.logits[0], expected)
        found = predict_scores(text(booster), wide, HEAD, runtime=RUNTIME, floats="float64")
        assert np.array_equal(found, expected)
        narrow = predict_scores(text(booster), wide, HEAD, runtime=RUNTIME)
        assert not np.array_equal(narrow, expected)
        said: dict[str, Any] = {"partition": "2024-01-31", "metrics": {}}
        card = make_card(
            text(booster),
            contract,
            wide,
            head=HEAD,
            description="made up",
            training={},
            runtime=RUNTIME,
            **said,
        )
        assert card.baseline.maximum == expected.max()

    def test_it_is_registered(self, small: Small, model: bytes) -> None:
        found = small.register("v2", model, RUNTIME, returns="probabilities")
        assert found.path == "models/small/v2/model.lightgbm.txt"
        assert small.registry.version("small", "v2").card.runtime == RUNTIME


class TestMisfits:
    def test_columns_in_another_order(self, model: bytes) -> None:
        assert check(model, contract_of()) == ()
        with pytest.raises(ModelMisfit, match=r"m was trained on x where its contract has y: .*, x, y, z\.$"):
            check(model, contract_of([{"name": name} for name in ("y", "x", "z")]))

    def test_columns_without_names_are_taken_by_place(self) -> None:
        assert check(text(boosted(names="auto")), contract_of()) == ()

    def test_names_with_blanks(self) -> None:
        """LightGBM writes them with underlines."""
        contract = contract_of([{"name": name} for name in ("days since", "y", "z")])
        assert check(text(boosted(names=["days since", "y", "z"])), contract) == ()

    def test_other_columns(self, model: bytes) -> None:
        with pytest.raises(ModelMisfit, match="m was trained on 3 numbers a row, and its contract has 4"):
            check(model, contract_of([{"name": name} for name in "wxyz"]))

    def test_a_list_of_fixed_length_is_so_many_columns(self, model: bytes) -> None:
        assert check(model, contract_of([{"name": "all", "length": 3}])) == ()

    def test_inputs_that_it_does_not_take(self, model: bytes) -> None:
        whole = contract_of([{"name": name, "dtype": "int64"} for name in NAMES], {"name": "features", "dtype": "int64"})
        several = contract_of([{"name": "x", "input": "a"}, {"name": "y"}], {"name": "a"}, {"name": "features"})
        endless = contract_of([{"name": "x", "length": "variable"}])
        for contract in (whole, several, endless):
            with pytest.raises(ModelMisfit, match="m takes one matrix of floats: let its contract have one input"):
                check(model, contract)

    @pytest.mark.parametrize(("device", "precision"), [("cuda", "float32"), ("cpu", "bfloat16")])
    def test_where_it_is_not_scored(self, model: bytes, device: Any, precision: Any) -> None:
        with pytest.raises(ConfigError, match="m is a LightGBM model, which is scored on the CPU in full precision"):
            RUNTIME.load(model, "m", device, precision)


class TestUnsafe:
    """LightGBM follows what a file says of sizes and places; it would read beyond the file, or walk in a circle."""

    @pytest.mark.parametrize(
        ("pattern", "instead", "said"),
        [
            (rb"left_child=\S+", b"left_child=0", "tree 0 does not hold together"),
            (rb"left_child=\S+", b"left_child=1000", "tree 0 does not hold together"),
            (rb"right_child=\S+", b"right_child=-1000", "tree 0 does not hold together"),
            (rb"split_feature=\S+", b"split_feature=3", "tree 0 does not hold together"),
            (rb"split_feature=\S+", b"split_feature=-1", "tree 0 does not hold together"),
            (rb"split_feature=\S+", b"split_feature=nan", "invalid literal"),
            (rb"num_leaves=\d+", b"num_leaves=500", "tree 0 does not hold together"),
            (rb"num_leaves=\d+", b"num_leaves=many", "invalid literal"),
            (rb"leaf_value=\S+", b"leaf_value=", "tree 0 does not hold together"),
            (rb"decision_type=\d+", b"decision_type=1", "tree 0 does not hold together"),
            (rb"Tree=1\n", b"Tree=7\n", "tree 1 is not where it should be"),
            (rb"num_tree_per_iteration=1", b"num_tree_per_iteration=9", "its numbers of classes differ"),
            (rb"num_class=1", b"num_class=0", "its numbers of classes differ"),
            (rb"objective=binary", b"objective=multiclass num_class:9", "its numbers of classes differ"),
            (rb"max_feature_idx=2\n", b"", "it lacks 'max_feature_idx'"),
            (rb"end of trees", b"end of tries", "its end is missing"),
        ],
    )
    def test_a_file_that_does_not_hold_together(self, model: bytes, pattern: bytes, instead: bytes, said: str) -> None:
        found = re.search(pattern, model)
        assert found is not None
        changed = model[: found.start()] + instead + model[found.end() :]
        with pytest.raises(UnsafeModel, match=rf"^m is not a LightGBM model, or a damaged one \(.*{re.escape(said)}.*\): "):
            RUNTIME.load(resized(changed, len(instead) - (found.end() - found.start()), found.start()), "m")

    def test_a_file_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch, model: bytes) -> None:
        monkeypatch.setattr("batch_assets.models.runtimes.lightgbm_runtime._MOST_BYTES", 1_000)
        with pytest.raises(UnsafeModel, match="it has more than 1,000 bytes"):
            RUNTIME.load(model, "m")


def resized(model: bytes, by: int, place: int) -> bytes:
    """A model whose sizes are right again after a tree became longer."""
    starts = [found.start() for found in re.finditer(rb"Tree=\d+\n", model)]
    inside = sum(start <= place for start in starts) - 1
    if inside < 0 or place > model.find(b"end of tr"):
        return model
    found = re.search(rb"tree_sizes=(.*)\n", model)
    assert found is not None
    sizes = [int(size) + by * (number == inside) for number, size in enumerate(found[1].split())]
    return model[: found.start(1)] + " ".join(map(str, sizes)).encode() + model[found.end(1) :]
