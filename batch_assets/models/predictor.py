"""How a model becomes a file, and how a version is loaded, vetted and run.

The file that we make is a `.pt2` of torch.export; nothing in it may be a pickle or tell of the machine that made it. Which
others can be read is decided in `formats`.
"""

import ctypes
import hashlib
import io
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from batch_assets.contract import FeatureContract
from batch_assets.errors import ModelChanged, ModelMisfit
from batch_assets.models.device import CudaLane, autocast
from batch_assets.models.formats import PT2, ModelFormat, read_model, read_reference
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET, Array
from batch_assets.scoring.postprocess import probability_of
from batch_assets.scoring.settings import Device, Precision
from batch_assets.storage import Storage

if TYPE_CHECKING:
    import torch

_SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")
"""Node annotations that hold paths and lines of the machine that exported the model."""


_ROUNDING = 1e-4
"""By how much two readings of one program may differ, as a share of its largest output: what audits allow other machines."""

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def export_model(module: "torch.nn.Module", takes: "int | FeatureContract") -> bytes:
    """Export a model that maps features to logits of shape (rows, logits), for any number of rows.

    The bytes depend on the model alone: the same model exported in two folders gives the same file. The module stays as it is:
    what was in training mode still is, and what wants gradients.

    Args:
        module: takes one float32 tensor of shape (rows, columns), or the inputs of a contract in their order.
        takes: how many columns, or the contract. Lists get the lengths to which a night pads them, up to their `max_length`.

    Raises:
        ModelMisfit: torch.export cannot export it for any number of rows.
    """
    import torch

    example: tuple[torch.Tensor, ...]
    if isinstance(takes, int):
        example, lengths = (torch.zeros(128, takes, dtype=torch.float32),), [0]
    else:
        example = tuple(torch.from_numpy(array).t().contiguous() for array in _example(takes, rows=128))
        lengths = [one.max_length if takes.columns_of(one.name)[0].length == "variable" else 0 for one in takes.inputs]
    modes = [(one, one.training) for one in module.modules()]
    try:
        program = _exported(module.eval(), example, lengths)
    finally:
        for one, training in modes:
            one.training = training
    for node in program.graph.nodes:
        for note in _SOURCE_NOTES:
            node.meta.pop(note, None)
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _exported(module: "torch.nn.Module", example: "tuple[torch.Tensor, ...]", lengths: Sequence[int]) -> Any:
    """A program of torch.export for any number of rows or, if the module does not permit few, for those that a night has.

    Lists of one `max_length` always have the same width at night, so they share a dimension; 0 is the length of no list.
    """
    import torch

    dimensions: dict[int, Any] = {
        longest: torch.export.Dim(f"length_{longest}", min=1, max=max(longest, SHORTEST_BUCKET))
        for longest in lengths
        if longest
    }
    refusals: list[Exception] = []
    for strict in (False, True):
        for fewest in (1, 2, SHAPE):
            rows = torch.export.Dim("rows", min=fewest)
            shapes = tuple({0: rows, 1: dimensions[longest]} if longest else {0: rows} for longest in lengths)
            try:
                return torch.export.export(module, example, dynamic_shapes=shapes, strict=strict)
            except Exception as error:  # noqa: BLE001 - the module's own code runs here; what it raised is told below
                refusals.append(error)
    reason = next((line.strip(" -.") for line in str(refusals[0]).splitlines() if line.strip()), type(refusals[0]).__name__)
    raise ModelMisfit(
        f"{type(module).__name__} cannot be exported by torch.export for any number of rows ({reason}): rewrite what stops it, "
        "or keep its weights as safetensors with a module, package.file:factory, which need no export."
    ) from refusals[0]


class TorchPredictor(Predictor):
    """A loaded program on one device in one precision; may be called by several threads."""

    def __init__(self, program: Any, device: Device = "cpu", precision: Precision = "float32") -> None:
        self._program = program
        self._device = device
        self._precision = precision
        self._lane = CudaLane() if device == "cuda" else None

    @property
    @override
    def environment(self) -> dict[str, str]:
        import torch

        capability = self._lane.capability() if self._lane else torch.backends.cpu.get_cpu_capability()
        return {
            "device": self._device,
            f"{self._device}_capability": capability,
            "precision": self._precision,
            "torch": str(torch.__version__),
        }

    @override
    def forward(self, batches: Iterable[tuple[Array, ...]]) -> Iterator[Logits]:
        if self._lane:
            yield from self._lane.forward(self._outputs, batches)
            return
        import torch

        for batch in batches:
            yield self._outputs([torch.from_numpy(array) for array in batch]).numpy()

    @override
    def copying(self) -> float:
        return self._lane.copying() if self._lane else 0.0

    @override
    def peak_memory(self) -> int:
        if self._lane:
            return self._lane.peak_memory()
        return _peak_memory()

    @override
    def out_of_memory(self, error: Exception) -> bool:
        said = str(error)
        return isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError)
            and (type(error).__name__ == "OutOfMemoryError" or any(phrase in said for phrase in _OUT_OF_MEMORY))
        )

    def _outputs(self, inputs: "list[torch.Tensor]") -> "torch.Tensor":
        """Inputs of shape (width, rows) to float32 logits of shape (logits, rows)."""
        import torch

        with torch.inference_mode(), autocast(self._device, self._precision):
            (output,) = self._program(*[tensor.t() for tensor in inputs])
        logits: torch.Tensor = output.reshape(inputs[0].shape[1], -1).t()
        return logits.float()


