"""A night of a small pipeline with a model of a kind, in a process that has no torch; prints what came of it as JSON.

It imports nothing of the other tests: they make their models with torch.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.config import PipelineConfig
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import MissingExtra
from batch_assets.models.card import make_card
from batch_assets.models.registry import Registry
from batch_assets.models.runtimes.runtime import RUNTIMES
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.replay import replay
from batch_assets.operations.sweep import sweep
from batch_assets.scoring.heads.classifier import Binary
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage

DAY = "2024-03-10"
NAMES = ("x", "y", "z")
ROWS = 1_500

Values = npt.NDArray[np.float32]
Predict = Callable[[Values], npt.NDArray[Any]]


class Progress:
    """Says nothing."""

    def say(self, message: str) -> None: ...

    def at(self, stage: str, done: int, total: int | None) -> None: ...


def of_lightgbm(features: Values, labels: Values) -> tuple[bytes, Predict]:
    """A booster's text, and what it predicts itself."""
    import lightgbm

    data = lightgbm.Dataset(features, labels, feature_name=list(NAMES))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 30)
    return booster.model_to_string().encode(), booster.predict


def of_onnx(features: Values, labels: Values) -> tuple[bytes, Predict]:
    """A pipeline of scikit-learn as ONNX, and what onnxruntime gives for it: of two classes, the positive one's column."""
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels.astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = to_onnx(pipeline, features[:1], options={"zipmap": False}).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return model, lambda rows: session.run(["probabilities"], {"X": rows})[0][:, 1]


MODELS = {"lightgbm": of_lightgbm, "onnx": of_onnx}


def main(kind: str, folder: Path) -> None:
    """Register, approve, freeze, score, publish, look up."""
    random = np.random.default_rng(1)
    features = random.standard_normal((ROWS, 3)).astype(np.float32)
    labels = (features[:, 0] - features[:, 1] + random.standard_normal(ROWS) > 0).astype(np.float32)
    columns = {name: pa.array(features[:, number]) for number, name in enumerate(NAMES)}
    pq.write_table(pa.table({"user": pa.array(np.arange(ROWS)), **columns}), folder / "rows.parquet")
    (folder / "query.sql").write_text("SELECT user, x, y, z FROM rows WHERE $partition IS NOT NULL")
    config = PipelineConfig.model_validate(
        {
            "name": "night",
            "partitions": {"start": "2024-01-01", "end": "2024-12-31"},
            "features": {
                "source": {
                    "kind": "duckdb",
                    "query": str(folder / "query.sql"),
                    "tables": {"rows": str(folder / "rows.parquet")},
                },
                "contract": {
                    "key": {"name": "user", "dtype": "int64"},
                    "columns": [{"name": name} for name in NAMES],
                },
            },
            "model": {"name": "night"},
            "answers": {"kind": "binary", "labels": ["no", "yes"]},
            "scoring": {"chunk_rows": 512},
        }
    )
    storage, progress = LocalStorage(str(folder / "root")), Progress()
    model, predict = MODELS[kind](features, labels)
    said: dict[str, Any] = {
        "head": Binary(returns="probabilities", labels=("no", "yes")),
        "partition": "2024-01-31",
        "description": "made up",
        "metrics": {},
        "training": {},
    }
    contract, registry = config.features.contract, Registry(storage)
    card = make_card(model, contract, features, runtime=RUNTIMES.adapter(kind)(), **said)
    registry.register("night", "v1", card, model)
    registry.approve("night", "batch", "v1", why="test", by="the test")
    found = registry.resolve(config.model)
    freeze(config, storage, DAY, progress)
    swept = sweep(config, storage, DAY, found, progress, memory_limit=500_000_000).sweep
    scored = score(Night.open(config, storage, DAY, found), LocalEngine(), progress)
    manifest = scored.manifest
    judge(scored.night, manifest)
    publish(scored.night, progress)
    reader = Reader.open("night", storage)
    served = np.array([reader.lookup(key).record["probability"] for key in range(ROWS)], dtype=np.float32)
    reader.close()
    own = np.asarray(predict(features)).astype(np.float32)
    refused = []
    for call in (lambda: make_card(model, contract, features, **said), lambda: torch_model(registry, card, model)):
        try:
            call()
        except MissingExtra as error:
            refused.append(str(error))
    print(
        json.dumps(
            {
                "bit_equal": int((served.view(np.int32) == own.view(np.int32)).sum()),
                "different": float(np.abs(served - own).max()),
                "audited": manifest.audit.bit_equal,
                "versions": manifest.versions,
                "swept": swept.library,
                "replayed": replay(config, storage, registry, "7", DAY).bit_equal,
                "refused": refused,
                "torch": sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "safetensors")),
            }
        )
    )


def torch_model(registry: Registry, card: Any, model: bytes) -> None:
    """Register the file as if it were one of torch's."""
    registry.register("night", "v2", card.model_copy(update={"runtime": RUNTIMES.adapter("torch")()}), model)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
