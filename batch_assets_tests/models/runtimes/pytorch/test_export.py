"""`export_model` takes what a night gives a model, says in one sentence what it cannot do, and leaves the module as it was."""

import numpy as np
import pytest
import torch

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.torch_runtime import PT2


def lists(longest: int, other: int | None = None) -> FeatureContract:
    inputs = [
        {"name": "items", "dtype": "int64", "max_length": longest},
        {"name": "more", "dtype": "int64", "max_length": other},
    ]
    names = ["items"] if other is None else ["items", "more"]
    columns = [{"name": name, "dtype": "int64", "length": "variable", "input": name} for name in names]
    return FeatureContract.model_validate(
        {"key": {"name": "user", "dtype": "int64"}, "inputs": inputs[: len(names)], "columns": columns}
    )


class Bag(torch.nn.Module):
    """The mean of what is in a list, seen through a window of five."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.window = torch.nn.Embedding(10, 4), torch.nn.Conv1d(4, 1, 5)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.window(self.items(items).transpose(1, 2)).mean(dim=2)


class Weighed(torch.nn.Module):
    """Two lists that belong together, element by element."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = torch.nn.Embedding(10, 1)

    def forward(self, items: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return (self.items(items)[:, :, 0] * more).sum(dim=1)


class Squeezed(torch.nn.Module):
    """Has one output a row unless there is one row only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.layer(x).squeeze()
        return found if x.shape[0] > 1 else found.reshape(1)


@pytest.mark.parametrize(("longest", "widths"), [(50, [16, 32, 50]), (16, [16]), (10, [10])])
def test_lists_of_every_width_that_a_night_pads_to(longest: int, widths: list[int]) -> None:
    model = Bag().eval()
    program = PT2.load(export_model(model, lists(longest)), "m")
    for width in widths:
        items = np.random.default_rng(0).integers(0, 10, (width, 64))
        expected = model(torch.from_numpy(items.T)).detach().numpy().T
        np.testing.assert_allclose(next(iter(program.forward([(items,)]))), expected, atol=1e-6)


def test_lists_that_belong_together() -> None:
    program = PT2.load(export_model(Weighed(), lists(50, 50)), "m")
    items = np.random.default_rng(0).integers(0, 10, (32, 64))
    expected = Weighed()(torch.from_numpy(items.T), torch.from_numpy(items.T)).detach().numpy()
    np.testing.assert_allclose(next(iter(program.forward([(items, items)])))[0], expected, rtol=1e-5, atol=1e-5)


def test_a_module_that_needs_more_than_one_row() -> None:
    x = np.random.default_rng(0).standard_normal((3, 192)).astype(np.float32)
    (found,) = PT2.load(export_model(Squeezed(), 3), "m").forward([(x,)])
    np.testing.assert_allclose(found[0], Squeezed()(torch.from_numpy(x.T)).detach().numpy(), atol=1e-6)


class AnyNumber(torch.nn.Module):
    """Takes its inputs without naming each."""

    def __init__(self) -> None:
        super().__init__()
        self.weighed = Weighed()

    def forward(self, *lists: torch.Tensor) -> torch.Tensor:
        return self.weighed(*lists)


class FirstAndOthers(AnyNumber):
    def forward(self, items: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.weighed(items, *others)


@pytest.mark.parametrize(
    "module", [AnyNumber(), FirstAndOthers(), torch.nn.DataParallel(Weighed()), torch.compile(Weighed(), backend="eager")]
)
def test_inputs_without_names(module: torch.nn.Module) -> None:
    items, more = np.random.default_rng(0).integers(0, 10, (2, 32, 64))
    expected = Weighed()(torch.from_numpy(items.T), torch.from_numpy(more.T)).detach().numpy()
    (found,) = PT2.load(export_model(module, lists(50, 50)), "m").forward([(items, more)])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


def test_the_module_stays_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = [one.training for one in model.modules()], [one.requires_grad for one in model.parameters()]
    export_model(model, 3)
    assert before == ([one.training for one in model.modules()], [one.requires_grad for one in model.parameters()])
    assert before == ([True, True, False, True, True], [False, True, True, True, True, True])


class Fixed(torch.nn.Module):
    """Knows one number of rows only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(128, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.shift).sum(dim=1)


class Raising(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("what\nnow")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", [Fixed(), Raising()])
def test_what_cannot_be_exported_is_a_sentence(module: torch.nn.Module) -> None:
    with pytest.raises(ModelMisfit) as caught:
        export_model(module.train(), 3)
    said = str(caught.value)
    assert said.startswith(f"{type(module).__name__} cannot be exported by torch.export for any number of rows (")
    assert said.endswith("keep its weights as safetensors with a module, package.file:factory, which need no export.")
    assert "\n" not in said
    assert module.training