@dataclass(frozen=True)
class PredictorLoader:
    """Loads one model file, after its bytes were compared with the sha256 that was approved; picklable."""

    storage: Storage
    path: str
    sha256: str
    form: ModelFormat = PT2

    def __call__(self, device: Device = "cpu", precision: Precision = "float32") -> TorchPredictor:
        """Read, verify and load.

        Raises:
            ModelChanged: other bytes than were approved.
            UnsafeModel: loading would execute a pickle.
            ModelMisfit: the module that it needs is not here.
        """
        data = self.storage.read(self.path)
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ModelChanged(f"{self.path} has sha256 {found}, approved was {self.sha256}: the file was changed.")
        return load_program(data, self.path, device, precision, self.form)


def load_program(
    model: bytes, name: str, device: Device = "cpu", precision: Precision = "float32", form: ModelFormat = PT2
) -> TorchPredictor:
    """Load a model file; `name` is for messages. One thread runs it: parallelism comes from the engine.

    Raises UnsafeModel, ModelChanged, ModelMisfit; see `formats.read_model`.
    """
    import torch

    _settle_heap()
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return TorchPredictor(read_model(model, name, device, form), device, precision)


def check_model(model: bytes, contract: FeatureContract, logits: int, name: str, form: ModelFormat = PT2) -> list[str]:
    """Run one batch through a model, so that a misfit is found before a night is; gives what is to be warned of.

    Raises:
        ModelMisfit: it does not take the contract's columns, or does not give so many logits a row.
        ModelChanged: the source of its module is not the one that its card names.
        UnsafeModel: the file is damaged, is no model, or would run what it brings along.
    """
    predictor = load_program(model, name, form=form)
    reference = TorchPredictor(read_reference(model, name, form))
    gives = "one logit" if logits == 1 else f"{logits} logits"
    inputs = _example(contract, rows=128)
    before = [array.copy() for array in inputs]
    try:
        output, again, other = (next(iter(one.forward([inputs]))) for one in (predictor, predictor, reference))
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        if predictor.out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelMisfit(f"{name} does not map {len(contract.columns)} columns to {gives} a row: {reason}.") from error
    if output.shape != (logits, 128):
        shape = output.shape[::-1]
        raise ModelMisfit(
            f"{name} does not map {len(contract.columns)} columns to {gives} a row: it gives shape {shape} for 128 rows."
        )
    if not all(np.array_equal(array, copy) for array, copy in zip(inputs, before, strict=True)):
        raise ModelMisfit(f"{name} writes into its inputs: copy them before changing them in place.")
    if not np.array_equal(output, again, equal_nan=True):
        raise ModelMisfit(f"{name} gives other values the second time: it must not keep state or draw random numbers.")
    require_same_program(output, other, name, form)
    deprecated = f"{name} is TorchScript, which torch does not develop any more: export it as .pt2."
    return [deprecated] if form.name == "torchscript" else []


def require_same_program(ours: Logits, reference: Logits, name: str, form: ModelFormat) -> None:
    """Refuse a file whose second reading gives other values than the first. Raises ModelMisfit.

    Of a `.pt2` the second reading is torch's own. It may round otherwise, as it may call other kernels: nobody scores with it,
    and which reader a file gets depends on the file alone, so that a night and its audit have the same bits. A program that
    was misread is not off by roundings.
    """
    if form.name != "pt2":
        if not np.array_equal(ours, reference, equal_nan=True):
            raise ModelMisfit(f"{name} gives other values when it is loaded again: keep all that it computes with in its file.")
        return
    finite = np.abs(reference[np.isfinite(reference)])
    bound = _ROUNDING * float(finite.max(initial=0.0))
    if not np.allclose(ours, reference, rtol=_ROUNDING, atol=bound, equal_nan=True):
        raise ModelMisfit(f"{name} is read otherwise by batch_assets.models.program than by torch.export: please report it.")


def predict_probabilities(
    model: bytes, features: npt.NDArray[np.float32], batch_rows: int = 1_024, form: ModelFormat = PT2
) -> npt.NDArray[np.float32]:
    """Probabilities of shape (rows,) for features of shape (rows, columns), computed in the very way in which a night does."""
    rows, columns = features.shape
    staged = np.zeros((columns, -(-rows // batch_rows) * batch_rows), dtype=np.float32)
    staged[:, :rows] = features.T
    batches = ((staged[:, start : start + batch_rows],) for start in range(0, staged.shape[1], batch_rows))
    logits = np.concatenate(list(load_program(model, "the model", form=form).forward(batches)), axis=1)
    return probability_of(logits[:, :rows])


def _example(contract: FeatureContract, rows: int) -> tuple[Array, ...]:
    """Small numbers in the shapes that a contract's model takes, each (width, rows); a list of any length has 16 elements."""
    shapes = []
    for one in contract.inputs:
        lengths = [column.length for column in contract.columns_of(one.name)]
        width = SHORTEST_BUCKET if "variable" in lengths else sum(n if isinstance(n, int) else 1 for n in lengths)
        shapes.append(
            np.arange(width * rows).reshape(width, rows) % 7 / 7 if one.dtype == "float32" else np.zeros((width, rows))
        )
    return tuple(array.astype(one.dtype) for array, one in zip(shapes, contract.inputs, strict=True))


def _peak_memory() -> int:
    """The most memory this program has held, in bytes. What getrusage says may be that of the process that started it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _settle_heap() -> None:
    """Keep freed memory in the process: else every large temporary is mapped, faulted in and unmapped again.

    glibc's mallopt: M_MMAP_THRESHOLD 32 MB, M_TRIM_THRESHOLD off, M_TOP_PAD 64 MB; other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-3, 32 << 20), (-1, (1 << 31) - 1), (-2, 64 << 20)):
            mallopt(parameter, value)
