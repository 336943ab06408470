"""What `gpu.py` scores: small made-up models and rows, each as a task of the scorer, in a storage root of its own.

It imports torch, numpy, pyarrow and the scorer's own rooms alone: it runs where Dagster and Ray are not installed.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from batch_assets.features.contract import FeatureContract
from batch_assets.features.snapshot import write_snapshot
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.heads.value import Value
from batch_assets.scoring.scorer import Load, ScoringTask
from batch_assets.scoring.settings import Device, Precision, ScoringSettings
from batch_assets.storage import LocalStorage

COLUMNS, TOKENS, LONGEST, TABLES, IDS, WIDTH = 64, 1_000, 64, 8, 1_000, 16_384
Columns = dict[str, pa.Array]


class Transformer(torch.nn.Module):
    """Two layers of attention over token ids, of which 0 is padding; the mean of the last one gives a number."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = torch.nn.Embedding(TOKENS, width)
        self.asks = torch.nn.ModuleList(torch.nn.Linear(width, 3 * width) for _ in range(2))
        self.says = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))
        self.out = torch.nn.Linear(width, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, length) int64 to (rows, 1)."""
        there = tokens != 0
        x = self.tokens(tokens)
        for ask, say in zip(self.asks, self.says, strict=True):
            parts = [one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in ask(x).chunk(3, dim=-1)]
            seen = functional.scaled_dot_product_attention(*parts, attn_mask=there[:, None, None, :])
            x = x + say(seen.transpose(1, 2).flatten(-2))
        weights = there.unsqueeze(-1).to(x.dtype)
        return self.out((x * weights).sum(dim=1) / weights.sum(dim=1))


class Embeddings(torch.nn.Module):
    """Ids in tables of their own, looked up and put through two layers; an id that no table has fails in the look-up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(TABLES * IDS, 16)
        self.register_buffer("first", torch.arange(TABLES) * IDS)
        self.layers = mlp(TABLES * 16, 128, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows, TABLES) int64 to (rows, 1)."""
        return self.layers(self.table(ids + self.first).flatten(1))


class Stumbles(torch.nn.Module):
    """Raises, on the machine and not on the device, if the first feature of a row is not above 0."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, 4) to (rows, 1)."""
        root = torch.linalg.cholesky(features[:, :1].unsqueeze(-1)).squeeze(-1)
        return root + features.sum(dim=1, keepdim=True)


def mlp(*widths: int) -> torch.nn.Module:
    """Linear layers with ReLUs between them."""
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _numbers(count: int) -> Callable[[np.random.Generator, int], Columns]:
    def rows(random: np.random.Generator, rows: int) -> Columns:
        return {f"x{n:02d}": pa.array(random.uniform(0.1, 2, rows).astype(np.float32)) for n in range(count)}

    return rows


def _ids(random: np.random.Generator, rows: int) -> Columns:
    return {f"id{n}": pa.array(random.integers(0, IDS, rows)) for n in range(TABLES)}


def _tokens(random: np.random.Generator, rows: int) -> Columns:
    lengths = random.integers(1, LONGEST + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {"tokens": pa.ListArray.from_arrays(offsets, pa.array(random.integers(1, TOKENS, offsets[-1])))}


@dataclass(frozen=True)
class Subject:
    """A model and rows that it takes; `inputs` is what a contract says of inputs that are not float32."""

    name: str
    network: Callable[[], torch.nn.Module]
    rows: Callable[[np.random.Generator, int], Columns]
    inputs: Mapping[str, Any] | None = None

    def contract(self) -> FeatureContract:
        """What a pipeline would say of these columns."""
        kind = {"dtype": "int64"} if self.inputs else {}
        length = {"length": "variable"} if self.inputs and "max_length" in self.inputs else {}
        columns = [{"name": name, **kind, **length} for name in self.rows(np.random.default_rng(0), 1)]
        more = {"inputs": [{"name": "features", **self.inputs}]} if self.inputs else {}
        return FeatureContract.model_validate({"key": {"name": "id", "dtype": "int64"}, "columns": columns, **more})


MLP = Subject("mlp", lambda: mlp(COLUMNS, 256, 256, 1), _numbers(COLUMNS))
TRANSFORMER = Subject("transformer", Transformer, _tokens, {"dtype": "int64", "max_length": LONGEST})
EMBEDDINGS = Subject("embeddings", Embeddings, _ids, {"dtype": "int64"})
WIDE = Subject("wide", lambda: mlp(4, WIDTH, 1), _numbers(4))
STUMBLES = Subject("stumbles", Stumbles, _numbers(4))
SUBJECTS = (MLP, TRANSFORMER, EMBEDDINGS)


def task(
    root: Path, subject: Subject, rows: int, settings: ScoringSettings, spoilt: Mapping[int, Any] | None = None
) -> ScoringTask:
    """A task over new rows, the same for every call; `spoilt` are other values of the first column, by their places."""
    root.mkdir(parents=True)
    storage, folder = LocalStorage(str(root)), root / "snapshot"
    folder.mkdir()
    torch.manual_seed(0)
    model = export_model(subject.network(), COLUMNS if subject is MLP else subject.contract())
    storage.create("model.pt2", model)
    sha256 = hashlib.sha256(model).hexdigest()
    columns = subject.rows(np.random.default_rng(1), rows)
    for place, value in (spoilt or {}).items():
        name, values = next(iter(columns.items()))
        changed = values.to_numpy().copy()
        changed[place] = value
        columns[name] = pa.array(changed)
    table = pa.table({"id": np.arange(rows), **columns})
    snapshot = write_snapshot(folder, table.to_reader(1 << 16), ["id"], 1 << 14)
    return ScoringTask(
        storage=storage,
        snapshot=snapshot,
        snapshot_folder="snapshot",
        contract=subject.contract(),
        head=Value(),
        histogram_edges=(-1.0, 0.0, 1.0),
        settings=settings,
        run_id="run",
        run_folder="run",
        day="2024-03-10",
        model_version="v1",
        model_sha256=sha256,
        library=PT2.versioned(),
        load=PredictorLoader(storage, "model.pt2", sha256, PT2),
    )


@dataclass(frozen=True)
class PretendsToLose:
    """On a CPU: loads a model whose device counts as lost as soon as it raised, as a GPU is after an assertion in a kernel."""

    load: Load

    def __call__(self, device: Device = "cpu", precision: Precision = "float32") -> "LosingPredictor":
        """The model."""
        loaded = cast(TorchPredictor, self.load(device, precision))
        return LosingPredictor(loaded.program, device, precision)


class LosingPredictor(TorchPredictor):
    """Asked only after an error, it says that the device is lost."""

    def lost(self) -> bool:
        """Always."""
        return True
