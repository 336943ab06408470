"""The runtime of LightGBM's text files: trees, whose scores are those of `Booster.predict` itself, bit for bit in float32."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from batch_assets.errors import ConfigError, ModelMisfit, UnsafeModel
from batch_assets.features.contract import FeatureContract
from batch_assets.models.recognition import refusal
from batch_assets.models.runtimes.cpu_predictor import CpuPredictor
from batch_assets.models.runtimes.runtime import FileKind, Runtime
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import Device, Precision

_MODEL_FILE = "model.lightgbm.txt"
_MOST_BYTES = 1 << 30
_CATEGORICAL = 1
"""The bit of a decision that goes by categories."""

_OWN_NAME = re.compile(r"Column_\d+")
"""What LightGBM calls a column that was given no name."""


class LightgbmRuntime(Runtime):
    """LightGBM: the text that `Booster.save_model` writes.

    It gives what `Booster.predict` gives: probabilities of `binary` and `multiclass`, the value of a regression. A model that
    was trained on float64 wants an input of float64: rounded to float32, a value may be on the other side of a threshold.
    """

    library: ClassVar[str] = "lightgbm"
    any_shape: ClassVar[bool] = True
    files: ClassVar[tuple[FileKind, ...]] = (
        FileKind(
            "a LightGBM model",
            "say so in the card (runtime: {kind: lightgbm})",
            begins=rb"tree\s+version=",
            model_file=_MODEL_FILE,
        ),
    )

    kind: Literal["lightgbm"] = "lightgbm"

    @property
    @override
    def model_file(self) -> str:
        return _MODEL_FILE

    @property
    @override
    def noun(self) -> str:
        return "a LightGBM model"

    @override
    def vet(self, data: bytes, name: str) -> None:
        self._vetted(data, name)

    @override
    def load(self, data: bytes, name: str, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        if (device, precision) != ("cpu", "float32"):
            raise ConfigError(
                f"{name} is {self.noun}, which is scored on the CPU in full precision: say device: cpu and precision: float32."
            )
        lightgbm = self.imported(name)
        try:
            booster = lightgbm.Booster(model_str=self._vetted(data, name))
        except lightgbm.basic.LightGBMError as error:
            raise UnsafeModel(refusal(data, name, self, str(error))) from error
        return LightgbmPredictor(booster, lightgbm.basic.LightGBMError, self.version())

    @override
    def check(self, reference: Predictor, contract: FeatureContract, name: str) -> None:
        trained = cast(LightgbmPredictor, reference).booster.feature_name()
        (given, *others), columns = contract.inputs, contract.columns
        width = contract.width_of(given.name)
        if others or width is None or given.dtype == "int64":
            raise ModelMisfit(f"{name} takes one matrix of floats: let its contract have one input, of float32 or float64.")
        if width != len(trained):
            raise ModelMisfit(
                f"{name} was trained on {len(trained):,} numbers a row, and its contract has {width:,}: let the columns of the "
                "contract be those that it was trained on."
            )
        named = [column.name.replace(" ", "_") for column in columns]
        if all(column.length is None for column in columns) and not all(map(_OWN_NAME.fullmatch, trained)):
            wrong = next(((one, other) for one, other in zip(trained, named, strict=True) if one != other), None)
            if wrong:
                raise ModelMisfit(
                    f"{name} was trained on {wrong[0]} where its contract has {wrong[1]}: let the columns of the contract have "
                    f"the names and the order in which it was trained, {', '.join(trained)}."
                )

    def _vetted(self, data: bytes, name: str) -> str:
        """The text of a model whose sizes and places are right: LightGBM follows them without a look. Raises UnsafeModel."""
        try:
            if len(data) > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
            _require_whole(data)
            return data.decode()
        except (ValueError, LookupError, ArithmeticError) as error:
            said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UnsafeModel(refusal(data, name, self, said)) from error


def _require_whole(data: bytes) -> None:
    """Raises ValueError, LookupError or ArithmeticError if a model's trees are not all there, or one of them is not sound."""
    head, _, rest = data.partition(b"\n\n")
    if not head.startswith(b"tree\n"):
        raise ValueError("it does not begin as one")
    said = _fields(head)
    features, classes, place = int(said["max_feature_idx"]) + 1, int(said["num_class"]), 0
    told = re.findall(r"num_class:(\d+)", said.get("objective", ""))
    if classes < 1 or any(int(one) != classes for one in (said["num_tree_per_iteration"], *told)):
        raise ValueError("its numbers of classes differ")
    for number, size in enumerate(map(int, said["tree_sizes"].split())):
        tree, place = rest[place : place + size], place + size
        if not tree.startswith(b"Tree=%d\n" % number) or len(tree) != size:
            raise ValueError(f"tree {number} is not where it should be")
        _require_sound(_fields(tree), features, number)
    if not rest.startswith(b"end of trees", place):
        raise ValueError("its end is missing")


def _require_sound(tree: Mapping[str, str], features: int, number: int) -> None:
    """Raises ValueError, LookupError or ArithmeticError if a tree leads nowhere, in a circle, or to a feature that is none.

    A node's children are leaves (-1, -2, …) or come after it.
    """

    def numbers(name: str) -> npt.NDArray[np.int64]:
        return np.array(tree.get(name, "").split(), dtype=np.int64)

    leaves, kinds, split = int(tree["num_leaves"]), numbers("decision_type"), numbers("split_feature")
    children = np.stack([numbers("left_child"), numbers("right_child")])
    nodes = np.arange(leaves - 1)
    edges, sets = numbers("cat_boundaries"), np.array(tree["threshold"].split(), dtype=float)[kinds & _CATEGORICAL > 0]
    if not (
        len(kinds) == len(split) == len(nodes) == children.shape[1]
        and len(tree["leaf_value"].split()) == leaves
        and ((children > nodes) & (children < len(nodes)) | (children < 0) & (children >= -leaves)).all()
        and all(((one >= 0) & (one < features)).all() for one in (split, numbers("leaf_features")))
        and ((sets >= 0) & (sets < len(edges) - 1)).all()
        and (np.diff(edges, prepend=0, append=len(numbers("cat_threshold"))) >= 0).all()
    ):
        raise ValueError(f"tree {number} does not hold together")


def _fields(text: bytes) -> Mapping[str, str]:
    """The lines `name=value` of a part of a model."""
    lines = (line.partition("=") for line in text.decode().splitlines())
    return {name: value for name, _, value in lines}


class LightgbmPredictor(CpuPredictor):
    """A booster; each call computes on the thread that calls."""

    def __init__(self, booster: Any, error: type[Exception], version: str) -> None:
        super().__init__(LightgbmRuntime.library, version)
        self.booster, self._error = booster, error

    @override
    def outputs(self, batch: tuple[Array, ...]) -> Logits:
        (matrix,) = batch
        try:
            found = self.booster.predict(matrix.T, num_threads=1)
        except self._error as error:
            raise RuntimeError(str(error)) from error
        return np.ascontiguousarray(found.reshape(matrix.shape[1], -1).T, dtype=np.float32)
