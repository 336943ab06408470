"""What stands in the place of a pipeline that cannot be used: it is seen, it is red, and no other pipeline is touched."""

import os
from dataclasses import dataclass
from typing import NoReturn, get_args

import dagster as dg
from typing_extensions import override

from batch_assets.errors import ConfigError
from batch_assets.quality.outcome import Asset

_VALIDATING = "DAGSTER_IS_DEFS_VALIDATION_CLI"
"""Set by `dg check defs`, for code that is to know that its definitions are only looked at."""


@dataclass(frozen=True)
class Refused:
    """A pipeline that cannot be used, by the name that it is known by, and why."""

    name: str
    why: str

    @override
    def __str__(self) -> str:
        return " ".join(f"The pipeline {self.name} cannot be used: {self.why}".split())

    def refuse(self) -> NoReturn:
        """Raise the sentence, as a ConfigError."""
        raise ConfigError(str(self))


def stand_in(refused: Refused, name: str) -> dg.Definitions:
    """The pipeline's assets, its job and a sensor, under a name that no other pipeline has; all fail with the sentence.

    Raises:
        ConfigError: the sentence, where definitions are checked and not served.
    """
    if os.environ.get(_VALIDATING):
        refused.refuse()
    keys = [dg.AssetKey([name, asset]) for asset in get_args(Asset)]  # somebody else's job may name each of them

    def made(number: int, key: dg.AssetKey) -> dg.AssetsDefinition:
        @dg.asset(key=key, deps=keys[:number][-1:], group_name=name, description=str(refused))
        def asset() -> None:
            refused.refuse()

        return asset

    @dg.sensor(
        name=f"{name}_cannot_be_used",
        description=str(refused),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor() -> None:
        refused.refuse()

    job = dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=str(refused))
    return dg.Definitions(assets=[made(*one) for one in enumerate(keys)], jobs=[job], sensors=[sensor])
