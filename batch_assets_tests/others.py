"""The code of networks whose weights are kept as safetensors; most of them cannot be exported for any number of rows."""

import os
import signal

import torch


class ListsByGru(torch.nn.Module):
    """A GRU over embedded lists; what pads them counts as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.cell = torch.nn.Embedding(100, 8, padding_idx=0), torch.nn.GRU(8, 8, batch_first=True)
        self.out = torch.nn.Linear(8, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        there = (tokens > 0).unsqueeze(-1)
        return self.out((self.cell(self.items(tokens))[0] * there).sum(dim=1))


class TabNetScores(torch.nn.Module):
    """A TabNet, which gives its loss of sparsity beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        from pytorch_tabnet.tab_network import TabNet

        self.network = TabNet(8, 2, group_attention_matrix=torch.eye(8))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(features)[0]
        return scores


class Keeping(torch.nn.Module):
    """Keeps in an attribute what it computes, and computes on with it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(3, 64), torch.nn.Linear(64, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.hidden = torch.tanh(self.first(features))
        self.hidden = self.hidden + torch.tanh(self.hidden)
        return self.last(self.hidden)


class Killing(torch.nn.Module):
    """Ends its process at a row whose first feature is 77, as a fault in native code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([1.0, -0.5, 0.25]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if bool((features[:, 0] == 77.0).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return features @ self.weights
