"""Trains a small network on CDNOW's purchases: what will each customer spend in the next 28 days?

    python train.py [--test 1998-05-31]

It learns from eight days, each 28 days before the next and the last one 28 days before `test`, is measured on `test`, and
writes model.pt2 and card.json.
"""

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import torch

from batch_assets import Value, export_model, make_card, pipeline, predict_scores

Floats = npt.NDArray[np.float32]

CONFIG = pipeline("spend")
CONTRACT = CONFIG.features.contract
HORIZON = timedelta(days=28)
SPENT = """
    SELECT customer_id, sum(amount::DECIMAL(18, 2))::FLOAT AS spent
    FROM read_parquet($files) WHERE date > $day AND date <= $until GROUP BY customer_id
"""


class Spend(torch.nn.Module):
    """Standardized logarithms, one hidden layer, the logarithm of a mean; it gives that mean, in dollars."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        logarithms = torch.log1p(features)
        self.register_buffer("mean", logarithms.mean(dim=0))
        self.register_buffer("deviation", logarithms.std(dim=0))
        self.hidden, self.output = torch.nn.Linear(features.shape[1], 32), torch.nn.Linear(32, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shape (rows, columns) to (rows, 1)."""
        standardized = (torch.log1p(features) - self.mean) / self.deviation
        dollars: torch.Tensor = torch.exp(self.output(torch.relu(self.hidden(standardized))))
        return dollars


def labelled(day: date) -> tuple[Floats, Floats]:
    """Features of shape (rows, columns) at the end of a day, by the pipeline's own source, and what was spent after it."""
    with (
        tempfile.TemporaryDirectory() as spill,
        CONFIG.features.source.read(day.isoformat(), CONTRACT.identity, Path(spill), CONFIG.partitions.timezone) as read,
    ):
        rows = read.rows.read_all()
    files = [file.path for table in read.provenance.tables for file in table.files]
    later = duckdb.execute(SPENT, {"files": files, "day": day, "until": day + HORIZON}).fetchnumpy()
    spent = dict(zip(later["customer_id"].tolist(), later["spent"].tolist(), strict=True))
    features = np.stack([rows[name].to_numpy() for name in CONTRACT.names], axis=1)
    return features, np.array([spent.get(one, 0.0) for one in rows["customer_id"].to_pylist()], dtype=np.float32)


def fitted(features: Floats, spent: Floats) -> torch.nn.Module:
    """A model by Adam on the deviance of Poisson, whose best answer is the mean, however many spend nothing."""
    torch.manual_seed(1998)
    inputs, dollars = torch.from_numpy(features), torch.from_numpy(spent)
    model = Spend(inputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(8):
        for rows in torch.split(torch.randperm(len(dollars)), 2_048):
            loss = torch.nn.functional.poisson_nll_loss(model(inputs[rows])[:, 0], dollars[rows], log_input=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def metrics(predicted: Floats, spent: Floats) -> dict[str, float]:
    """Both means, and which share of all that was spent came from the tenth of the customers with the highest scores."""
    top = np.argsort(-predicted, kind="stable")[: len(predicted) // 10]
    return {
        "mean": round(float(spent.mean()), 4),
        "mean_predicted": round(float(predicted.mean()), 4),
        "top_decile_share": round(float(spent[top].sum() / spent.sum()), 4),
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", type=date.fromisoformat, default=date(1998, 5, 31))
    options = parser.parse_args()
    days = [options.test - HORIZON * month for month in range(1, 9)]
    features, spent = (np.concatenate(parts) for parts in zip(*map(labelled, days), strict=True))
    model = export_model(fitted(features, spent), features.shape[1])
    seen, happened = labelled(options.test)
    found = metrics(predict_scores(model, seen, Value()), happened)
    card = make_card(
        model,
        CONTRACT,
        seen,
        head=Value(),
        partition=options.test.isoformat(),
        description=CONFIG.description,
        metrics={options.test.isoformat(): found},
        training={"partitions": [day.isoformat() for day in days], "rows": len(spent)},
    )
    Path("model.pt2").write_bytes(model)
    Path("card.json").write_text(card.model_dump_json())
    print(f"{len(spent):,} rows of {len(days)} days; on {options.test}: {found}")


if __name__ == "__main__":
    main()
