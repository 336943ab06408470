"""Secrets in settings: `{env: NAME}`, the name of an environment variable, which is read where the secret is used."""

import os

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import ConfigError


class Secret(BaseModel):
    """A secret, known by the environment variable that holds it: what is shown, dumped and hashed is that name.

    Example:
        In a pipeline's YAML, and where it is used::

            url: {env: SLACK_WEBHOOK}

            address = receiver.url.reveal()
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: str = Field(description="The environment variable that holds the secret.", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    def reveal(self) -> str:
        """The secret itself. Raises ConfigError if the variable is not set, or empty."""
        secret = os.environ.get(self.env)
        if not secret:
            raise ConfigError(f"The environment variable {self.env} is not set; set it where this process is started.")
        return secret
