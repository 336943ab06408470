"""How a file of each format becomes a program without trusting a pickle."""

import copy
import hashlib
import importlib
import importlib.util
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_assets.errors import ModelChanged, ModelMisfit, UnsafeModel
from batch_assets.models.recognition import refusal
from batch_assets.models.runtimes.pytorch.device import on_cuda
from batch_assets.models.runtimes.pytorch.program import read_program
from batch_assets.models.runtimes.pytorch.vetting import Archive, packed, vetted_pt2
from batch_assets.models.runtimes.torch_runtime import FACTORY_PATTERN, TorchRuntime
from batch_assets.scoring.settings import Device

if TYPE_CHECKING:
    import torch


def safetensors_of(module: str) -> TorchRuntime:
    """Weights for the network that a factory makes, `package.file:factory`, as its source is now. Raises ModelMisfit."""
    sha256 = _sha256_of(_source(module, "The card"), "The card")
    return TorchRuntime(format="safetensors", module=module, module_sha256=sha256)


def vet(data: bytes, name: str, runtime: TorchRuntime) -> None:
    """Raises UnsafeModel if loading a file would execute a pickle, or it is no file of this format."""
    if runtime.format == "pt2":
        vetted_pt2(data, name)
    else:
        _weights(data, name, runtime)


def read_model(data: bytes, name: str, device: Device, runtime: TorchRuntime) -> Callable[..., "tuple[torch.Tensor]"]:
    """The program in a file: takes the model's inputs, gives a tuple of its one output. `name` is for messages.

    Raises:
        UnsafeModel: loading it would execute a pickle, or it is no file of this format.
        ModelChanged: the source of its module is not the one that was approved.
        ModelMisfit: its module cannot be imported, or the weights are not those of the module's network.
    """
    if runtime.format == "safetensors":
        return _safetensors(data, name, device, runtime)
    archive = vetted_pt2(data, name)
    return read_program(archive, device) or by_torch_export(archive, device)


def read_reference(data: bytes, name: str, runtime: TorchRuntime) -> Callable[..., "tuple[torch.Tensor]"]:
    """A second program from a file that `read_model` took, to compare with: torch's own reading of a `.pt2`."""
    return by_torch_export(vetted_pt2(data, name), "cpu") if runtime.format == "pt2" else read_model(data, name, "cpu", runtime)


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


def _weights(data: bytes, name: str, runtime: TorchRuntime) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise UnsafeModel(refusal(data, name, runtime, str(error))) from error


def _safetensors(data: bytes, name: str, device: Device, runtime: TorchRuntime) -> _Single:
    import torch

    weights = _weights(data, name, runtime)
    factory = runtime.module or ""
    found = _sha256_of(_source(factory, name), name)
    if found != runtime.module_sha256:
        raise ModelChanged(
            f"{name} was approved with the source of {factory} of sha256 {runtime.module_sha256}, here it has {found}: install "
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
