"""What is particular to a device: precision, and the overlap of copies and work on a GPU.

NOT YET RUN ON A GPU: everything here with "cuda" in its name was written without one and is tested only where the CPU takes the
same path (the order of outputs, the bounded look-ahead).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from batch_assets.scoring.forward import Logits
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import Device, Precision

if TYPE_CHECKING:
    import torch

Outputs = Callable[["list[torch.Tensor]"], "torch.Tensor"]


def autocast(device: Device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a program computes in a precision."""
    import torch

    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision in ("float32", "tf32"):
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16, cache_enabled=False)


def on_cuda(program: Any) -> Any:
    """An exported program with its weights and constants on the GPU."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, "cuda")


class CudaLane:
    """Feeds one GPU: pinned staging buffers, a stream for copies, and one batch copied while another is computed."""

    def __init__(self) -> None:
        import torch

        self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._slots: list[list[torch.Tensor]] = [[], []]
        self._seconds = 0.0

    def capability(self) -> str:
        """The GPU's name and compute capability."""
        import torch

        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} {major}.{minor}"

    def forward(self, outputs: Outputs, batches: Iterable[tuple[Array, ...]]) -> Iterator[Logits]:
        """Logits of each batch in order, while the next one is on its way to the device."""
        import torch

        ahead: deque[torch.Tensor] = deque()
        for number, batch in enumerate(batches):
            started = time.perf_counter()
            with torch.cuda.stream(self._copies):
                inputs = [tensor.to("cuda", non_blocking=True) for tensor in self._pinned(number % 2, batch)]
            self._seconds += time.perf_counter() - started
            torch.cuda.current_stream().wait_stream(self._copies)
            for tensor in inputs:
                tensor.record_stream(torch.cuda.current_stream())
            ahead.append(outputs(inputs))
            if len(ahead) == 2:
                yield ahead.popleft().cpu().numpy()
        for logits in ahead:
            yield logits.cpu().numpy()

    def _pinned(self, slot: int, batch: tuple[Array, ...]) -> "list[torch.Tensor]":
        """A batch in pinned memory; the slot's last batch has left it, because its outputs were waited for."""
        import torch

        tensors = [torch.from_numpy(array) for array in batch]
        kept = self._slots[slot]
        if [one.shape for one in kept] != [one.shape for one in tensors]:
            kept = self._slots[slot] = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in tensors]
        for place, tensor in zip(kept, tensors, strict=True):
            place.copy_(tensor)
        return kept

    def peak_memory(self) -> int:
        """The most bytes of the GPU that torch has held."""
        import torch

        return torch.cuda.max_memory_allocated()

    def copying(self) -> float:
        """Seconds of copies to the device since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
