"""How a module becomes a file: a `.pt2` of torch.export, in which nothing is a pickle or tells of the machine that made it."""

import inspect
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET, Array

if TYPE_CHECKING:
    import torch

_SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")
"""Node annotations that hold paths and lines of the machine that exported the model."""


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


def _example(contract: FeatureContract, rows: int) -> tuple[Array, ...]:
    """Small numbers in the shapes that a contract's model takes, each (width, rows); lists of any length are short."""
    shapes = []
    for one in contract.inputs:
        width = contract.width_of(one.name) or min(SHORTEST_BUCKET, one.max_length)
        shapes.append(np.zeros((width, rows)) if one.dtype == "int64" else np.arange(width * rows).reshape(width, rows) % 7 / 7)
    return tuple(array.astype(one.dtype) for array, one in zip(shapes, contract.inputs, strict=True))
