"""What is particular to ONNX files."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from batch_assets.errors import ConfigError, ModelMisfit, UnsafeModel
from batch_assets.features.contract import FeatureContract
from batch_assets.models.runtimes.onnx_runtime import OnnxRuntime
from batch_assets.models.trial import check_model
from batch_assets_tests.models.test_trial import card_of, contract_of
from batch_assets_tests.small import Small

RUNTIME = OnnxRuntime()
FEATURES = np.random.default_rng(5).standard_normal((640, 3)).astype(np.float32)
CLASS = (FEATURES[:, 0] > FEATURES[:, 1]).astype(int)
CLASSES = CLASS + (FEATURES[:, 2] > 0.5)
IN_TRANSPOSED = FEATURES.T.copy()


def converted(estimator: Any, labels: Any = CLASS, features: Any = FEATURES, **options: Any) -> bytes:
    estimator.fit(features, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        return bytes(to_onnx(estimator, features[:1], **options).SerializeToString())


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()) -> bytes:
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def value(name: str, dtype: int = TensorProto.FLOAT, shape: Sequence[Any] = ("rows", 3)) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def summed(*names: str, dtype: int = TensorProto.FLOAT) -> bytes:
    """The sum over all columns of its inputs."""
    nodes = [
        helper.make_node("Concat", list(names), ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axis"], ["wide"], keepdims=1),
        helper.make_node("Cast", ["wide"], ["sum"], to=TensorProto.FLOAT),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    return graph(nodes, [value(name, dtype) for name in names], [value("sum", shape=("rows", 1))], [axis])


def scores(model: bytes) -> np.ndarray:
    (found,) = RUNTIME.load(model, "m").forward([(IN_TRANSPOSED,)])
    return found


def check(model: bytes, contract: FeatureContract, **said: Any) -> tuple[str, ...]:
    return check_model(model, card_of(model, contract, **said).model_copy(update={"runtime": RUNTIME}), "m")


class TestScores:
    @pytest.mark.parametrize(
        ("estimator", "labels"),
        [(LogisticRegression(), CLASS), (LogisticRegression(), CLASSES), (HistGradientBoostingClassifier(max_iter=5), CLASSES)],
    )
    def test_of_label_and_probabilities_the_latter_are_taken(self, estimator: Any, labels: np.ndarray) -> None:
        model = converted(estimator, labels, options={"zipmap": False})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # with more of them, trees are summed in another order
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        _, expected = session.run(None, {"X": FEATURES})
        np.testing.assert_array_equal(scores(model), expected.T)
        np.testing.assert_allclose(scores(model).T, estimator.predict_proba(FEATURES), atol=1e-5)

    def test_a_single_output_is_taken_as_it_is(self) -> None:
        forest = RandomForestRegressor(5, random_state=0)
        model = converted(forest, FEATURES[:, 0] * 3)
        assert scores(model).shape == (1, len(FEATURES))
        np.testing.assert_allclose(scores(model)[0], forest.predict(FEATURES), atol=1e-5)

    def test_doubles_are_taken(self) -> None:
        wide = FEATURES.astype(np.float64)
        model = converted(LogisticRegression(), CLASS, wide, options={"zipmap": False})
        (found,) = RUNTIME.load(model, "m").forward([(wide.T.copy(),)])
        assert found.dtype == np.float32
        assert found.shape == (2, len(FEATURES))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_it_is_registered(self, small: Small, classes: int) -> None:
        model = converted(LogisticRegression(), CLASS if classes == 2 else CLASSES, options={"zipmap": False})
        labels = tuple("abc"[:classes])
        said = {"per_class": True} if classes == 2 else {"threshold": None}
        found = small.register("v2", model, RUNTIME, returns="probabilities", labels=labels, **said)
        assert found.path == "models/small/v2/model.onnx"
        assert small.registry.version("small", "v2").card.runtime == RUNTIME


class TestMisfits:
    def test_zipmap(self) -> None:
        with pytest.raises(ModelMisfit, match=r"m gives output_probability as a dictionary for each row: .*without ZipMap"):
            RUNTIME.load(converted(LogisticRegression()), "m")

    def test_labels_alone(self) -> None:
        nodes = [helper.make_node("ArgMax", ["X"], ["label"], axis=1)]
        with pytest.raises(ModelMisfit, match=r"m gives label \(tensor\(int64\)\): export it with one tensor of floats"):
            RUNTIME.load(graph(nodes, [value("X")], [value("label", TensorProto.INT64, ("rows", 1))]), "m")

    def test_several_scores(self) -> None:
        nodes = [helper.make_node(kind, ["X"], [kind]) for kind in ("Relu", "Sigmoid")]
        with pytest.raises(ModelMisfit, match=r"m gives Relu \(tensor\(float\)\), Sigmoid .*one tensor of floats"):
            RUNTIME.load(graph(nodes, [value("X")], [value("Relu"), value("Sigmoid")]), "m")

    def test_inputs_of_another_type(self) -> None:
        with pytest.raises(ModelMisfit, match=r"m takes tensor\(double\) as features, and the input features .* is float32"):
            check(summed("features", dtype=TensorProto.DOUBLE), contract_of())
        columns = [{"name": name, "dtype": "float64"} for name in ("x", "y", "z")]
        wide = contract_of(columns, {"name": "features", "dtype": "float64"})
        assert check(summed("features", dtype=TensorProto.DOUBLE), wide) == ()

    def test_inputs_in_another_order(self) -> None:
        columns = [{"name": f"{one}{n}", "input": one} for one in ("a", "b") for n in range(3)]
        with pytest.raises(ModelMisfit, match=r"m takes b, a, and its contract names a, b: .*in their order"):
            check(summed("b", "a"), contract_of(columns, {"name": "a"}, {"name": "b"}))
        with pytest.raises(ModelMisfit, match="m takes b, a, and its contract names features"):
            check(summed("b", "a"), contract_of())
        check(summed("a", "b"), contract_of(columns, {"name": "a"}, {"name": "b"}))

    def test_other_columns(self) -> None:
        with pytest.raises(ModelMisfit, match="m takes 3 numbers a row as features, and its contract has 4 in features"):
            check(summed("features"), contract_of([{"name": name} for name in "wxyz"]))

    def test_rows_that_do_not_come_first(self) -> None:
        nodes = [helper.make_node("Transpose", ["X"], ["Y"])]
        predictor = RUNTIME.load(graph(nodes, [value("X")], [value("Y", shape=(3, "rows"))]), "m")
        with pytest.raises(ModelMisfit, match=r"gives shape \(3, 64\) for 64 rows: the rows must come first"):
            list(predictor.forward([(IN_TRANSPOSED[:, :64],)]))

    def test_a_fixed_number_of_rows(self) -> None:
        nodes = [helper.make_node("Reshape", ["features", "shape"], ["Y"])]
        shape = helper.make_tensor("shape", TensorProto.INT64, [2], [64, 3])
        model = graph(nodes, [value("features")], [value("Y", shape=(64, 3))], [shape])
        with pytest.raises(ModelMisfit, match="takes 64 rows at once, but not 1,024"):
            check(model, contract_of(), classes=3)


class TestUnsafe:
    def test_weights_in_another_file(self) -> None:
        model = onnx.ModelProto()
        model.ParseFromString(summed("X"))
        (axis,) = model.graph.initializer
        axis.ClearField("int64_data")
        axis.data_location = TensorProto.EXTERNAL
        entry = axis.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
        with pytest.raises(UnsafeModel, match="m keeps axis in another file, which may not be read"):
            RUNTIME.load(model.SerializeToString(), "m")

    def test_weights_in_another_file_of_a_branch(self) -> None:
        """Wherever a tensor is, it is found."""
        hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
        hidden.data_location = TensorProto.EXTERNAL
        branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "b", [], [value("c", shape=(1,))])
        nodes = [helper.make_node("If", ["X"], ["Y"], then_branch=branch, else_branch=branch)]
        with pytest.raises(UnsafeModel, match="m keeps hidden in another file"):
            RUNTIME.vet(graph(nodes, [value("X", TensorProto.BOOL, (1,))], [value("Y", shape=(1,))]), "m")

    def test_operators_of_somebody_elses(self) -> None:
        nodes = [helper.make_node("Anything", ["X"], ["Y"], domain="mine")]
        made = helper.make_graph(nodes, "g", [value("X")], [value("Y")])
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        model = helper.make_model(made, opset_imports=sets, ir_version=9).SerializeToString()
        with pytest.raises(UnsafeModel, match=r"m is not an ONNX model, or a damaged one .*Anything"):
            RUNTIME.load(model, "m")


class TestWhere:
    def test_a_gpu_that_is_not_here(self) -> None:
        if RUNTIME.has("cuda"):
            pytest.skip("it is here")
        with pytest.raises(ConfigError, match="m cannot be scored on cuda, as this onnxruntime has no CUDAExecutionProvider"):
            RUNTIME.load(summed("X"), "m", "cuda")

    def test_a_lower_precision(self) -> None:
        with pytest.raises(ConfigError, match="m is an ONNX model, which computes in the types of its file"):
            RUNTIME.load(summed("X"), "m", "cpu", "bfloat16")
