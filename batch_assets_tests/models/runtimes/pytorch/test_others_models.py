"""Models that nobody here wrote, exported as their users would: each is scored as the module itself does, or refused.

What is compared is what a night serves (rows of a table, in batches, after post-processing) with what the module gives for the
same rows in one piece. Packages that are not installed are skipped, and named.
"""

import re
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save
from torch import nn

from batch_assets.errors import BatchAssetsError
from batch_assets.features.contract import FeatureContract
from batch_assets.models.card import Card
from batch_assets.models.permitted import permitted_rows
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.models.trial import check_model
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.heads.classifier import Returns
from batch_assets.scoring.inputs import Staging
from batch_assets_tests.models.test_trial import card_of, contract_of
from batch_assets_tests.others import ListsByGru, TabNetScores

pytestmark = pytest.mark.process

ROWS = 500
FLOATS = contract_of([{"name": f"f{number}"} for number in range(8)])
MIXED = contract_of(
    [
        *({"name": f"f{number}"} for number in range(4)),
        *({"name": f"c{number}", "dtype": "int64", "categories": 10, "input": "ids"} for number in range(3)),
    ],
    {"name": "features"},
    {"name": "ids", "dtype": "int64"},
)
ONE_TABLE = contract_of(
    [
        *({"name": f"c{number}", "dtype": "int32", "categories": 10} for number in range(3)),
        *({"name": f"f{number}", "min": 0, "max": 1} for number in range(4)),
    ]
)
STEPS = contract_of([{"name": "series", "length": 12}])
TOKENS = contract_of(
    [{"name": "tokens", "dtype": "int64", "length": "variable", "input": "tokens", "min": 1, "max": 99}],
    {"name": "tokens", "dtype": "int64", "max_length": 48},
)


@dataclass(frozen=True)
class Other:
    """One of them. `refused` is what its refusal says, if it is refused; a `factory` makes it for weights in safetensors."""

    name: str
    make: Callable[[], nn.Module]
    contract: FeatureContract = FLOATS
    returns: Returns = "logits"
    classes: int = 2
    per_class: bool = False
    refused: str = ""
    factory: str = ""


class Lambda(nn.Module):
    """What a user writes around a module so that it takes the contract's inputs and gives one tensor."""

    def __init__(self, module: nn.Module, call: Callable[..., torch.Tensor], *others: nn.Module) -> None:
        super().__init__()
        self.module, self.others, self.call = module, nn.ModuleList(others), call

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, *inputs)


class OneInput(Lambda):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, *self.others, features)


class TwoInputs(Lambda):
    def forward(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, *self.others, features, ids)


