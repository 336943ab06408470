"""The quick reader of exported programs gives what torch.export gives, or leaves the program to it."""

import numpy as np
import pytest
import torch

from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import by_torch_export
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.pytorch.program import read_program
from batch_assets.models.runtimes.pytorch.vetting import vetted_pt2
from batch_assets.models.runtimes.torch_runtime import PT2


class Mixed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(6, 16), torch.nn.Linear(16, 16)
        self.norm, self.batch = torch.nn.LayerNorm(16), torch.nn.BatchNorm1d(16)
        self.out = torch.nn.Linear(16, 2)
        self.register_buffer("scale", torch.arange(1.0, 7.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.where(x > 0, torch.log1p(x.abs()), x) / self.scale
        hidden = torch.relu(self.first(x))
        hidden = self.norm(hidden) + torch.nn.functional.gelu(self.second(hidden))
        low, high = self.batch(hidden).chunk(2, dim=1)
        hidden = torch.cat([low, high.clamp(-1, 1)], dim=1).reshape(x.shape[0], 4, 4).mean(dim=1).repeat(1, 4)
        return self.out(hidden.to(torch.float64).to(torch.float32))


class Convolved(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv1d(1, 4, 3)
        self.attention = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.convolution(x.unsqueeze(1)).transpose(1, 2)
        weight = torch.softmax(self.attention(found), dim=1)
        return (found * weight).sum(dim=1)[:, :2]


@pytest.mark.parametrize("model", [Mixed(), Convolved(), torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Softplus())])
def test_its_values_are_those_of_torch_export(model: torch.nn.Module) -> None:
    data = export_model(model, 6)
    features = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)
    (ours,) = PT2.load(data, "model").forward([(features,)])
    (theirs,) = TorchPredictor(by_torch_export(vetted_pt2(data, "model"), "cpu")).forward([(features,)])
    np.testing.assert_array_equal(ours, theirs)
    with torch.inference_mode():
        np.testing.assert_allclose(ours.T, model.eval()(torch.from_numpy(features.T)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_gives_the_same_bits_whether_its_weights_were_to_be_trained_or_not() -> None:
    """Where gradients are wanted, torch takes other kernels, which round otherwise: no reader may take them."""
    model, found = Convolved(), []
    features = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)
    for wanted in (True, False):
        data = export_model(model.requires_grad_(wanted), 6)
        for program in (PT2.load(data, "model"), TorchPredictor(by_torch_export(vetted_pt2(data, "model"), "cpu"))):
            found += program.forward([(features,)])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


class Views(torch.nn.Module):
    """relu must not overwrite what a view of it is read from later."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(x)
        other = hidden.view(-1, 4, 2)
        return torch.relu(hidden)[:, :2] + other.sum(dim=1)


class Recurrent(torch.nn.Module):
    """Its zero state has a size that is partly the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input, self.state = torch.nn.Linear(1, 5), torch.nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(2, x.shape[0], 5)
        for step in range(x.shape[1]):
            state = torch.tanh(self.input(x[:, step : step + 1]) + self.state(state))
        return state.sum(dim=0)[:, :2].masked_fill(x[:, :1] > 2, -torch.inf).clamp(max=torch.inf)


@pytest.mark.parametrize("model", [Views(), Recurrent()])
def test_views_sizes_and_infinities(model: torch.nn.Module) -> None:
    data = export_model(model, 6)
    features = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)
    assert read_program(vetted_pt2(data, "model"), "cpu") is not None
    (ours,) = PT2.load(data, "model").forward([(features,)])
    (theirs,) = TorchPredictor(by_torch_export(vetted_pt2(data, "model"), "cpu")).forward([(features,)])
    np.testing.assert_array_equal(ours, theirs)


def test_straight_programs_need_no_torch_export() -> None:
    assert read_program(vetted_pt2(export_model(Mixed(), 6), "model"), "cpu") is not None


def test_what_it_does_not_know_is_left_to_torch_export() -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y[:, :1] * 2, lambda y: y[:, :1] - 1, (x,))

    data = export_model(Branching(), 3)
    assert read_program(vetted_pt2(data, "model"), "cpu") is None
    (found,) = PT2.load(data, "branching").forward([(np.ones((3, 64), dtype=np.float32),)])
    np.testing.assert_array_equal(found, np.full((1, 64), 2.0, dtype=np.float32))
