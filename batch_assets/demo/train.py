"""Trains the demo's model: who of CDNOW's customers buys again within 28 days?

Honest by construction: the label windows of all training days end before the first test day begins, every metric in the
card is measured on test days, and the decision threshold is chosen on training days. Features come from the same SQL as
every night's. The seed is fixed and one thread computes, so that the same data gives the same model.
"""

import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from batch_assets.config import PipelineConfig
from batch_assets.models.card import make_card
from batch_assets.models.predictor import predict_scores
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.nightly.progress import Progress
from batch_assets.scoring.heads.classifier import Binary

if TYPE_CHECKING:
    import torch

PIPELINE = "customer_propensity"
PARTITION = "1998-06-30"
VERSION = "v1"

HORIZON_DAYS = 28
TRAINING_DAYS = tuple(
    date(year, month, 1) - timedelta(days=1)
    for year, month in ((1997, 10), (1997, 11), (1997, 12), (1998, 1), (1998, 2), (1998, 3), (1998, 4), (1998, 5))
)
TEST_DAYS = (date(1998, 5, 31), date(1998, 6, 1), date(1998, 6, 2))
HEAD = Binary(returns="logits", labels=("unlikely", "likely"))
SEED = 1997
EPOCHS = 12
BATCH = 2_048

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Features of shape (rows, columns) and whether each row's customer bought within the horizon, of shape (rows,)."""

    features: Floats
    bought: Floats


def train(
    config: PipelineConfig, registry: Registry, progress: Progress, version: str = VERSION, seed: int = SEED
) -> ModelVersion:
    """Train, measure, export and register a version."""
    days = {day: _labelled(config, day) for day in (*TRAINING_DAYS, *TEST_DAYS)}
    training = Labelled(
        np.concatenate([days[day].features for day in TRAINING_DAYS]),
        np.concatenate([days[day].bought for day in TRAINING_DAYS]),
    )
    model = export_model(_fit(training, seed, progress), takes=training.features.shape[1])
    probabilities = {day: predict_scores(model, data.features, HEAD) for day, data in days.items()}
    card = make_card(
        model,
        config.features.contract,
        days[TEST_DAYS[0]].features,
        head=Binary(
            returns="logits",
            labels=HEAD.labels,
            threshold=_best_f1_threshold(np.concatenate([probabilities[day] for day in TRAINING_DAYS]), training.bought),
        ),
        partition=TEST_DAYS[0].isoformat(),
        description="Probability that a customer buys again within 28 days; a small network on recency, frequency and amount.",
        metrics={day.isoformat(): _metrics(probabilities[day], days[day].bought) for day in TEST_DAYS},
        training={
            "partitions": [day.isoformat() for day in TRAINING_DAYS],
            "label": f"at least one purchase within {HORIZON_DAYS} days after the partition",
            "rows": len(training.bought),
            "seed": seed,
        },
    )
    return registry.register(config.model.name, version, card, model)


def _labelled(config: PipelineConfig, day: date) -> Labelled:
    """A day's features by the pipeline's own source, and what happened in the days after it, by the files that it read."""
    import duckdb

    contract, source = config.features.contract, config.features.source
    with (
        tempfile.TemporaryDirectory() as spill,
        source.read(day.isoformat(), contract.identity, Path(spill), config.partitions.timezone) as read,
    ):
        table = read.rows.read_all()
    contract.require(table.schema, f"The training data of {day}")
    files = [file.path for one in read.provenance.tables for file in one.files]
    with duckdb.connect() as connection:
        later = connection.execute(
            "SELECT DISTINCT customer_id FROM read_parquet($files) WHERE date > $day AND date <= $end",
            {"files": files, "day": day, "end": day + timedelta(days=HORIZON_DAYS)},
        ).fetchnumpy()["customer_id"]
    features = np.stack([table.column(name).to_numpy() for name in contract.names], axis=1)
    return Labelled(features, np.isin(table.column(contract.identity[0]).to_numpy(), later).astype(np.float32))


def _fit(data: Labelled, seed: int, progress: Progress) -> "torch.nn.Module":
    """A network with one hidden layer on standardized logarithms, by Adam on the log loss, on one thread."""
    import torch

    class Propensity(torch.nn.Module):
        mean: torch.Tensor
        deviation: torch.Tensor

        def __init__(self, mean: "torch.Tensor", deviation: "torch.Tensor") -> None:
            super().__init__()
            self.register_buffer("mean", mean)
            self.register_buffer("deviation", deviation)
            self.hidden = torch.nn.Linear(len(mean), 32)
            self.output = torch.nn.Linear(32, 1)

        def forward(self, features: "torch.Tensor") -> "torch.Tensor":
            standardized = (torch.log1p(features) - self.mean) / self.deviation
            return self.output(torch.relu(self.hidden(standardized)))  # type: ignore[no-any-return]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features, bought = torch.from_numpy(data.features), torch.from_numpy(data.bought)
        logarithms = torch.log1p(features)
        model = Propensity(logarithms.mean(dim=0), logarithms.std(dim=0))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for epoch in range(EPOCHS):
            for rows in torch.split(torch.randperm(len(bought)), BATCH):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features[rows])[:, 0], bought[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            progress.at("training", epoch + 1, EPOCHS)
    torch.set_num_threads(threads)
    return model


def _best_f1_threshold(probabilities: Floats, bought: Floats) -> float:
    """The probability from which on saying `likely` gives the best F1 on training days."""
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(bought[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + bought.sum())
    return round(float(probabilities[order][int(f1.argmax())]), 6)


def _metrics(probabilities: Floats, bought: Floats) -> dict[str, float]:
    """AUC by ranks (ties count half), Brier score, and calibration over ten equal groups by score."""
    import pandas as pd

    frame = pd.DataFrame({"p": probabilities.astype(np.float64), "bought": bought.astype(np.float64)})
    positives = frame["bought"].sum()
    negatives = len(frame) - positives
    ranks = frame["p"].rank()[frame["bought"] == 1].sum()
    groups = frame.groupby(pd.qcut(frame["p"].rank(method="first"), 10, labels=False)).mean()
    return {
        "rows": float(len(frame)),
        "base_rate": round(frame["bought"].mean(), 6),
        "mean_probability": round(frame["p"].mean(), 6),
        "auc": round((ranks - positives * (positives + 1) / 2) / (positives * negatives), 6),
        "brier": round(((frame["p"] - frame["bought"]) ** 2).mean(), 6),
        "calibration_error": round((groups["p"] - groups["bought"]).abs().mean(), 6),
    }
