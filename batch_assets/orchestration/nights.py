"""The nights that one Dagster run works on: each is read and checked once for all of its steps, a model is hashed once."""

import dagster as dg

from batch_assets.config import PipelineConfig
from batch_assets.models.registry import ModelSettings, ModelVersion, Registry
from batch_assets.nightly.night import Night
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.storage import Storage


class Nights:
    """What was opened, by pipeline and day; `models` were resolved before the run began."""

    def __init__(self, *models: ModelVersion) -> None:
        self._models = {(model.name, model.alias, model.approval): model for model in models}
        self._nights: dict[tuple[str, str], Night] = {}
        self.matches: dict[tuple[str, str], CheckOutcome] = {}
        """What the check on a release found when it read it back."""

    def model(self, registry: Registry, settings: ModelSettings, approval: int | None) -> ModelVersion:
        """The version that an approval names (by default the newest), which still stands. Raises as `Registry.resolve`."""
        known = self._models.get((settings.name, settings.alias, approval or 0))
        if known is not None:
            known.require_in_force()
            return known
        found = registry.resolve(settings, approval)
        self._models[found.name, found.alias, found.approval] = found
        return found

    def night(self, config: PipelineConfig, storage: Storage, day: str, model: ModelVersion) -> Night:
        """The night of a day. Raises NotFound, SnapshotChanged."""
        known = self._nights.get((config.name, day))
        if known is None or known.model != model:
            known = Night.open(config, storage, day, model)
            self.keep(known)
        return known

    def keep(self, night: Night) -> None:
        """From now on this is the night of its day."""
        self._nights[night.config.name, night.day] = night


@dg.resource(description="What the steps of one run have in common: the night that they work on, opened once.")
def opened_nights(_: dg.InitResourceContext) -> Nights:
    """None yet."""
    return Nights()
