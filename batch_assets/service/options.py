"""What a service is started with, in values that go to its worker processes as JSON."""

import hmac
import ipaddress
import os
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError

OPTIONS = "BATCH_ASSETS_SERVICE"
"""The environment variable in which a worker process finds them."""

TOKEN = "BATCH_ASSETS_TOKEN"  # noqa: S105 - the variable's name
"""The environment variable with the token that requests must bear; it is nowhere else."""

SEVERAL = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the folder in which several workers add up what they count; prometheus_client reads it."""

_SHORTEST_TOKEN = 16
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to be told from others


class Limits(BaseModel):
    """What one request, and all of them, may take of a worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(1 << 20, description="The longest body.")
    url_bytes: int = Field(4_096, description="The longest path and query.")
    body_seconds: float = Field(10, description="How long a body may take to arrive.")
    keys: int = Field(10_000, description="The most keys of one batchGet.")
    connections: int = Field(1_024, description="Requests at the same time; who comes then waits.")
    per_second: float | None = Field(
        None, gt=0, description="Requests a second of one worker; who comes then is told to come later."
    )


class ServiceOptions(BaseModel):
    """Which pipelines are served, from which roots, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: str
    models: str
    pipelines: tuple[PipelineConfig, ...] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(8400, ge=1, le=65_535)
    workers: int = Field(1, ge=1)
    names: tuple[str, ...] = Field((), description="Names by which clients may call the service, beside its address.")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if self.host in _ANYWHERE and not self.names:
            raise ValueError(f"{self.host} is every address of this machine: say with --name by which names clients call it")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """What the Host header of a request may be, without its port."""
        own = {"localhost", "127.0.0.1", "::1"} if self.is_loopback else set[str]()
        return frozenset({self.host.lower(), *own, *map(str.lower, self.names)})

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Token:
    """The token that requests must bear, or none. It is compared in constant time and never shown."""

    def __init__(self, options: ServiceOptions) -> None:
        """Read it. Raises ConfigError: there is none though others can reach the service, or it is short."""
        self._token = os.environ.get(TOKEN, "").encode()
        if not self._token and not options.is_loopback:
            raise ConfigError(f"{options.host} can be reached by others, so {TOKEN} must hold a token that requests bear.")
        if self._token and len(self._token) < _SHORTEST_TOKEN:
            raise ConfigError(f"{TOKEN} has {len(self._token)} bytes; a token has {_SHORTEST_TOKEN} at least.")

    @property
    def needed(self) -> bool:
        """Whether requests must bear it."""
        return bool(self._token)

    def fits(self, given: bytes) -> bool:
        """Whether somebody has it."""
        return hmac.compare_digest(given, self._token)
