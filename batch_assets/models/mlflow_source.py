"""Mirrors an alias of an MLflow model registry into ours: MLflow is where a team approves, our log is what a night goes by.

This is the only file that knows MLflow. Its credentials come from the environment (MLFLOW_TRACKING_TOKEN, …).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from batch_assets.errors import MlflowUnreachable, ModelChanged, ModelError, NoSuchModel
from batch_assets.logs import Change, LogEntry
from batch_assets.models.approvals import Approved
from batch_assets.models.card import Card, read_card

if TYPE_CHECKING:
    from batch_assets.models.registry import Registry

_CARD = "card.json"


class MlflowSettings(BaseModel):
    """The MLflow registry in which a pipeline's model is approved; its alias has the same name as ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: str = Field(
        description="The MLflow server, as https://…, without a password: that is MLFLOW_TRACKING_PASSWORD's.", min_length=1
    )
    registered_model: str = Field(description="The model's name in MLflow.", min_length=1)

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_secret(cls, uri: str) -> str:
        if "@" in uri.partition("://")[2].partition("/")[0]:
            raise ValueError("put the name and password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return uri


@dataclass(frozen=True)
class MlflowSource:
    """An alias of a registered model in MLflow.

    The artifacts of each of its versions are its `card.json` and a model file that is called as the card's runtime calls it
    (`model.pt2`, `model.onnx`, …), directly in the version's source.
    """

    tracking_uri: str
    registered_model: str
    alias: str

    def sync(self, registry: "Registry", name: str, alias: str, *, verify: bool = False) -> None:
        """Let our alias name the version that MLflow's alias names; MLflow's version 3 is our `v3`.

        A version that we do not have yet is downloaded, vetted and registered. If our alias names another version, this one
        is approved: `by` is its tag `approved_by` or "mlflow", `why` its tag `why`, its description or "alias moved in
        MLflow". So an approval that was given on our side is overruled, and an alias that goes back in MLflow is a roll-back.

        Args:
            registry: ours.
            name: the model's name in ours.
            alias: the alias in ours.
            verify: download a version that we have, too, and compare it byte for byte. A run does so when it resolves its
                model; what only looks whether the alias moved needs not.

        Raises:
            NoSuchModel: MLflow has no such model or alias, or the version lacks a file.
            ModelChanged: MLflow's files are not those that were first seen; names both sha256.
            MlflowUnreachable: MLflow cannot be asked.
            ModelMisfit, UnsafeModel: see `Registry.register`.
            Retired: the version was retired on our side.
        """

        def decide(latest: LogEntry[Approved] | None) -> LogEntry[Approved] | Change[Approved]:
            """Ask MLflow; anew after each approval that is given meanwhile, perhaps of one that MLflow named later."""
            with self._explained(f"{self.registered_model} with the alias {self.alias}") as client:
                found = client.get_model_version_by_alias(self.registered_model, self.alias)
            version = f"v{found.version}"
            if verify or version not in registry.versions(name):
                self._mirror(registry, name, version, found)
            if latest is not None and latest.body.version == version:
                return latest
            why, by = found.tags.get("why") or found.description or "alias moved in MLflow", found.tags.get("approved_by")
            return registry.change_to(name, alias, version, why=why, by=by or "mlflow")

        registry.approvals(name, alias).log.update(decide)

    def _mirror(self, registry: "Registry", name: str, version: str, found: Any) -> None:
        """Register MLflow's files, or compare them with those that are registered."""
        with registry.storage.scratch() as scratch:
            card = read_card(self._download(found, _CARD, scratch), f"{_CARD} of {self._named(found)}")
            model = self._download(found, card.model_file, scratch)
        known = registry.card(name, version) if version in registry.versions(name) else card
        self._require_same(found, card.model_file, _sha256(model), known.model_sha256)
        self._require_same(found, _CARD, _sha256_of(card), _sha256_of(known))
        registry.register(name, version, card, model)

    def _require_same(self, found: Any, file: str, now: str, before: str) -> None:
        if now != before:
            raise ModelChanged(
                f"{file} of {self._named(found)} has sha256 {now}, its card or the copy that was first seen says {before}: the "
                "artifact was changed behind MLflow's back; log it as a new version."
            )

    def _download(self, found: Any, file: str, folder: Path) -> bytes:
        with self._explained(f"{file} of {self._named(found)}") as client:
            from mlflow.artifacts import download_artifacts

            source = client.get_model_version_download_uri(self.registered_model, found.version)
            path = download_artifacts(
                artifact_uri=f"{source.rstrip('/')}/{file}", dst_path=str(folder), tracking_uri=self.tracking_uri
            )
            return Path(path).read_bytes()

    def _named(self, found: Any) -> str:
        return f"{self.registered_model} version {found.version} in MLflow at {self.tracking_uri}"

    @contextmanager
    def _explained(self, what: str) -> Iterator[Any]:
        """The client, whose errors become one sentence; `what` is asked for."""
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise ModelError(f"{what} is in MLflow, which needs a client: pip install 'batch-assets[mlflow]'.") from None
        try:
            yield MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        except MlflowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NoSuchModel(f"MLflow at {self.tracking_uri} does not have {what}: {reason}.") from error
            raise MlflowUnreachable(f"MLflow at {self.tracking_uri} cannot be asked for {what}: {reason}.") from error
        except OSError as error:
            raise NoSuchModel(f"MLflow at {self.tracking_uri} does not have {what}: {error}.") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of(card: Card) -> str:
    return _sha256(card.model_dump_json(indent=1).encode())
