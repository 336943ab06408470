"""A bad night of the demo's pipeline, made from its real data: dollars have become cents."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.config import FeatureSettings
from batch_assets.demo import train as training
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.orchestration.catalog import pipeline
from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet

WEEK = [f"1998-06-{number}" for number in range(23, 30)]
"""As many good days as it takes until the next one is blocked by what it looks like beside them."""


def good_days(root: Path, days: Iterable[str]) -> None:
    """Publish days of the demo's pipeline without Dagster."""
    config, storage = pipeline(training.PIPELINE), LocalStorage(str(root))
    model = Registry(storage).resolve(config.model)
    for day in days:
        freeze(config, storage, day, Quiet())
        score(Night.open(config, storage, day, model), LocalEngine(2), Quiet())
        judge(Night.open(config, storage, day, model))
        publish(Night.open(config, storage, day, model), Quiet())


def freeze_in_cents(root: Path, day: str, folder: Path) -> None:
    """Freeze a day's features from a source whose amounts are in cents; what else it needs goes to the folder."""
    config = pipeline(training.PIPELINE)
    transactions = pq.read_table(config.features.source.tables["transactions"].path)
    cents = pa.array(transactions["amount"].to_numpy() * np.float32(100))
    place = transactions.schema.get_field_index("amount")
    pq.write_table(transactions.set_column(place, "amount", cents), folder / "transactions.parquet")
    table = config.features.source.tables["transactions"].model_copy(update={"path": str(folder / "transactions.parquet")})
    source = DuckdbSource(query=config.features.source.query, tables={"transactions": table})
    features = FeatureSettings(source=source, contract=config.features.contract)
    freeze(config.model_copy(update={"features": features}), LocalStorage(str(root)), day, Quiet())
