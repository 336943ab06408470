"""The model of the comparison: an MLP 64-256-256-3 with made-up weights."""

import threading

import torch
from workload import COLUMNS, LABELS

_SEED = threading.Lock()
"""The seed belongs to the process: two threads that draw weights at once would get others."""


def mlp(*, inplace: bool) -> torch.nn.Module:
    """The same weights every time; maps (rows, 64) float32 to logits (rows, 3); `inplace` is that of the ReLUs."""
    linear = torch.nn.Linear
    with _SEED:
        torch.manual_seed(0)
        layers = [linear(len(COLUMNS), 256), torch.nn.ReLU(inplace), linear(256, 256), torch.nn.ReLU(inplace)]
        return torch.nn.Sequential(*layers, linear(256, len(LABELS))).eval()
