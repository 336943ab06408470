"""A loaded program of torch, as a predictor."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from batch_assets.errors import ModelMisfit
from batch_assets.models.runtimes.pytorch.device import CudaLane, autocast
from batch_assets.process import peak_memory
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import Device, Precision

if TYPE_CHECKING:
    import torch

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class TorchPredictor(Predictor):
    """A loaded program on one device in one precision; may be called by several threads."""

    def __init__(self, program: Any, device: Device = "cpu", precision: Precision = "float32") -> None:
        self.program = program
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
        return peak_memory()

    @override
    def out_of_memory(self, error: Exception) -> bool:
        said = str(error)
        return isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError)
            and (type(error).__name__ == "OutOfMemoryError" or any(phrase in said for phrase in _OUT_OF_MEMORY))
        )

    @override
    def lost(self) -> bool:
        return self._lane.lost() if self._lane else False

    def _outputs(self, inputs: "list[torch.Tensor]") -> "torch.Tensor":
        """Inputs of shape (width, rows) to float32 outputs of shape (values, rows). Raises ModelMisfit if they are none."""
        import torch

        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = self.program(*[tensor.t() for tensor in inputs])
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
