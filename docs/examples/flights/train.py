"""Trains a small network on flights/: which planes leave more than a quarter of an hour late tomorrow?

    python train.py [--first 2013-03-02] [--test 2013-04-06]

It learns from every day from `first` to a week before `test`, is measured on `test`, and writes model.pt2 and card.json.
"""

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import torch

from batch_assets.models.card import make_card
from batch_assets.models.predictor import predict_scores
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.orchestration.catalog import pipeline
from batch_assets.scoring.heads.classifier import Binary

Floats = npt.NDArray[np.float32]

CONFIG = pipeline("late_planes")
HEAD = Binary(returns="logits", labels=("in time", "late"), threshold=0.25)
NAMES = CONFIG.features.contract.names
LATE = "SELECT DISTINCT tailnum FROM flights WHERE day = $day AND dep_delay > 15"


class LatePlanes(torch.nn.Module):
    """Standardized features, one hidden layer, one logit."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("deviation", features.std(dim=0))
        self.hidden, self.output = torch.nn.Linear(features.shape[1], 16), torch.nn.Linear(16, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shape (rows, columns) to (rows, 1)."""
        logit: torch.Tensor = self.output(torch.relu(self.hidden((features - self.mean) / self.deviation)))
        return logit


def labelled(day: date) -> tuple[Floats, Floats]:
    """Features of shape (rows, columns) at the end of a day, by the pipeline's own source, and who was late the day after."""
    with (
        tempfile.TemporaryDirectory() as spill,
        CONFIG.features.source.read(day.isoformat(), ["tailnum"], Path(spill), CONFIG.partitions.timezone) as read,
    ):
        rows = read.rows.read_all()
    late = duckdb.execute(LATE, {"day": day + timedelta(days=1)}).fetchnumpy()["tailnum"]
    features = np.stack([rows[name].to_numpy() for name in NAMES], axis=1)
    return features, np.isin(rows["tailnum"].to_numpy(), late).astype(np.float32)


def fitted(features: Floats, late: Floats) -> torch.nn.Module:
    """A model by Adam on the log loss."""
    torch.manual_seed(2013)
    inputs, labels = torch.from_numpy(features), torch.from_numpy(late)
    model = LatePlanes(inputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        for rows in torch.split(torch.randperm(len(labels)), 1_024):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[rows])[:, 0], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def auc(probabilities: Floats, late: Floats) -> float:
    """How often a plane that was late was given more than one that was not; Mann and Whitney's U, ties aside."""
    ranks = np.argsort(np.argsort(probabilities)) + 1
    positives = late.sum()
    found = (ranks[late == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(late) - positives))
    return round(float(found), 4)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=date.fromisoformat, default=date(2013, 3, 2))
    parser.add_argument("--test", type=date.fromisoformat, default=date(2013, 4, 6))
    options = parser.parse_args()
    duckdb.sql("CREATE VIEW flights AS FROM 'flights/*.parquet'")
    days = [options.first + timedelta(days=n) for n in range((options.test - options.first).days - 7)]
    features, late = (np.concatenate(parts) for parts in zip(*map(labelled, days), strict=True))
    model = export_model(fitted(features, late), features.shape[1])
    seen, happened = labelled(options.test)
    found = auc(predict_scores(model, seen, HEAD), happened)
    card = make_card(
        model,
        CONFIG.features.contract,
        seen,
        head=HEAD,
        partition=options.test.isoformat(),
        description=CONFIG.description,
        metrics={options.test.isoformat(): {"auc": found, "base_rate": round(float(happened.mean()), 4)}},
        training={"first": days[0].isoformat(), "last": days[-1].isoformat(), "rows": len(late)},
    )
    Path("model.pt2").write_bytes(model)
    Path("card.json").write_text(card.model_dump_json())
    print(f"{len(late):,} rows of {len(days)} days; AUC on {options.test}: {found}")


if __name__ == "__main__":
    main()
