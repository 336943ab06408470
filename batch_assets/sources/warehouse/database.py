"""Which database: the settings of whoever reads from a warehouse or writes into one."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.secret import Secret
from batch_assets.sources.warehouse.address import has_secret, names_secret
from batch_assets.sources.warehouse.drivers import DRIVERS, DriverName


class Revealed(NamedTuple):
    """An address and options with their secrets in them, and what of all that nobody may read."""

    uri: str
    options: dict[str, str]
    secrets: list[str]


class Database(BaseModel):
    """Where a database is, and who asks it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    driver: DriverName = Field(description="Who asks: the package adbc-driver-<name>, of DuckDB its own.")
    uri: str | Secret = Field(
        "", description="Where the database is, as the driver says it; {env: NAME} if a password is in it."
    )
    options: dict[str, str | Secret] = Field({}, description="Options of the driver, by its names; {env: NAME} for a secret.")

    @model_validator(mode="after")
    def _secrets_are_named(self) -> "Database":
        if not self.uri and DRIVERS[self.driver].needs_uri:
            raise ValueError(f"the driver {self.driver} needs a uri")
        if isinstance(self.uri, str) and not DRIVERS[self.driver].is_file and has_secret(self.uri):
            raise ValueError("there is a password in uri; say {env: NAME}, the environment variable that holds it")
        for name, value in self.options.items():
            if isinstance(value, str) and names_secret(name):
                raise ValueError(f"the option {name} is a secret; say {{env: NAME}}, the environment variable that holds it")
        return self

    def revealed(self) -> Revealed:
        """What the driver is told. Raises ConfigError if an environment variable is not set."""
        uri = self.uri.reveal() if isinstance(self.uri, Secret) else self.uri
        options = {name: value.reveal() if isinstance(value, Secret) else value for name, value in self.options.items()}
        secrets = [uri] if isinstance(self.uri, Secret) else []
        return Revealed(
            uri, options, secrets + [options[name] for name, one in self.options.items() if isinstance(one, Secret)]
        )
