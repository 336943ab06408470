"""How a model becomes a file, and how a version is loaded and run; it is tried in `trial`.

The file that we make is a `.pt2` of torch.export; nothing in it may be a pickle or tell of the machine that made it. Which
others can be read is decided in `formats`.
"""

import ctypes
import hashlib
import inspect
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

from batch_assets.errors import ModelChanged, ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.models.device import CudaLane, autocast
from batch_assets.models.formats import PT2, ModelFormat, read_model
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET, Array
from batch_assets.scoring.settings import DEFAULT_BATCH_ROWS, Device, Precision
from batch_assets.storage import Storage

if TYPE_CHECKING:
    import torch

_SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")
"""Node annotations that hold paths and lines of the machine that exported the model."""


_ROUNDING = 1e-4
"""By how much two readings of one program may differ, as a share of its largest output: what audits allow other machines."""

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def export_model(module: "torch.nn.Module", takes: "int | FeatureContract") -> bytes:
    """Export a model that maps features to outputs of shape (rows, values), for any number of rows.

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
        example, longest = (torch.zeros(128, takes, dtype=torch.float32),), [0]
    else:
        example = tuple(torch.from_numpy(array).t().contiguous() for array in _example(takes, rows=128))
        longest = [one.max_length if takes.columns_of(one.name)[0].length == "variable" else 0 for one in takes.inputs]
    modes = [(one, one.training) for one in module.modules()]
    try:
        program = _exported(module.eval(), example, longest)
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


def _exported(module: "torch.nn.Module", example: "tuple[torch.Tensor, ...]", longest: Sequence[int]) -> Any:
    """A program of torch.export for any number of rows or, if the module does not permit few, for those that a night has.

    Args:
        module: in evaluation mode.
        example: its inputs.
        longest: the most elements of each input's lists, or 0 if it has none. Lists of one `max_length` are padded alike in
            every batch, so they share a dimension.
    """
    import torch

    refusals: list[Exception] = []
    for strict in (False, True):
        for rows, elements in ((1, 1), (2, 1), (SHAPE, SHORTEST_BUCKET)):
            fewest = torch.export.Dim("rows", min=rows)
            lengths = {most: torch.export.Dim(f"length_{most}", min=elements, max=most) for most in longest if most > elements}
            shapes = [{0: fewest, 1: lengths[most]} if most in lengths else {0: fewest} for most in longest]
            try:
                return torch.export.export(module, example, dynamic_shapes=_as_taken(module, shapes), strict=strict)
            except Exception as error:  # noqa: BLE001 - the module's own code runs here; what it raised is told below
                refusals.append(error)
    reason = next((line.strip(" -.") for line in str(refusals[0]).splitlines() if line.strip()), type(refusals[0]).__name__)
    raise ModelMisfit(
        f"{type(module).__name__} cannot be exported by torch.export for any number of rows ({reason}): rewrite what stops it, "
        "or keep its weights as safetensors with a module, package.file:factory, which need no export."
    ) from refusals[0]


def _as_taken(module: "torch.nn.Module", shapes: Sequence[Any]) -> tuple[Any, ...]:
    """What is said of each input, as torch.export wants it: of those that a module takes as *args in a tuple of their own."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return tuple(shapes)  # which torch.export refuses
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(shapes)
    return (*shapes[:named], tuple(shapes[named:])) if named < len(shapes) else tuple(shapes)


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
        """Inputs of shape (width, rows) to float32 outputs of shape (values, rows). Raises ModelMisfit if they are none."""
        import torch

        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = self._program(*[tensor.t() for tensor in inputs])
        rows = inputs[0].shape[1]
        if len(outputs) != 1 or not isinstance(outputs[0], torch.Tensor):
            raise ModelMisfit("The model gives several tensors, not one: export a module that returns its logits alone.")
        (output,) = outputs
        if not output.is_floating_point():
            raise ModelMisfit(
                f"The model gives {str(output.dtype).removeprefix('torch.')}, as numbers of classes are: export it without its "
                "argmax or threshold, so that it gives logits or probabilities."
            )
        if output.dim() == 0 or output.shape[0] != rows:
            raise ModelMisfit(f"The model gives shape {tuple(output.shape)} for {rows:,} rows: the rows must come first.")
        logits: torch.Tensor = output.reshape(rows, -1).t()
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


Matrix = npt.NDArray[np.generic]


def predict_scores(
    model: bytes,
    features: Matrix | Sequence[Matrix],
    head: Head,
    *,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    form: ModelFormat = PT2,
) -> npt.NDArray[np.float32]:
    """Scores of shape (rows,), computed in the very way in which a night does: probabilities, or numbers of a regression.

    Args:
        model: the model file.
        features: shape (rows, columns); of a model with several inputs one such array for each, in its order. Lists of any
            length are padded.
        head: what the model gives, as its card will say.
        batch_rows: rows per forward pass.
        form: what the model file is.

    Raises:
        ModelMisfit: the outputs cannot be what the head says of them.
    """
    values = outputs_of(model, features, batch_rows=batch_rows, form=form)
    if head.impossible(values).any():
        raise ModelMisfit(f"The model does not give what is said of it: {head.misfit(values)}.")
    return head.score_of(values)


def outputs_of(
    model: bytes, features: Matrix | Sequence[Matrix], *, batch_rows: int = DEFAULT_BATCH_ROWS, form: ModelFormat = PT2
) -> Logits:
    """What a model gives for features, shape (values, rows); see `predict_scores`. Raises ModelMisfit."""
    arrays = [_as_input(one) for one in ([features] if isinstance(features, np.ndarray) else features)]
    counts = {len(one) for one in arrays}
    if len(counts) != 1 or counts == {0}:
        raise ModelMisfit(f"The features must have equally many rows for each input, and some: not {sorted(counts)}.")
    (rows,) = counts
    padded = -(-rows // batch_rows) * batch_rows
    staged = [np.concatenate([one, np.repeat(one[:1], padded - rows, axis=0)]).T.copy() for one in arrays]
    batches = (tuple(one[:, start : start + batch_rows] for one in staged) for start in range(0, padded, batch_rows))
    try:
        found = list(load_program(model, "the model", form=form).forward(batches))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{one.shape} {one.dtype}" for one in arrays)
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelMisfit(f"The model does not take these features ({shapes}): {reason}.") from error
    return np.concatenate(found, axis=1)[:, :rows]


def _as_input(values: Matrix) -> Array:
    """Features as a model takes them: whole numbers as int64, others as float32, of shape (rows, width)."""
    matrix = values[:, None] if values.ndim == 1 else values
    if np.issubdtype(matrix.dtype, np.floating):
        return matrix.astype(np.float32, copy=False)
    return matrix.astype(np.int64, copy=False)


def _example(contract: FeatureContract, rows: int) -> tuple[Array, ...]:
    """Small numbers in the shapes that a contract's model takes, each (width, rows); lists of any length are short."""
    shapes = []
    for one in contract.inputs:
        lengths = [column.length for column in contract.columns_of(one.name)]
        width = (
            min(SHORTEST_BUCKET, one.max_length)
            if "variable" in lengths
            else sum(n if isinstance(n, int) else 1 for n in lengths)
        )
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
