"""How many rows a forward pass should have: remembered from sweeps, per model, device, precision and version of torch."""

from batch_assets.numbered_log import NumberedLog
from batch_assets.scoring.settings import ScoringSettings
from batch_assets.storage import Storage


def sweep_log(storage: Storage, model_sha256: str, settings: ScoringSettings, torch: str) -> NumberedLog:
    """What sweeps of a model found: entries with `batch_rows` and what was measured."""
    return NumberedLog(storage, f"sweeps/{model_sha256[:16]}-{settings.device}-{settings.precision}-{torch}")


def resolved(storage: Storage, settings: ScoringSettings, model_sha256: str, torch: str) -> ScoringSettings:
    """Settings with a number in place of `auto`: what the latest sweep picked, else the default."""
    if settings.batch_size != "auto":
        return settings
    entry = sweep_log(storage, model_sha256, settings, torch).latest()
    return settings.model_copy(update={"batch_size": int(entry.body["batch_rows"]) if entry else settings.batch_rows})
