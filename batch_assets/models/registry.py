"""Immutable model versions in plain folders, and the aliases that name them.

A version is its files: the model file and the card. Its digest covers all of them. An approval records the digest that
was approved, so bytes that change afterwards are noticed by whoever resolves the alias.
"""

import hashlib
import logging
import re
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import (
    AlreadyExists,
    InUse,
    MlflowUnreachable,
    ModelChanged,
    ModelMisfit,
    NoSuchModel,
    NotFound,
    Retired,
    VersionExists,
)
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.models.approvals import Approval, Approvals, Approved
from batch_assets.models.card import Card, read_card
from batch_assets.models.mlflow_source import MlflowSettings, MlflowSource
from batch_assets.models.sandbox import Sandbox
from batch_assets.models.trial import check_model
from batch_assets.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

CARD_FILE = "card.json"
_LOG = logging.getLogger(__name__)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class ModelSettings(BaseModel):
    """Which model scores a pipeline's rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name in the registry.", pattern=NAME_PATTERN)
    alias: str = Field("batch", description="The alias whose version is used; resolved once per run.", pattern=NAME_PATTERN)
    mlflow: MlflowSettings | None = Field(None, description="The MLflow registry whose alias ours mirrors.")
    rescore_days: int = Field(1, description="How many of the newest days a new approval scores again.", ge=0)


class Retirement(BaseModel):
    """A version may not be approved any more: who said so, and whether its program was deleted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    deleted: bool


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version. `digest` covers all its files; `approval` is the entry of `alias` that it was resolved by."""

    name: str
    version: str
    digest: str
    card: Card
    registry: "Registry" = field(compare=False, repr=False)
    alias: str = ""
    approval: int = 0

    @property
    def path(self) -> str:
        """Where the model file lies under the storage root."""
        return f"{_folder(self.name, self.version)}/{self.card.model_file}"

    @property
    def storage(self) -> Storage:
        """Where its files are."""
        return self.registry.storage

    @property
    def logs(self) -> list[NumberedLog[Any]]:
        """The log of its alias, if it was resolved by one: what is made with it was made from that."""
        return [self.registry.approvals(self.name, self.alias).log] if self.alias else []

    def withdrawn(self) -> frozenset[int]:
        """The approvals of its alias that were withdrawn until now."""
        return self.registry.approvals(self.name, self.alias).withdrawn() if self.alias else frozenset()

    def require_unchanged(self) -> None:
        """Hash its files once more. Raises ModelChanged, naming both digests."""
        found = self.registry.version(self.name, self.version).digest
        if found != self.digest:
            raise ModelChanged(f"{self.name} {self.version} has digest {found} now, {self.digest} when the run began.")

    def require_in_force(self) -> None:
        """Raises Withdrawn if somebody has rolled the approval back meanwhile."""
        if self.approval:
            self.registry.approvals(self.name, self.alias).require_in_force(self.approval)


class Registry:
    """The models under a storage root.

    `sandbox` is where files are opened that are not registered yet; by default each in a process of its own.
    """

    def __init__(self, storage: Storage, sandbox: Sandbox | None = None) -> None:
        self.storage = storage
        self._sandbox = sandbox or Sandbox()

    def register(self, name: str, version: str, card: Card, model: bytes, rows: "pa.Table | None" = None) -> ModelVersion:
        """Keep a version for ever, after it was tried; see `trial.check_model`. The same bytes again are no change.

        What does not hinder it and should be known is a warning. It is tried on `rows` of features, or on made-up ones.

        Raises:
            VersionExists: the version is there with other bytes.
            ModelChanged: the card speaks of another file.
            ModelMisfit: the program does not take the contract's columns, does not give what its card says, or a row's outputs
                depend on more than that row.
            UnsafeModel: the file is damaged, is no model, would run what it brings along, or takes too much time or memory.
        """
        folder = _folder(name, version)
        if card.model_sha256 != hashlib.sha256(model).hexdigest():
            raise ModelChanged(f"The card of {name} {version} names another sha256 than that of the model file.")
        described = card.model_dump_json(indent=1).encode()
        try:  # a version whose program is gone keeps its name: nothing is written beside another card
            self._require_same(name, version, self.storage.read(f"{folder}/{CARD_FILE}"), described)
        except NotFound:  # one that is registered was vetted, and its card names the sha256 of what was
            self._vet(f"{name} {version}", card, model, rows)
        for file, data in {card.model_file: model, CARD_FILE: described}.items():
            try:  # the card comes last: a version without one is not there yet, and the same registration finishes it
                self.storage.create(f"{folder}/{file}", data)
            except AlreadyExists:
                self._require_same(name, version, self.storage.read(f"{folder}/{file}"), data)
        return self.version(name, version)

    def _vet(self, name: str, card: Card, model: bytes, rows: "pa.Table | None") -> None:
        """Open and try a model file in a process apart."""
        for found in self._sandbox.call(name, check_model, model, card, name, rows, preloaded=card.runtime.preloaded):
            warnings.warn(found, stacklevel=3)

    @staticmethod
    def _require_same(name: str, version: str, found: bytes, given: bytes) -> None:
        if found != given:
            raise VersionExists(
                f"{name} {version} is registered with other bytes; versions are immutable, use another version."
            )

    def version(self, name: str, version: str) -> ModelVersion:
        """A version, with the digest of the bytes that are there now.

        Raises:
            NoSuchModel: it is not registered.
            ModelChanged: the model file is not the one that its card names.
        """
        card_bytes, card = self._card(name, version)
        folder = _folder(name, version)
        try:
            sha256 = self.storage.sha256(f"{folder}/{card.model_file}")
        except NotFound:
            gone = self.retirement(name, version)
            raise NoSuchModel(
                f"The program of {name} {version} was deleted by {gone.body.by}: {gone.why}."
                if gone
                else f"{folder}/{card.model_file} is missing under {self.storage.location}: restore it from a copy."
            ) from None
        if sha256 != card.model_sha256:
            raise ModelChanged(
                f"{folder}/{card.model_file} has sha256 {sha256}, its card says {card.model_sha256}: the file was changed."
            )
        digest = hashlib.sha256(f"{sha256}{hashlib.sha256(card_bytes).hexdigest()}".encode()).hexdigest()
        return ModelVersion(name, version, digest, card, self)

    def card(self, name: str, version: str) -> Card:
        """What a version says of itself, without a look at its program. Raises NoSuchModel, ModelChanged."""
        return self._card(name, version)[1]

    def fault(self, name: str, version: str) -> str:
        """What is wrong with a version's files, hashed and compared with its card and every approval; or nothing."""
        try:
            found = self.version(name, version)
        except (ModelChanged, NoSuchModel) as error:
            return "" if self.retirement(name, version) and isinstance(error, NoSuchModel) else str(error)
        for alias in self.aliases(name):
            for approval in self.approvals(name, alias).history():
                if approval.version == version and approval.digest != found.digest:
                    return (
                        f"{name} {version} has digest {found.digest}, approval {approval.number} for {alias} was given to "
                        f"{approval.digest}: its files were changed."
                    )
        return ""

    def names(self) -> list[str]:
        """Every model."""
        return sorted(name for name, size in self.storage.names("models").items() if size == 0 and _fits(name))

    def versions(self, name: str) -> list[str]:
        """Every version of a model, in natural order (v2 before v10)."""
        entries = self.storage.names(f"models/{_checked(name)}")
        folders = [entry for entry, size in entries.items() if size == 0 and _fits(entry)]
        found = [entry for entry in folders if CARD_FILE in self.storage.names(_folder(name, entry))]
        return sorted(found, key=lambda version: [(len(part), part) for part in re.split(r"(\d+)", version)])

    def newest(self, name: str) -> str:
        """The newest version of a model, by its name. Raises NoSuchModel."""
        versions = self.versions(name)
        if not versions:
            raise NoSuchModel(f"There is no model {name}; there is {', '.join(self.names()) or 'none yet'}.")
        return versions[-1]

    def aliases(self, name: str) -> dict[str, Approval]:
        """Every alias of a model and the approval in force."""
        found = {}
        for alias in sorted(filter(_fits, self.storage.names(f"models/{_checked(name)}/aliases"))):
            approval = self.approvals(name, alias).latest()
            if approval:
                found[alias] = approval
        return found

    def approvals(self, name: str, alias: str) -> Approvals:
        """The audit trail of an alias."""
        log = NumberedLog(self.storage, f"models/{_checked(name)}/aliases/{_checked(alias)}", Approved)
        return Approvals(log, name, alias)

    def follow(self, settings: ModelSettings, *, verify: bool = False) -> None:
        """If the alias is kept in MLflow, let ours name the version that it names; see `MlflowSource.sync`."""
        if settings.mlflow is not None:
            source = MlflowSource(settings.mlflow.tracking_uri, settings.mlflow.registered_model, settings.alias)
            source.sync(self, settings.name, settings.alias, verify=verify)

    def approve(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        why: str,
        by: str,
        after: int | None = None,
        plan: dict[str, Any] | None = None,
    ) -> Approval:
        """Let an alias name a version from now on; see `Approvals.approve`.

        Raises:
            LostRace: another approval was given meanwhile; names it.
            NoSuchModel, ModelChanged: the version is not there, or not what was registered.
            Retired: the version was retired.
        """
        digest = self._approvable(name, version).digest
        return self.approvals(name, alias).approve(version, digest, why=why, by=by, after=after, plan=plan)

    def change_to(self, name: str, alias: str, version: str, *, why: str, by: str) -> Change[Approved]:
        """What an approval of a version appends to the alias's log, for who would decide again if another came first.

        Raises:
            NoSuchModel, ModelChanged, Retired, ApprovalInvalid: as `approve` does.
        """
        approvals = self.approvals(name, alias)
        return approvals.change(approvals.history(), version, self._approvable(name, version).digest, why=why, by=by)

    def _approvable(self, name: str, version: str) -> ModelVersion:
        """A version that may be approved. Raises NoSuchModel, ModelChanged, Retired."""
        found, retirement = self.version(name, version), self.retirement(name, version)
        if retirement is not None:
            who = retirement.body.by
            raise Retired(f"{name} {version} was retired by {who} ({retirement.why}); approve another version.")
        return found

    def retire(self, name: str, version: str, *, why: str, by: str, delete: bool = False) -> LogEntry[Retirement]:
        """Let a version never be approved again; `delete` removes its program too, its card stays for the records.

        Raises:
            InUse: an alias names it.
        """
        for alias, approval in self.aliases(name).items():
            if approval.version == version:
                raise InUse(f"{name} {version} is in use: the alias {alias} names it; approve another version first.")
        path = self.version(name, version).path
        entry = self._retirements(name, version).update(lambda _: Change(Retirement(by=by, deleted=delete), why))
        if delete:
            self.storage.delete(path)
        return entry

    def retirement(self, name: str, version: str) -> LogEntry[Retirement] | None:
        """Who retired a version and why, or None."""
        return self._retirements(name, version).latest()

    def resolve(self, settings: ModelSettings, approval: int | None = None) -> ModelVersion:
        """The version that an alias names now (or named by an earlier approval), byte for byte the one that was approved.

        Raises:
            NoSuchModel: nothing carries the alias.
            ModelChanged: the files are not those that were approved; names both digests.
            Withdrawn: the approval was rolled back.
        """
        approvals = self.approvals(settings.name, settings.alias)
        if approval is not None:
            approvals.require_in_force(approval)
            given: Approval | None = approvals.number(approval)
        else:
            given = self._newest(settings, approvals)
        if given is None:
            raise NoSuchModel(
                f"No version of the model {settings.name} carries the alias {settings.alias} under {self.storage.location}: "
                f"give it to one with `batch-assets models approve {settings.name} VERSION --alias {settings.alias}`."
            )
        found = self.version(settings.name, given.version)
        if found.digest != given.digest:
            raise ModelChanged(
                f"{found.name} {found.version} has digest {found.digest}, approval {given.number} was given to "
                f"{given.digest}: its files were changed."
            )
        return replace(found, alias=settings.alias, approval=given.number)

    def _newest(self, settings: ModelSettings, approvals: Approvals) -> Approval | None:
        """The approval in force, after a look at MLflow if the alias is kept there; while it is silent, ours is what counts."""
        try:
            self.follow(settings, verify=True)
        except MlflowUnreachable as error:
            if approvals.latest() is None:
                raise
            _LOG.warning("%s The newest approval that is known counts.", error)
        return approvals.latest()

    def _card(self, name: str, version: str) -> tuple[bytes, Card]:
        try:
            data = self.storage.read(f"{_folder(name, version)}/{CARD_FILE}")
        except NotFound:
            raise NoSuchModel(f"{name} {version} is not registered under {self.storage.location}.") from None
        try:
            return data, read_card(data, f"The card of {name} {version}")
        except ModelMisfit as error:
            raise ModelChanged(f"{str(error).replace(' is not a model card', ' cannot be read')}") from error

    def _retirements(self, name: str, version: str) -> NumberedLog[Retirement]:
        return NumberedLog(self.storage, f"{_folder(name, version)}/_retired", Retirement)


def _folder(name: str, version: str) -> str:
    return f"models/{_checked(name)}/{_checked(version)}"


def _fits(name: str) -> bool:
    return bool(re.fullmatch(NAME_PATTERN, name)) and name != "aliases"


def _checked(name: str) -> str:
    if not _fits(name):
        raise NoSuchModel(f"{name!r} cannot be a model's name, version or alias: letters, digits, _ and - only.")
    return name
