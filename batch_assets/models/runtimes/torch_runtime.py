"""The runtime of torch: exported programs, and weights with the code that they are of.

- `pt2`: an exported program of torch.export, weights and graph in one file. What to use.
- `safetensors`: weights only; the code is an importable module of the installation, whose source is compared with the one that
  was approved before it is imported. Modules that it imports in turn are not covered: keep what decides values in one file.

TorchScript is not read: torch does not develop it any more, and it scores more slowly (benchmarks/model_reading.py).
"""

from contextlib import AbstractContextManager
from typing import ClassVar, Literal, Self, cast

from pydantic import Field, model_validator
from typing_extensions import override

from batch_assets.features.contract import FeatureContract
from batch_assets.models.recognition import EXPORT, WEIGHTS
from batch_assets.models.runtimes.runtime import FileKind, Runtime
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.settings import Device, Precision

FormatName = Literal["pt2", "safetensors"]

FACTORY_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"

_MODEL_FILES: dict[FormatName, str] = {"pt2": "model.pt2", "safetensors": "model.safetensors"}

_NOUNS: dict[FormatName, str] = {
    "pt2": "a .pt2 file of torch.export",
    "safetensors": "a safetensors file",
}

_PICKLED = "a file of torch.save, which is a pickle"


def _is_none(value: object) -> bool:
    return value is None


class TorchRuntime(Runtime):
    """Torch, and in which format a file of it is; `module` is `package.file:factory`, its sha256 that of the source file."""

    library: ClassVar[str] = "torch"
    preloaded: ClassVar[tuple[str, ...]] = ("torch.export._trace", "torch.export.pt2_archive._package")
    files: ClassVar[tuple[FileKind, ...]] = (
        FileKind("an AOTInductor package, compiled code that may not be loaded", EXPORT, entry=r"data/aotinductor/"),
        FileKind(
            "a .pt2 file of an earlier torch, which holds pickles",
            "export it again",
            entry=r"serialized_exported_program\.json",
        ),
        FileKind(
            _NOUNS["pt2"],
            "say so in the card (runtime: {kind: torch, format: pt2})",
            entry=r"models/model\.json",
            model_file=_MODEL_FILES["pt2"],
        ),
        FileKind("a TorchScript file, which torch does not develop any more", EXPORT, entry=r"code/"),
        FileKind(_PICKLED, WEIGHTS, entry=r"data\.pkl"),
        FileKind(_PICKLED, WEIGHTS, begins=rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\."),
        FileKind(
            "a safetensors file, weights without code",
            "name the code that they are of in the card (runtime: {kind: torch, format: safetensors, module: "
            "package.file:factory})",
            begins=rb"[\s\S]{3}\0{5}\{",
            model_file=_MODEL_FILES["safetensors"],
        ),
    )

    kind: Literal["torch"] = "torch"
    format: FormatName = Field("pt2", description="What the model file is.")
    module: str | None = Field(
        None, description="safetensors: package.file:factory of the network.", pattern=FACTORY_PATTERN, exclude_if=_is_none
    )
    module_sha256: str | None = Field(None, description="sha256 of that module's source file.", exclude_if=_is_none)

    @model_validator(mode="after")
    def _weights_need_a_module(self) -> Self:
        if (self.format == "safetensors") != (self.module is not None) or (self.module is None) != (self.module_sha256 is None):
            raise ValueError("safetensors need a module and its module_sha256, other formats have none")
        return self

    @property
    @override
    def model_file(self) -> str:
        return _MODEL_FILES[self.format]

    @property
    @override
    def noun(self) -> str:
        return _NOUNS[self.format]

    @override
    def vet(self, data: bytes, name: str) -> None:
        from batch_assets.models.runtimes.pytorch.formats import vet

        self.imported(name)
        vet(data, name, self)

    @override
    def load(self, data: bytes, name: str, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        from batch_assets.models.runtimes.pytorch.formats import read_model
        from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor

        torch = self.imported(name)
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        return TorchPredictor(read_model(data, name, device, self), device, precision)

    @override
    def has(self, device: str) -> bool:
        return device == "cpu" or bool(self.imported(f"The device {device}").cuda.is_available())

    @override
    def memory(self, device: str) -> int | None:
        if device == "cpu":
            return None
        return int(self.imported(f"The device {device}").cuda.get_device_properties(device).total_memory)

    @override
    def reference(self, data: bytes, name: str) -> Predictor:
        from batch_assets.models.runtimes.pytorch.formats import read_reference
        from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor

        return TorchPredictor(read_reference(data, name, self))

    @override
    def require_same(self, ours: Logits, theirs: Logits, name: str) -> None:
        from batch_assets.models.runtimes.pytorch.checks import require_same_program

        if self.format == "pt2":
            require_same_program(ours, theirs, name)
        else:
            super().require_same(ours, theirs, name)

    @override
    def check(self, reference: Predictor, contract: FeatureContract, name: str) -> None:
        from batch_assets.models.runtimes.pytorch.checks import require_finite_weights, require_order
        from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor

        program = cast(TorchPredictor, reference).program
        require_finite_weights(program, name)
        require_order(program, contract, name)

    @override
    def seeded(self, seed: int) -> AbstractContextManager[None]:
        from batch_assets.models.runtimes.pytorch.checks import seeded

        return seeded(seed)


PT2 = TorchRuntime()
