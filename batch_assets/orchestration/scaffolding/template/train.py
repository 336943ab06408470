"""Trains a first model of your_pipeline, and writes it with its card beside this file: model.bin and card.json.

It learns from three days, and is measured on a fourth, of which it knows nothing: what happened in the fourteen days after
each of them is known by now. Features come from the pipeline's own source, so they are what a night computes.

    python defs/your_pipeline/train.py
"""

import tempfile
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from batch_assets import Binary, Runtime, export_model, make_card, pipeline, predict_scores

Floats = npt.NDArray[np.float32]

HERE = Path(__file__).resolve().parent
CONFIG = pipeline("your_pipeline")
LABELS = ("stays", "leaves")
HORIZON = timedelta(days=14)
TEST_DAY = date.fromisoformat("2000-02-04") - HORIZON
TRAINING_DAYS = [TEST_DAY - HORIZON - timedelta(days=7 * weeks) for weeks in range(3)]
SEED = 1


def labelled(day: date) -> tuple[Floats, Floats]:
    """What was known at the end of a day, shape (rows, columns), and who made no visit in the fourteen days after it."""
    contract, source = CONFIG.features.contract, CONFIG.features.source
    with (
        tempfile.TemporaryDirectory() as spill,
        source.read(day.isoformat(), contract.identity, Path(spill), CONFIG.partitions.timezone) as read,
    ):
        rows = read.rows.read_all()
    later = duckdb.execute(
        "SELECT DISTINCT user_id FROM read_parquet($path) WHERE day > $day AND day <= $until",
        {"path": str(HERE / "visits.parquet"), "day": day, "until": day + HORIZON},
    ).fetchnumpy()["user_id"]
    features = np.stack([rows[name].to_numpy() for name in contract.names], axis=1)
    return features, (~np.isin(rows["user_id"].to_numpy(), later)).astype(np.float32)


def with_torch(features: Floats, left: Floats) -> tuple[bytes, Binary, Runtime]:
    """A network with one hidden layer, exported; it gives logits."""
    import torch

    from batch_assets.models.runtimes.torch_runtime import TorchRuntime

    class Net(torch.nn.Module):
        mean: torch.Tensor
        deviation: torch.Tensor

        def __init__(self, inputs: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", inputs.mean(dim=0))
            self.register_buffer("deviation", inputs.std(dim=0))
            self.hidden, self.output = torch.nn.Linear(inputs.shape[1], 16), torch.nn.Linear(16, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logit: torch.Tensor = self.output(torch.relu(self.hidden((inputs - self.mean) / self.deviation)))
            return logit

    torch.manual_seed(SEED)
    inputs, targets = torch.from_numpy(features), torch.from_numpy(left)
    net = Net(inputs)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(10):
        for rows in torch.split(torch.randperm(len(targets)), 256):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(inputs[rows])[:, 0], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return export_model(net, features.shape[1]), Binary(returns="logits", labels=LABELS), TorchRuntime()


def with_lightgbm(features: Floats, left: Floats) -> tuple[bytes, Binary, Runtime]:
    """Trees, as LightGBM writes them; they give probabilities."""
    import lightgbm

    from batch_assets.models.runtimes.lightgbm_runtime import LightgbmRuntime

    names = list(CONFIG.features.contract.names)
    settings = {"objective": "binary", "num_leaves": 15, "learning_rate": 0.05, "seed": SEED, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(features, left, feature_name=names), num_boost_round=60)
    return booster.model_to_string().encode(), Binary(returns="probabilities", labels=LABELS), LightgbmRuntime()


def auc(probabilities: Floats, left: Floats) -> float:
    """How often somebody who left was given more than somebody who stayed; Mann and Whitney's U, ties aside."""
    ranks = np.argsort(np.argsort(probabilities)) + 1
    positives = left.sum()
    found = (ranks[left == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(left) - positives))
    return round(float(found), 4)


def main() -> None:
    """Train, measure, write."""
    if find_spec("torch"):
        train = with_torch
    elif find_spec("lightgbm"):
        train = with_lightgbm
    else:
        raise SystemExit("Neither torch nor LightGBM is installed: pip install 'batch-assets[torch]', or [lightgbm].")
    days = [labelled(day) for day in TRAINING_DAYS]
    features, left = (np.concatenate(parts) for parts in zip(*days, strict=True))
    model, head, runtime = train(features, left)
    seen, happened = labelled(TEST_DAY)
    found = auc(predict_scores(model, seen, head, runtime=runtime), happened)
    card = make_card(
        model,
        CONFIG.features.contract,
        seen,
        head=head,
        partition=TEST_DAY.isoformat(),
        description=CONFIG.description,
        metrics={TEST_DAY.isoformat(): {"auc": found, "base_rate": round(float(happened.mean()), 4)}},
        training={"partitions": [day.isoformat() for day in TRAINING_DAYS], "rows": len(left), "seed": SEED},
        runtime=runtime,
    )
    (HERE / "model.bin").write_bytes(model)
    (HERE / "card.json").write_text(card.model_dump_json())
    print(f"{runtime.kind}: {len(left):,} rows of {len(days)} days; AUC on {TEST_DAY}: {found}")


if __name__ == "__main__":
    main()
