"""The Runtime port: bytes of a model, device, precision -> Predictor: inputs (width, rows) -> float32 outputs (values, rows).

A runtime is one file and one line of `RUNTIMES`, or a class of another package's with an entry point in its group. Nothing else
names a library that computes with models.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.ports import Adapter, Port, extra
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.settings import Device, Precision


@dataclass(frozen=True)
class FileKind:
    """One kind of file that people give as a model: a noun for it, what to do with it, and how it is known.

    It is known by its first bytes (`begins`) or, an archive, by an entry (`entry`) that no other has; both are regular
    expressions. `model_file` is that of the runtime which reads it, if one does.
    """

    noun: str
    advice: str
    begins: bytes | None = None
    entry: str | None = None
    model_file: str = ""


class Runtime(Adapter):
    """What a model file is and how it becomes a predictor; its settings stand in the model's card, as `runtime`.

    Example:
        runtime = RUNTIMES.adapter("lightgbm")()
        predictor = runtime.load(Path("model.txt").read_bytes(), "churn v1")
        (outputs,) = predictor.forward([(features,)])  # float32 of shape (3 columns, 64 rows) -> float32 of shape (1, 64)
    """

    library: ClassVar[str]
    """The module on whose version bits depend, and which the extra of the runtime's kind brings."""

    files: ClassVar[tuple[FileKind, ...]]
    """The files that it reads, and those that people take for one; ours are known under every other kind too."""

    any_shape: ClassVar[bool] = False
    """Whether a row has the same bits in batches of every size; a model is held to it when it is tried."""

    preloaded: ClassVar[tuple[str, ...]] = ()
    """Modules that are imported once for all files that are opened in the process apart; it forks afterwards."""

    @property
    @abstractmethod
    def model_file(self) -> str:
        """How the file of a version is called, as in `model.onnx`."""

    @property
    @abstractmethod
    def noun(self) -> str:
        """What the file is, for messages, as in `an ONNX model`."""

    @abstractmethod
    def vet(self, data: bytes, name: str) -> None:
        """Look at a file without running anything that it brings along; `name` is for messages. `load` does it first.

        Raises:
            UnsafeModel: it is damaged, is of another kind, or would do more than compute.
            MissingExtra: what it is looked at with is not installed.
        """

    @abstractmethod
    def load(self, data: bytes, name: str, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        """A predictor that several threads may call; one thread computes each batch: parallelism comes from the engine.

        Args:
            data: the model file.
            name: for messages.
            device: where it computes.
            precision: in which precision it computes; its outputs are float32 always.

        Raises:
            UnsafeModel: see `vet`.
            ModelMisfit: it gives nothing that could be scores.
            ModelChanged: what it needs beside the file is not what was approved.
            ConfigError: it cannot be computed on that device or in that precision.
            MissingExtra: the library is not installed.
        """

    def has(self, device: str) -> bool:
        """Whether this machine has a device for it."""
        return device == "cpu"

    def memory(self, device: str) -> int | None:  # noqa: ARG002
        """Bytes of memory of a device; None where it is this machine's, or the library does not say."""
        return None

    def version(self) -> str:
        """The version of its library here. Raises MissingExtra."""
        try:
            return version(self.library)
        except PackageNotFoundError:  # or it is installed under another name, as onnxruntime-gpu is
            return str(self.imported(f"A model of the runtime {self.kind}").__version__)

    def versioned(self) -> str:
        """Its library and that library's version, as in `torch-2.13.0`. Raises MissingExtra."""
        return f"{self.library}-{self.version()}"

    def imported(self, what: str) -> Any:
        """Its library; `what` needs it, for messages. Raises MissingExtra."""
        return extra(self.library, self.kind, what)

    def reference(self, data: bytes, name: str) -> Predictor:
        """A second reading of a file, to be compared with the first; by default the same once more."""
        return self.load(data, name)

    def require_same(self, ours: Logits, theirs: Logits, name: str) -> None:
        """Refuse a file whose second reading gives other outputs than the first. Raises ModelMisfit."""
        if not np.array_equal(ours, theirs, equal_nan=True):
            raise ModelMisfit(f"{name} gives other values when it is loaded again: keep all that it computes with in its file.")

    def check(self, reference: Predictor, contract: FeatureContract, name: str) -> None:
        """What only the runtime can see in a loaded file, before it is tried.

        Args:
            reference: what `reference` gave.
            contract: what the model must take.
            name: for messages.

        Raises:
            ModelMisfit: it does not take the contract's columns, or cannot give scores.
        """

    def seeded(self, seed: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Lets a model that draws random numbers draw the same ones in every block of one seed, if the library can."""
        return nullcontext()


RUNTIMES: Port[Runtime] = Port(
    "runtime",
    "batch_assets.runtimes",
    {
        "torch": "batch_assets.models.runtimes.torch_runtime:TorchRuntime",
        "onnx": "batch_assets.models.runtimes.onnx_runtime:OnnxRuntime",
        "lightgbm": "batch_assets.models.runtimes.lightgbm_runtime:LightgbmRuntime",
    },
)
