"""Which version scored a run; a release says it, too, and a look-up reads no more of a run than this."""

from pydantic import BaseModel, ConfigDict


class ModelPin(BaseModel):
    """The one version that scored the run: its files' digest and the sha256 of its program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    digest: str
    sha256: str
