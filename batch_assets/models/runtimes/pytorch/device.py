"""What is particular to a device: precision, and the overlap of copies and work on a GPU.

NOT YET RUN ON A GPU: everything here with "cuda" in its name was written without one. Tested is what needs none: the order of
outputs, the bounded look-ahead, whose error it is. `python benchmarks/gpu.py` checks and measures the rest on a GPU.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from batch_assets.scoring.forward import Logits
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import Device, Precision

if TYPE_CHECKING:
    import torch

Outputs = Callable[["list[torch.Tensor]"], "torch.Tensor"]
Item = TypeVar("Item")
Begun = TypeVar("Begun")


def autocast(device: Device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a program computes in a precision."""
    import torch

    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"  # torch's default is True: convolutions would not be float32
    if precision in ("float32", "tf32"):
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16, cache_enabled=False)


def on_cuda(program: Any) -> Any:
    """An exported program with its weights and constants on the GPU."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, "cuda")


def one_ahead(begin: Callable[[int, Item], Begun], items: Iterable[Item]) -> Iterator[Begun]:
    """What was begun of each item, by its number, in order; each is handed out when the next one was begun.

    What an item raises comes in its turn, after what was begun before it: else its error would be taken for the other's.
    """
    begun: deque[Begun] = deque()
    try:
        for number, item in enumerate(items):
            begun.append(begin(number, item))
            if len(begun) == 2:
                yield begun.popleft()
    except Exception:
        yield from begun
        raise
    yield from begun


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
        """Logits of each batch in order; while they are waited for, the next batch is copied and computed."""
        for logits, there in one_ahead(lambda number, batch: self._begun(outputs, number % 2, batch), batches):
            there.synchronize()
            yield logits.numpy()

    def _begun(self, outputs: Outputs, slot: int, batch: tuple[Array, ...]) -> "tuple[torch.Tensor, torch.cuda.Event]":
        """Begin a batch: where its logits will be, in this machine's memory, and the event that says that they are there.

        The way back is queued at once: after the next batch's work it would wait for that, and nothing would overlap.
        """
        import torch

        started = time.perf_counter()
        with torch.cuda.stream(self._copies):
            inputs = [tensor.to("cuda", non_blocking=True) for tensor in self._pinned(slot, batch)]
        self._seconds += time.perf_counter() - started
        work = torch.cuda.current_stream()
        work.wait_stream(self._copies)
        for tensor in inputs:
            tensor.record_stream(work)
        logits = outputs(inputs).to("cpu", non_blocking=True)  # which torch puts into pinned memory
        there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        there.record(work)
        return logits, there

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
        """Seconds in which batches were put into pinned memory and their copies begun, since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def lost(self) -> bool:
        """Whether the GPU answers this process with an error, as it does for ever after an assertion in a kernel."""
        import torch

        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False
