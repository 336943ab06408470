"""Immutable model versions in plain folders, and aliases as numbered logs.

A version is its files: the exported program and the card. Its digest covers all of them. An alias entry records the
digest that was approved, so bytes that change afterwards are noticed by whoever resolves the alias.
"""

import hashlib
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_assets.errors import AlreadyExists, ModelChanged, NoSuchModel, NotFound, VersionExists
from batch_assets.models.card import Card
from batch_assets.models.predictor import check_model
from batch_assets.numbered_log import LogEntry, NumberedLog
from batch_assets.storage import Storage

MODEL_FILE = "model.pt2"
CARD_FILE = "card.json"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class ModelSettings(BaseModel):
    """Which model scores a pipeline's rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name in the registry.", pattern=NAME_PATTERN)
    alias: str = Field("batch", description="The alias whose version is used; resolved once per run.", pattern=NAME_PATTERN)


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version. `digest` covers all its files; `approval` is the alias entry that it was resolved by."""

    name: str
    version: str
    digest: str
    card: Card
    approval: int = 0

    @property
    def path(self) -> str:
        """Where the exported program lies under the storage root."""
        return f"{_folder(self.name, self.version)}/{MODEL_FILE}"


class Registry:
    """The models under a storage root."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def register(self, name: str, version: str, card: Card, model: bytes) -> ModelVersion:
        """Keep a version for ever. The same bytes again are no change.

        Raises:
            VersionExists: the version is there with other bytes.
            ModelChanged: the card speaks of another file.
            ModelMisfit: the program does not take the contract's columns or does not give one logit a row.
            UnsafeModel: loading the program would execute a pickle.
        """
        folder = _folder(name, version)
        if card.model_sha256 != hashlib.sha256(model).hexdigest():
            raise ModelChanged(f"The card of {name} {version} names another sha256 than that of the model file.")
        check_model(model, card.contract, card.outputs.logits, f"{name} {version}")
        files = {MODEL_FILE: model, CARD_FILE: card.model_dump_json(indent=1).encode()}
        with self._storage.scratch() as scratch:
            for file, data in files.items():
                (scratch / file).write_bytes(data)
            try:
                self._storage.adopt(scratch, folder)
            except AlreadyExists:
                if any(self._storage.read(f"{folder}/{file}") != data for file, data in files.items()):
                    raise VersionExists(
                        f"{name} {version} is registered with other bytes; versions are immutable, use another version."
                    ) from None
        return self.version(name, version)

    def version(self, name: str, version: str) -> ModelVersion:
        """A version, with the digest of the bytes that are there now.

        Raises:
            NoSuchModel: it is not registered.
            ModelChanged: the model file is not the one that its card names.
        """
        folder = _folder(name, version)
        try:
            model, card_bytes = (self._storage.read(f"{folder}/{file}") for file in (MODEL_FILE, CARD_FILE))
        except NotFound:
            raise NoSuchModel(f"{name} {version} is not registered under {self._storage.location}.") from None
        try:
            card = Card.model_validate_json(card_bytes)
        except ValidationError as error:
            raise ModelChanged(f"The card of {name} {version} cannot be read: {error.errors()[0]['msg']}.") from error
        sha256 = hashlib.sha256(model).hexdigest()
        if sha256 != card.model_sha256:
            raise ModelChanged(
                f"{folder}/{MODEL_FILE} has sha256 {sha256}, its card says {card.model_sha256}: the file was changed."
            )
        digest = hashlib.sha256(f"{sha256}{hashlib.sha256(card_bytes).hexdigest()}".encode()).hexdigest()
        return ModelVersion(name, version, digest, card)

    def names(self) -> list[str]:
        """Every model."""
        return sorted(name for name, size in self._storage.names("models").items() if size == 0 and _fits(name))

    def versions(self, name: str) -> list[str]:
        """Every version of a model, in natural order (v2 before v10)."""
        entries = self._storage.names(f"models/{_checked(name)}")
        found = [entry for entry, size in entries.items() if size == 0 and _fits(entry)]
        return sorted(found, key=lambda version: [(len(part), part) for part in re.split(r"(\d+)", version)])

    def aliases(self, name: str) -> dict[str, LogEntry]:
        """Every alias of a model and the entry in force."""
        found = {}
        for alias in sorted(self._storage.names(f"models/{_checked(name)}/aliases")):
            entry = self.alias_log(name, alias).latest()
            if entry:
                found[alias] = entry
        return found

    def alias_log(self, name: str, alias: str) -> NumberedLog:
        """The history of an alias; its entries' numbers are the approvals'."""
        return NumberedLog(self._storage, f"models/{_checked(name)}/aliases/{_checked(alias)}")

    def set_alias(self, name: str, alias: str, version: str, *, why: str) -> LogEntry:
        """Let an alias name a version from now on. Raises NoSuchModel, ModelChanged, LostRace."""
        approved = self.version(name, version)
        log = self.alias_log(name, alias)
        latest = log.latest()
        return log.append({"version": version, "digest": approved.digest}, after=latest.number if latest else 0, why=why)

    def resolve(self, settings: ModelSettings, approval: int | None = None) -> ModelVersion:
        """The version that an alias names now (or named by an earlier approval), byte for byte the one that was approved.

        Raises:
            NoSuchModel: nothing carries the alias.
            ModelChanged: the files are not those that were approved.
        """
        log = self.alias_log(settings.name, settings.alias)
        entry = log.latest() if approval is None else log.entry(approval)
        if entry is None:
            raise NoSuchModel(
                f"No version of the model {settings.name} carries the alias {settings.alias} under "
                f"{self._storage.location}: register one and point the alias at it."
            )
        found = self.version(settings.name, entry.body["version"])
        if found.digest != entry.body["digest"]:
            raise ModelChanged(
                f"{found.name} {found.version} has digest {found.digest}, approval {entry.number} was given to "
                f"{entry.body['digest']}: its files were changed."
            )
        return ModelVersion(found.name, found.version, found.digest, found.card, approval=entry.number)


def _folder(name: str, version: str) -> str:
    return f"models/{_checked(name)}/{_checked(version)}"


def _fits(name: str) -> bool:
    return bool(re.fullmatch(NAME_PATTERN, name)) and name != "aliases"


def _checked(name: str) -> str:
    if not _fits(name):
        raise NoSuchModel(f"{name!r} cannot be a model's name, version or alias: letters, digits, _ and - only.")
    return name
