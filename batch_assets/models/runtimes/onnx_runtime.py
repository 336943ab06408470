"""The runtime of ONNX files, by onnxruntime: what skl2onnx makes of scikit-learn, and other exporters of their models.

NOT YET RUN ON A GPU: the path with CUDAExecutionProvider was written without one. It does not notice that a GPU is lost to the
process, and says the memory of the process as its own.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, cast

import numpy as np
from typing_extensions import override

from batch_assets.errors import ConfigError, ModelMisfit, UnsafeModel
from batch_assets.features.contract import FeatureContract
from batch_assets.models.recognition import in_short, refusal
from batch_assets.models.runtimes.cpu_predictor import CpuPredictor
from batch_assets.models.runtimes.runtime import FileKind, Runtime
from batch_assets.ports import extra
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import Device, Precision

_MODEL_FILE = "model.onnx"
_CUDA = "CUDAExecutionProvider"
_DTYPES = {"float32": "tensor(float)", "float64": "tensor(double)", "int64": "tensor(int64)"}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")


class OnnxRuntime(Runtime):
    """ONNX: a graph of onnxruntime's own operators, with its weights in the file."""

    library: ClassVar[str] = "onnxruntime"
    files: ClassVar[tuple[FileKind, ...]] = (
        FileKind(
            "an ONNX model",
            "say so in the card (runtime: {kind: onnx})",
            begins=rb"\x08[\x02-\x20](\x12|\x1a|\x22|\x2a|\x32|\x3a|\x42)",
            model_file=_MODEL_FILE,
        ),
    )

    kind: Literal["onnx"] = "onnx"

    @property
    @override
    def model_file(self) -> str:
        return _MODEL_FILE

    @property
    @override
    def noun(self) -> str:
        return "an ONNX model"

    @override
    def vet(self, data: bytes, name: str) -> None:
        self._vetted(data, name)

    @override
    def load(self, data: bytes, name: str, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        onnxruntime = self.imported(name)
        if not self.has(device):
            raise ConfigError(f"{name} cannot be scored on {device}, as this onnxruntime has no {_CUDA}: say device: cpu.")
        if precision not in ("float32", "tf32"):
            raise ConfigError(f"{name} is {self.noun}, which computes in the types of its file: say precision: float32.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised as well
        cuda = (_CUDA, {"use_tf32": int(precision == "tf32")})
        providers = [*([cuda] if device == "cuda" else []), "CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(self._vetted(data, name), options, providers=providers)
        except Exception as error:
            if isinstance(error, UnsafeModel | MemoryError):
                raise
            raise UnsafeModel(refusal(data, name, self, str(error))) from error
        return OnnxPredictor(session, _scores(session, name), device, precision, self.version())

    @override
    def has(self, device: str) -> bool:
        return device == "cpu" or _CUDA in self.imported(f"The device {device}").get_available_providers()

    @override
    def check(self, reference: Predictor, contract: FeatureContract, name: str) -> None:
        takes = cast(OnnxPredictor, reference).session.get_inputs()
        names, named = [one.name for one in takes], [one.name for one in contract.inputs]
        if len(names) != len(named) or (names != named and sorted(names) == sorted(named)):
            raise ModelMisfit(
                f"{name} takes {', '.join(names)}, and its contract names {', '.join(named)}: let the contract have the inputs "
                "of the model in their order."
            )
        for given, one in zip(contract.inputs, takes, strict=True):
            if one.type != _DTYPES[given.dtype]:
                raise ModelMisfit(
                    f"{name} takes {one.type} as {one.name}, and the input {given.name} of its contract is {given.dtype}: let "
                    "them have one type."
                )
            width = contract.width_of(given.name)
            if len(one.shape) == 2 and width is not None and isinstance(one.shape[1], int) and one.shape[1] != width:
                raise ModelMisfit(
                    f"{name} takes {one.shape[1]:,} numbers a row as {one.name}, and its contract has {width:,} in "
                    f"{given.name}: let the columns of the contract be those that the model was trained on."
                )

    def _vetted(self, data: bytes, name: str) -> bytes:
        """The model as it was looked at, written anew: onnxruntime reads files of another layout, too. Raises UnsafeModel."""
        onnx, message = extra("onnx", self.kind, name), extra("google.protobuf.message", self.kind, name)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except message.DecodeError as error:
            raise UnsafeModel(refusal(data, name, self, str(error))) from error
        if not model.HasField("graph"):
            raise UnsafeModel(refusal(data, name, self))
        for tensor in _messages(model, onnx.TensorProto):
            if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise UnsafeModel(
                    f"{name} keeps {in_short(tensor.name) or 'a tensor'} in another file, which may not be read: save it with "
                    "its weights inside, as onnx.save(onnx.load(path), path) does."
                )
        return bytes(model.SerializeToString())


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """Every message of a kind within another one, wherever it is."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(one, kind)


def _scores(session: Any, name: str) -> str:
    """The output that has the scores: the only tensor of floats. Raises ModelMisfit."""
    gives: dict[str, str] = {one.name: one.type for one in session.get_outputs()}
    zipped = [one for one, dtype in gives.items() if dtype.startswith("seq(map")]
    if zipped:
        raise ModelMisfit(
            f"{name} gives {in_short(zipped[0])} as a dictionary for each row: export it without ZipMap, as "
            'convert_sklearn(…, options={"zipmap": False}) does.'
        )
    floats = [one for one, dtype in gives.items() if dtype in _FLOATS]
    if len(floats) != 1:
        named = ", ".join(f"{in_short(one)} ({dtype})" for one, dtype in gives.items())
        raise ModelMisfit(f"{name} gives {named}: export it with one tensor of floats, its logits or probabilities.")
    return floats[0]


class OnnxPredictor(CpuPredictor):
    """A session of onnxruntime; on a GPU it copies each batch there and back."""

    def __init__(self, session: Any, scores: str, device: Device, precision: Precision, version: str) -> None:
        super().__init__(OnnxRuntime.library, version)
        self.session, self._scores = session, scores
        self._names = [one.name for one in session.get_inputs()]
        self._on = {"device": device, "precision": precision}

    @property
    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self._on}

    @override
    def outputs(self, batch: tuple[Array, ...]) -> Logits:
        given = {name: np.ascontiguousarray(array.T) for name, array in zip(self._names, batch, strict=True)}
        try:
            (found,) = self.session.run([self._scores], given)
        except MemoryError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error
        rows = batch[0].shape[1]
        if found.ndim == 0 or len(found) != rows:
            raise ModelMisfit(f"The model gives shape {found.shape} for {rows:,} rows: the rows must come first.")
        return np.ascontiguousarray(found.reshape(rows, -1).T, dtype=np.float32)
