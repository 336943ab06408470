"""What predictors on the CPU have in common: batch by batch, nothing to copy, the memory of the process."""

import platform
from abc import abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
from typing_extensions import override

from batch_assets.process import peak_memory
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import Array

_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "ailed to allocate", "out of memory", "not enough memory")


class CpuPredictor(Predictor):
    """A predictor of a library that computes on the CPU in float32; a subclass says what one batch gives.

    What the library raises on a batch must be a RuntimeError or another error of Python's own: a night looks for the row that
    is to blame, and registration says of which shape it is.
    """

    def __init__(self, library: str, version: str) -> None:
        self._library, self._version = library, version

    @abstractmethod
    def outputs(self, batch: tuple[Array, ...]) -> Logits:
        """Inputs of shape (width, rows) to outputs of shape (values, rows)."""

    @property
    @override
    def environment(self) -> dict[str, str]:
        return {
            "device": "cpu",
            "cpu_capability": cpu_capability(),
            "precision": "float32",
            self._library: self._version,
        }

    @override
    def forward(self, batches: Iterable[tuple[Array, ...]]) -> Iterator[Logits]:
        for batch in batches:
            yield self.outputs(batch)

    @override
    def copying(self) -> float:
        return 0.0

    @override
    def peak_memory(self) -> int:
        return peak_memory()

    @override
    def out_of_memory(self, error: Exception) -> bool:
        said = str(error)
        return isinstance(error, MemoryError) or any(phrase in said for phrase in _OUT_OF_MEMORY)

    @override
    def lost(self) -> bool:
        return False


def cpu_capability() -> str:
    """The largest set of instructions that numpy finds on this CPU, as in `X86_V3`: libraries choose their kernels by it."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return str(found[-1]) if found else platform.machine()
