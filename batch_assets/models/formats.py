"""In which formats a model file may be, and how each becomes a program without trusting a pickle.

- `pt2`: an exported program of torch.export, weights and graph in one file. What to use.
- `safetensors`: weights only; the code is an importable module of the installation, whose source is compared with the one that
  was approved before it is imported. Modules that it imports in turn are not covered: keep what decides values in one file.
- `torchscript`: for old models. Torch does not develop it any more.
"""

import copy
import hashlib
import importlib
import importlib.util
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from batch_assets.errors import ModelChanged, ModelMisfit, UnsafeModel
from batch_assets.models.device import on_cuda
from batch_assets.models.program import read_program
from batch_assets.models.vetting import Archive, not_this_format, packed, vetted_pt2, vetted_script
from batch_assets.scoring.settings import Device

if TYPE_CHECKING:
    import torch

FormatName = Literal["pt2", "safetensors", "torchscript"]

MODEL_FILES: dict[FormatName, str] = {"pt2": "model.pt2", "safetensors": "model.safetensors", "torchscript": "model.ts"}
"""How the file of a version is called."""

FACTORY_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"


@dataclass(frozen=True)
class ModelFormat:
    """How a model file is read; `module` is `package.file:factory`, its sha256 that of the source file."""

    name: FormatName = "pt2"
    module: str | None = None
    module_sha256: str | None = None


PT2 = ModelFormat()
TORCHSCRIPT = ModelFormat("torchscript")


def safetensors_of(module: str) -> ModelFormat:
    """Weights for the network that a factory makes, `package.file:factory`, as its source is now. Raises ModelMisfit."""
    return ModelFormat("safetensors", module, _sha256_of(_source(module, "The card"), "The card"))


def read_model(data: bytes, name: str, device: Device, form: ModelFormat) -> Callable[..., "tuple[torch.Tensor]"]:
    """The program in a file: takes the model's inputs, gives a tuple of its one output. `name` is for messages.

    Raises:
        UnsafeModel: loading it would execute a pickle, or it is no file of this format.
        ModelChanged: the source of its module is not the one that was approved.
        ModelMisfit: its module cannot be imported, or the weights are not those of the module's network.
    """
    if form.name == "safetensors":
        return _safetensors(data, name, device, form)
    if form.name == "torchscript":
        return _torchscript(data, name, device)
    archive = vetted_pt2(data, name)
    return read_program(archive, device) or by_torch_export(archive, device)


def read_reference(data: bytes, name: str, form: ModelFormat) -> Callable[..., "tuple[torch.Tensor]"]:
    """A second program from a file that `read_model` took, to compare with: torch's own reading of a `.pt2`."""
    return by_torch_export(vetted_pt2(data, name), "cpu") if form.name == "pt2" else read_model(data, name, "cpu", form)


def by_torch_export(archive: Archive, device: Device) -> Any:
    """The program in a vetted `.pt2` file as torch.export reads it."""
    import torch

    loaded = torch.export.load(packed(archive))
    program = (on_cuda(loaded) if device == "cuda" else loaded).module(check_guards=False)
    # For weights that ask for gradients torch takes other kernels, which round otherwise, even where no gradient is computed.
    program.requires_grad_(False)
    # Plain code takes and gives flat tuples; the exported one walks an argument tree at every call.
    program.graph.set_codegen(torch.fx.graph.CodeGen())
    program.recompile()
    return program


class _Single(threading.local):
    """A network that gives one tensor, as a program.

    It may keep in its attributes what it computes, so each thread runs a copy of its own, with the same weights.
    """

    def __init__(self, network: "torch.nn.Module") -> None:
        self.network = network  # shared, so it is never run itself
        tensors = (*network.parameters(), *network.buffers())
        self._own = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})

    def __call__(self, *inputs: "torch.Tensor") -> "tuple[torch.Tensor]":
        return (self._own(*inputs),)


def _safetensors(data: bytes, name: str, device: Device, form: ModelFormat) -> _Single:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(data)
    except SafetensorError as error:
        raise UnsafeModel(not_this_format(data, name, "safetensors", str(error))) from error
    factory = form.module or ""
    found = _sha256_of(_source(factory, name), name)
    if found != form.module_sha256:
        raise ModelChanged(
            f"{name} was approved with the source of {factory} of sha256 {form.module_sha256}, here it has {found}: install "
            "the one that was approved, or register the model with this one as another version."
        )
    network = _made_by(factory, name)
    if not isinstance(network, torch.nn.Module):
        raise ModelMisfit(f"{factory}, which {name} names, gives {type(network).__name__}, not a torch.nn.Module.")
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelMisfit(f"The weights of {name} are not those of the network that {factory} makes: {reason}") from error
    return _Single(network.to(device).eval().requires_grad_(False))


def _source(factory: str, name: str) -> Path:
    """The source file of a factory's module. The packages that it lies in are imported, it is not."""
    if not re.fullmatch(FACTORY_PATTERN, factory):
        raise ModelMisfit(f"{name} names {factory!r} as its module: it must be package.file:factory.")
    module = factory.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ModelMisfit(f"{name} needs the module {module}, which is not installed here as a file: install it.")
    return Path(spec.origin)


def _sha256_of(source: Path, name: str) -> str:
    try:
        return hashlib.sha256(source.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelMisfit(f"{name} needs {source}, which cannot be read ({error.strerror}).") from error


def _made_by(factory: str, name: str) -> Any:
    """What a factory gives; it must be defined in the module that was hashed, not be imported into it."""
    import torch

    module, _, attribute = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute, None)
        if not callable(make) or getattr(make, "__module__", None) != module:
            raise ModelMisfit(f"{name} names {factory}, but {module} defines no such callable.")
        with torch.no_grad():  # what it derives from weights can be copied then
            return make()
    except (ImportError, TypeError, ValueError, RuntimeError, AttributeError, OSError) as error:
        raise ModelMisfit(f"{factory}, which {name} names, does not make a network without arguments: {error}.") from error


def _torchscript(data: bytes, name: str, device: Device) -> _Single:
    """Load with torch.jit.load.

    Its pickles are read by torch's C++ unpickler, which resolves names to the classes in the file and to a few torch types and
    cannot call Python. Torch's documentation warns of it all the same ("malicious pickle data which will execute arbitrary
    code"), and of the program itself, which may call every operator that torch has registered. So the pickles are looked
    through before torch sees them, and files whose code could write or map a file are refused. It still is a program: approve
    only what you trust.
    """
    import torch

    archive = vetted_script(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # said at registration
        try:
            network = torch.jit.load(packed(archive), map_location=device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UnsafeModel(not_this_format(data, name, "torchscript", str(error))) from error
    for weights in network.parameters():
        weights.requires_grad_(False)
    return _Single(network.eval())
