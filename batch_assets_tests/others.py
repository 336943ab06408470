"""Networks that torch.export cannot export for any number of rows: their code, whose weights are kept as safetensors."""

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
