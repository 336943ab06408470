"""The nightly batch inference job as Dagster assets: fast, exact, resumable, published all at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_assets.orchestration.component import ScoringPipeline

__all__ = ["ScoringPipeline"]


def __getattr__(name: str) -> Any:
    """Hand out the component lazily: a scoring worker imports this package and must not import Dagster with it."""
    if name == "ScoringPipeline":
        from batch_assets.orchestration.component import ScoringPipeline

        return ScoringPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is handed out lazily is there for whoever looks, as `dg list components` does."""
    return sorted({*globals(), *__all__})
