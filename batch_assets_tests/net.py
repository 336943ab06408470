"""A small network whose weights are kept apart from its code."""

import torch


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = torch.nn.Linear(3, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(torch.relu(self.first(torch.log1p(features.abs())))))


def seeded() -> Net:
    """A network whose statistics and weights are not those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = Net()
        net.norm(torch.randn(64, 32) * 3 + 1)
        return net.eval()
