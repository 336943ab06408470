"""The nightly batch inference job as Dagster assets: fast, exact, resumable, published all at once.

What a project needs of it, each imported when it is first asked for:

| names | for |
|---|---|
| `ScoringPipeline` | the component: `type: batch_assets.ScoringPipeline` in a `defs.yaml` |
| `pipeline` | a pipeline's settings by its name, as its `defs.yaml` says them |
| `make_card`, `export_model`, `predict_scores` | training: a card, a torch module as a file, scores as a night computes them |
| `Binary`, `Classes`, `Value` | what a model's outputs mean |
| `Reader`, `AsyncReader`, `open_storage` | look-ups from Python, and from an event loop |
| `explain` | where a prediction comes from, from the frozen row to the answer |
| `Source`, `Runtime`, `Head`, `Store` | the ports: what a package of your own can add, see `batch_assets.ports` |
| `BatchAssetsError` | what every error on purpose is; `batch_assets.errors` has them all |

    from batch_assets import Reader, open_storage

    reader = Reader.open("churn", open_storage("data"))
    print(reader.lookup(42).record["probability"])
    reader.close()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_assets.errors import BatchAssetsError as BatchAssetsError
    from batch_assets.models.card import make_card as make_card
    from batch_assets.models.predictor import predict_scores as predict_scores
    from batch_assets.models.runtimes.pytorch.export import export_model as export_model
    from batch_assets.models.runtimes.runtime import Runtime as Runtime
    from batch_assets.operations.explain import explain as explain
    from batch_assets.orchestration.catalog import pipeline as pipeline
    from batch_assets.orchestration.component import ScoringPipeline as ScoringPipeline
    from batch_assets.scoring.heads.classifier import Binary as Binary
    from batch_assets.scoring.heads.classifier import Classes as Classes
    from batch_assets.scoring.heads.head import Head as Head
    from batch_assets.scoring.heads.value import Value as Value
    from batch_assets.serving.async_reader import AsyncReader as AsyncReader
    from batch_assets.serving.reader import Reader as Reader
    from batch_assets.serving.store import Store as Store
    from batch_assets.sources.source import Source as Source
    from batch_assets.storage import open_storage as open_storage

_PLACES = {
    "AsyncReader": "batch_assets.serving.async_reader",
    "BatchAssetsError": "batch_assets.errors",
    "Binary": "batch_assets.scoring.heads.classifier",
    "Classes": "batch_assets.scoring.heads.classifier",
    "Head": "batch_assets.scoring.heads.head",
    "Reader": "batch_assets.serving.reader",
    "Runtime": "batch_assets.models.runtimes.runtime",
    "ScoringPipeline": "batch_assets.orchestration.component",
    "Source": "batch_assets.sources.source",
    "Store": "batch_assets.serving.store",
    "Value": "batch_assets.scoring.heads.value",
    "explain": "batch_assets.operations.explain",
    "export_model": "batch_assets.models.runtimes.pytorch.export",
    "make_card": "batch_assets.models.card",
    "open_storage": "batch_assets.storage",
    "pipeline": "batch_assets.orchestration.catalog",
    "predict_scores": "batch_assets.models.predictor",
}
"""Each public name and where it is imported from when it is needed: a scoring worker must not import Dagster with us."""

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is handed out lazily is there for whoever looks, as `dg list components` does."""
    return sorted({*globals(), *__all__})
