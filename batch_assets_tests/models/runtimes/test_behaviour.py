"""The runtimes of ours do what every runtime does."""

import warnings

import lightgbm
import numpy as np
from safetensors.torch import save
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typing_extensions import override

from batch_assets.models.runtimes.lightgbm_runtime import LightgbmRuntime
from batch_assets.models.runtimes.onnx_runtime import OnnxRuntime
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets_tests.models.runtimes.pytorch.test_formats import IN_THIS_REPOSITORY
from batch_assets_tests.models.runtimes.runtime_behaviour import RuntimeBehaviour
from batch_assets_tests.net import seeded

FEATURES = np.random.default_rng(5).standard_normal((2_000, 3)).astype(np.float32)
CLASS = (FEATURES[:, 0] > FEATURES[:, 1]).astype(int)
CLASSES = CLASS + (FEATURES[:, 2] > 0.5)


def boosted(labels: object, **parameters: object) -> bytes:
    """A small model of LightGBM's."""
    data = lightgbm.Dataset(FEATURES, labels, feature_name=["x", "y", "z"])
    return lightgbm.train({"verbosity": -1, "num_threads": 1, **parameters}, data, 20).model_to_string().encode()


def converted(estimator: object, labels: object = CLASS) -> bytes:
    """An estimator of scikit-learn as ONNX."""
    estimator.fit(FEATURES, labels)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        return bytes(to_onnx(estimator, FEATURES[:1], options={"zipmap": False}).SerializeToString())


class TestPt2(RuntimeBehaviour):
    runtime = PT2

    @classmethod
    @override
    def made(cls) -> bytes:
        return export_model(seeded(), 3)


class TestSafetensors(RuntimeBehaviour):
    runtime = safetensors_of(IN_THIS_REPOSITORY)

    @classmethod
    @override
    def made(cls) -> bytes:
        return save(seeded().state_dict())


class TestOnnxPipeline(RuntimeBehaviour):
    runtime = OnnxRuntime()

    @classmethod
    @override
    def made(cls) -> bytes:
        return converted(make_pipeline(StandardScaler(), LogisticRegression()))


class TestOnnxTrees(RuntimeBehaviour):
    runtime = OnnxRuntime()

    @classmethod
    @override
    def made(cls) -> bytes:
        return converted(HistGradientBoostingClassifier(max_iter=10), CLASSES)


class TestLightgbmBinary(RuntimeBehaviour):
    runtime = LightgbmRuntime()

    @classmethod
    @override
    def made(cls) -> bytes:
        return boosted(CLASS, objective="binary")


class TestLightgbmMulticlass(RuntimeBehaviour):
    runtime = LightgbmRuntime()

    @classmethod
    @override
    def made(cls) -> bytes:
        return boosted(CLASSES, objective="multiclass", num_class=3)
