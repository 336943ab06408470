"""What is looked at in a program of torch alone when it is tried."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.models.runtimes.pytorch.program import read_program
from batch_assets.scoring.forward import Logits

_ROUNDING = 1e-4
"""By how much two readings of one program may differ, as a share of its largest output: what audits allow other machines."""


def require_same_program(ours: Logits, reference: Logits, name: str) -> None:
    """Refuse a `.pt2` of which torch's own reading gives other values than ours. Raises ModelMisfit.

    Torch's may round otherwise, as it may call other kernels: nobody scores with it,
    and which reader a file gets depends on the file alone, so that a night and its audit have the same bits. A program that
    was misread is not off by roundings.
    """
    finite = np.abs(reference[np.isfinite(reference)])
    bound = _ROUNDING * float(finite.max(initial=0.0))
    if not np.allclose(ours, reference, rtol=_ROUNDING, atol=bound, equal_nan=True):
        raise ModelMisfit(f"{name} is read otherwise by {read_program.__module__} than by torch.export: please report it.")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws the same random numbers in every block of one seed, and those of the process are as they were after it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def require_finite_weights(program: Any, name: str) -> None:
    """Raises ModelMisfit if a weight is NaN or infinite, or a buffer is NaN: infinities are what masks are made of."""
    import torch

    network = getattr(program, "network", program)
    if not isinstance(network, torch.nn.Module):
        return
    parameters = dict(network.named_parameters())
    for kind, tensors in (("weight", parameters), ("buffer", dict(network.named_buffers()))):
        for label, tensor in tensors.items():
            if not tensor.is_floating_point():
                continue
            bad = int((~tensor.isfinite() if kind == "weight" else tensor.isnan()).sum())
            if bad:
                raise ModelMisfit(
                    f"{name} has a {kind} that is not finite: {bad:,} of the {tensor.numel():,} numbers of {label} are NaN or "
                    "infinite; its training has diverged, take an earlier state of it."
                )


def require_order(program: Any, contract: FeatureContract, name: str) -> None:
    """Raises ModelMisfit if a model takes what the contract names in another order: what goes to it has places, no names."""
    import torch

    forward = getattr(program, "network", program).forward
    scripted = isinstance(forward, torch.ScriptMethod)
    takes = [one.name for one in forward.schema.arguments[1:]] if scripted else list(inspect.signature(forward).parameters)
    named = [one.name for one in contract.inputs]
    if takes != named and sorted(takes) == sorted(named):
        raise ModelMisfit(
            f"{name} takes {', '.join(takes)}, and its contract names {', '.join(named)} in this order: let the inputs of the "
            "contract have the order in which the module's forward takes them."
        )