def of_torch() -> list[Other]:
    def encoder(**said: Any) -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 2, 32, **said)
        return nn.TransformerEncoder(layer, 2)

    def tokens(encoder: nn.Module, embedding: nn.Module, out: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        there = (tokens > 0) | (torch.arange(tokens.shape[1]) == 0)
        hidden = encoder(embedding(tokens), src_key_padding_mask=~there)
        return out((hidden * there.unsqueeze(-1)).sum(dim=1) / there.sum(dim=1, keepdim=True))

    def steps(cell: nn.Module, out: nn.Module, series: torch.Tensor) -> torch.Tensor:
        return out(cell(series.unsqueeze(-1))[0][:, -1])

    def over_rows(cell: nn.Module, out: nn.Module, series: torch.Tensor) -> torch.Tensor:
        return out(cell(series.unsqueeze(-1))[0][:, -1])

    out = nn.Linear
    return [
        Other(
            "torch.nn.TransformerEncoder of columns",
            lambda: OneInput(
                encoder(batch_first=True),
                lambda encoder, embed, out, features: out(encoder(embed(features.unsqueeze(-1))).mean(dim=1)),
                out(1, 16),
                out(16, 3),
            ),
            classes=3,
        ),
        Other(
            "torch.nn.TransformerEncoder of lists",
            lambda: OneInput(encoder(batch_first=True), tokens, nn.Embedding(100, 16, padding_idx=0), out(16, 1)),
            TOKENS,
        ),
        Other(
            "torch.nn.TransformerEncoder without batch_first",
            lambda: OneInput(
                encoder(),
                lambda encoder, embed, out, features: out(encoder(embed(features.unsqueeze(-1))).mean(dim=1)),
                out(1, 16),
                out(16, 1),
            ),
            refused="rows attend to each other",
        ),
        Other("torch.nn.LSTM", lambda: OneInput(nn.LSTM(1, 8, 2, batch_first=True), steps, out(8, 3)), STEPS, classes=3),
        Other("torch.nn.GRU", lambda: OneInput(nn.GRU(1, 8, batch_first=True, bidirectional=True), steps, out(16, 1)), STEPS),
        Other("torch.nn.RNN", lambda: OneInput(nn.RNN(1, 8, batch_first=True), steps, out(8, 4)), STEPS, classes=4),
        Other(
            "torch.nn.LSTM without batch_first",
            lambda: OneInput(nn.LSTM(1, 8), over_rows, out(8, 1)),
            STEPS,
            refused="cannot be exported",
        ),
        Other("torch.nn.GRU of lists", ListsByGru, TOKENS, refused="cannot be exported .* safetensors with a module"),
        Other("torch.nn.GRU of lists as safetensors", ListsByGru, TOKENS, factory="batch_assets_tests.others:ListsByGru"),
        Other(
            "torch.nn.EmbeddingBag",
            lambda: OneInput(
                nn.EmbeddingBag(100, 8, mode="sum", padding_idx=0), lambda bag, out, ids: out(bag(ids)), out(8, 1)
            ),
            TOKENS,
        ),
        Other(
            "torch.nn.MultiheadAttention",
            lambda: OneInput(
                nn.MultiheadAttention(16, 4, batch_first=True),
                lambda attention, embed, out, features: out(
                    attention(*[embed(features.unsqueeze(-1))] * 3, need_weights=False)[0].flatten(1)
                ),
                out(1, 16),
                out(128, 1),
            ),
        ),
        Other(
            "torch.nn.Conv1d with BatchNorm",
            lambda: nn.Sequential(
                nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(40, 1)
            ),
            STEPS,
        ),
        Other(
            "torch.nn.Bilinear",
            lambda: TwoInputs(
                nn.Bilinear(4, 6, 2),
                lambda bilinear, embedding, features, ids: bilinear(features, embedding(ids).flatten(1)),
                nn.Embedding(10, 2),
            ),
            MIXED,
            per_class=True,
        ),
    ]


def of_rtdl() -> list[Other]:
    from rtdl_revisiting_models import MLP, FTTransformer, ResNet

    return [
        Other("rtdl MLP", lambda: MLP(d_in=8, d_out=1, n_blocks=2, d_block=32, dropout=0.1)),
        Other(
            "rtdl ResNet",
            lambda: ResNet(
                d_in=8, d_out=3, n_blocks=2, d_block=32, d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.3, dropout2=0.0
            ),
            classes=3,
        ),
        Other(
            "rtdl FT-Transformer",
            lambda: FTTransformer(
                n_cont_features=4, cat_cardinalities=[10, 10, 10], d_out=3, **FTTransformer.get_default_kwargs(1)
            ),
            MIXED,
            classes=3,
        ),
    ]


def of_deepctr() -> list[Other]:
    # At its import the package asks the network for a newer version of itself.
    quiet = types.ModuleType("deepctr_torch.utils")
    quiet.check_version = lambda *_: None  # type: ignore[attr-defined]
    sys.modules.setdefault("deepctr_torch.utils", quiet)
    from deepctr_torch import models
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    columns = [
        *(SparseFeat(f"c{number}", vocabulary_size=10, embedding_dim=4) for number in range(3)),
        *(DenseFeat(f"f{number}", 1) for number in range(4)),
    ]

    def made(kind: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            model: nn.Module = kind(columns, columns) if kind.__name__ not in ("PNN", "AutoInt") else _one(kind)
            with torch.no_grad():  # it begins with weights so small that all its scores are 0.5
                for weight in model.parameters():
                    weight.mul_(300 if weight.abs().max() < 1e-3 else 30 if weight.abs().max() < 1e-2 else 1)
            return model

        def _one(kind: Any) -> nn.Module:
            return kind(columns) if kind.__name__ == "PNN" else kind(columns, columns)

        return make

    kinds = ("DeepFM", "WDL", "DCN", "xDeepFM", "AutoInt", "PNN", "NFM", "FiBiNET")
    return [
        *(Other(f"deepctr {kind}", made(getattr(models, kind)), ONE_TABLE, "probabilities") for kind in kinds),
        Other("deepctr DeepFM said to give logits", made(models.DeepFM), ONE_TABLE, refused="squashed twice"),
    ]


def of_tabnet() -> list[Other]:
    return [
        Other("TabNet", TabNetScores, per_class=True, refused="cannot be exported .* safetensors with a module"),
        Other("TabNet as safetensors", TabNetScores, per_class=True, factory="batch_assets_tests.others:TabNetScores"),
    ]


def of_transformers() -> list[Other]:
    import transformers as t

    small = {"num_labels": 2, "vocab_size": 100, "pad_token_id": 0}
    usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

    def masked(net: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        there = (tokens > 0) | (torch.arange(tokens.shape[1]) == 0)
        logits: torch.Tensor = net(input_ids=tokens, attention_mask=there.long()).logits
        return logits

    return [
        Other(
            "transformers BERT",
            lambda: OneInput(t.BertForSequenceClassification(t.BertConfig(**small, **usual)), masked),
            TOKENS,
            per_class=True,
        ),
        Other(
            "transformers BERT without an attention mask",
            lambda: OneInput(
                t.BertForSequenceClassification(t.BertConfig(**small, **usual)), lambda net, tokens: net(tokens).logits
            ),
            TOKENS,
            per_class=True,
            refused="padded further",
        ),
        Other(
            "transformers DistilBERT",
            lambda: OneInput(
                t.DistilBertForSequenceClassification(
                    t.DistilBertConfig(**small, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
                ),
                masked,
            ),
            TOKENS,
            per_class=True,
        ),
        Other(
            "transformers ELECTRA",
            lambda: OneInput(t.ElectraForSequenceClassification(t.ElectraConfig(**small, **usual, embedding_size=16)), masked),
            TOKENS,
            per_class=True,
        ),
        Other(
            "transformers ALBERT",
            lambda: OneInput(t.AlbertForSequenceClassification(t.AlbertConfig(**small, **usual, embedding_size=8)), masked),
            TOKENS,
            per_class=True,
        ),
    ]


SOURCES = {
    "torch": of_torch,
    "rtdl_revisiting_models": of_rtdl,
    "deepctr_torch": of_deepctr,
    "pytorch_tabnet": of_tabnet,
    "transformers": of_transformers,
}


def served(other: Other, model: bytes, rows: pa.Table, card: Card) -> np.ndarray:
    """What a night serves for rows."""
    staged = Staging(other.contract, len(rows)).fill(rows)
    assert staged.faults == ()
    run = ForwardPass(card.runtime.load(model, other.name), card.head.width, 1_024, 0.01)
    passed = run(staged, np.ones(len(rows), dtype=bool), "chunk")
    assert passed.raised == {}
    return card.head.score_of(passed.logits)


def by_the_module(other: Other, module: nn.Module, rows: pa.Table) -> np.ndarray:
    """What the module gives for the same rows: in one piece, lists padded to the longest of all."""
    with torch.inference_mode():
        values = module.eval()(*_tensors(other.contract, rows)).reshape(len(rows), -1).double()
    if other.returns == "logits":
        values = torch.sigmoid(values) if values.shape[1] == 1 else torch.softmax(values, dim=1)
    return (values[:, -1] if other.classes == 2 else values.max(dim=1).values).numpy()


def _tensors(contract: FeatureContract, rows: pa.Table) -> tuple[torch.Tensor, ...]:
    """A model's inputs, made without our own code."""
    tensors = []
    for one in contract.inputs:
        columns = [rows[column.name].to_pylist() for column in contract.columns_of(one.name)]
        if isinstance(columns[0][0], list):
            longest = max(map(len, columns[0]))
            matrix = [values + [int(one.pad)] * (longest - len(values)) for values in columns[0]]
        else:
            matrix = [list(row) for row in zip(*columns, strict=True)]
        tensors.append(torch.tensor(matrix, dtype=torch.float32 if one.dtype == "float32" else torch.int64))
    return tuple(tensors)


LONG = ("torch", "pytorch_tabnet", "deepctr_torch", "transformers")
"""Those that take longest."""


@pytest.mark.parametrize("package", [pytest.param(one, marks=pytest.mark.long) if one in LONG else one for one in SOURCES])
def test_each_is_scored_as_it_scores_itself_or_refused(package: str) -> None:
    pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        others = SOURCES[package]()
        wrong = {other.name: said for other in others if (said := _wrong(other))}
    assert wrong == {}


def _wrong(other: Other) -> str:
    """What is wrong about it, if something is."""
    torch.manual_seed(2)
    module = other.make().eval()
    said = {"per_class": True} if other.per_class else {}
    try:
        runtime = safetensors_of(other.factory) if other.factory else PT2
        model = (
            save({name: values.clone() for name, values in module.state_dict().items()})
            if other.factory
            else export_model(module, other.contract)
        )
        card = card_of(model, other.contract, other.returns, other.classes, **said).model_copy(update={"runtime": runtime})
        check_model(model, card, other.name)
    except BatchAssetsError as error:
        return "" if other.refused and re.search(other.refused, str(error)) else str(error)
    if other.refused:
        return f"it is not refused as {other.refused}"
    rows = permitted_rows(other.contract, {}, ROWS)
    ours, theirs = served(other, model, rows, card), by_the_module(other, module, rows)
    off = float(np.abs(ours - theirs).max())
    return f"it is off by {off:.3g}" if not off <= 1e-5 or np.ptp(theirs) < 1e-3 else ""
