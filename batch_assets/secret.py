"""Secrets: in settings `{env: NAME}`, the name of an environment variable; or a file that such a variable names.

They are read where they are used.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import ConfigError, SecretInvalid

_SHORTEST = 16
"""Bytes of a secret in a file."""


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


def secret_file(env: str, apart_from: str) -> Path:
    """The file that an environment variable names; whoever has the folder `apart_from` must not have it, too.

    Raises:
        SecretInvalid: no file is named, or it lies in that folder.
    """
    named = os.environ.get(env)
    if not named:
        raise SecretInvalid(f"The environment variable {env} names no file; set it where this process is started.")
    path = Path(named).absolute()
    if path.resolve().is_relative_to(Path(apart_from).resolve()):
        raise SecretInvalid(
            f"The secret {path} lies under {apart_from}, beside what it protects: move it out, and set {env} to where it is."
        )
    return path


def read_secret(path: Path) -> bytes:
    """What is in a file, without space around it. Raises SecretInvalid if it is not there, or too short to be a secret."""
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        raise SecretInvalid(f"The secret {path} cannot be read ({error.strerror}): restore it from a copy.") from None
    if len(found) < _SHORTEST:
        raise SecretInvalid(f"The secret {path} has {len(found)} bytes, at least {_SHORTEST} are one: put a longer one there.")
    return found


def make_secret(path: Path) -> bool:
    """Put a new secret into a file that only its owner can read, unless there is one; says whether it did."""
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        return True
    return False
