import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError
from safetensors.torch import save

from batch_assets.errors import MlflowUnreachable, ModelChanged, ModelError, NoSuchModel
from batch_assets.models.mlflow_source import MlflowSettings, MlflowSource
from batch_assets.models.registry import ModelSettings
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.torch_runtime import PT2, TorchRuntime
from batch_assets_tests.mlflow_server import MlflowServer
from batch_assets_tests.net import seeded
from batch_assets_tests.small import Small, small_model

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


class Team:
    """People who log versions of one model in MLflow and move its alias."""

    def __init__(self, server: MlflowServer, small: Small, model: str, folder: Path) -> None:
        self.server, self.small, self.model, self.folder = server, small, model, folder
        self.client = MlflowClient(server.url, server.url)
        self.client.create_registered_model(model)
        self.source = MlflowSource(server.url, model, "batch")

    def log(self, model: bytes, runtime: TorchRuntime = PT2, *, files: tuple[str, ...] = (), **said: Any) -> tuple[int, Path]:
        """Log a version and let the alias name it; gives its number and where the server keeps its artifacts."""
        card = self.small.card(model, runtime)
        artifacts = self.folder / "logged"
        artifacts.mkdir(exist_ok=True)
        for old in artifacts.iterdir():
            old.unlink()
        (artifacts / card.model_file).write_bytes(model)
        (artifacts / "card.json").write_text(card.model_dump_json())
        run = self.client.create_run("0")
        self.client.log_artifacts(run.info.run_id, str(artifacts), "scorer")
        version = self.client.create_model_version(self.model, f"runs:/{run.info.run_id}/scorer", run.info.run_id, **said)
        self.client.set_registered_model_alias(self.model, "batch", version.version)
        (kept,) = self.server.artifacts.glob(f"**/{run.info.run_id}/artifacts/scorer")
        return int(version.version), kept

    def sync(self, *, verify: bool = False) -> None:
        self.source.sync(self.small.registry, "mirrored", "batch", verify=verify)

    def approvals(self) -> list[tuple[str, str, str]]:
        history = self.small.registry.approvals("mirrored", "batch").history()
        return [(approval.version, approval.by, approval.why) for approval in history]


@pytest.fixture
def team(server: MlflowServer, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return Team(server, small, f"model-{tmp_path.name}", tmp_path)


def test_what_the_alias_names_is_registered_and_approved(team: Team, model_bytes: bytes) -> None:
    team.log(model_bytes, description="better on new users", tags={"approved_by": "ana"})
    team.sync()
    found = team.small.registry.version("mirrored", "v1")
    assert team.small.storage.read(found.path) == model_bytes
    assert found.card == team.small.card(model_bytes)
    assert team.approvals() == [("v1", "ana", "better on new users")]


def test_every_format_comes_along(team: Team) -> None:
    weights = save(seeded().state_dict())
    team.log(weights, safetensors_of("batch_assets_tests.net:Net"))
    team.sync()
    assert team.small.storage.read(team.small.registry.version("mirrored", "v1").path) == weights


def test_an_alias_that_moves_is_followed(team: Team, model_bytes: bytes) -> None:
    team.log(model_bytes)
    team.sync()
    team.log(small_model([3.0, 2.0, 1.0]), tags={"why": "fresher", "approved_by": "bo"})
    team.sync()
    team.client.set_registered_model_alias(team.model, "batch", "1")
    team.sync()
    expected = [("v1", "mlflow", "alias moved in MLflow"), ("v2", "bo", "fresher"), ("v1", "mlflow", "alias moved in MLflow")]
    assert team.approvals() == expected
    assert team.small.registry.approvals("mirrored", "batch").withdrawn() == {2}


def test_an_answer_that_is_old_does_not_go_back(team: Team, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process downloads what the alias named, the alias moves on and another process follows it."""
    team.log(model_bytes)
    mirror, moved = MlflowSource._mirror, list[str]()

    def slow(source: MlflowSource, *found: Any) -> None:
        mirror(source, *found)
        if not moved:
            moved.append("while the first version is on its way")
            team.log(small_model([3.0, 2.0, 1.0]))
            team.sync()

    monkeypatch.setattr(MlflowSource, "_mirror", slow)
    team.sync()
    assert [version for version, _, _ in team.approvals()] == ["v2"]


def test_nothing_is_written_while_nothing_moves(team: Team, model_bytes: bytes) -> None:
    team.log(model_bytes)
    for verify in (False, False, True, True):
        team.sync(verify=verify)
    assert len(team.approvals()) == 1


def test_a_version_that_is_known_is_downloaded_only_to_be_verified(team: Team, model_bytes: bytes) -> None:
    _, kept = team.log(model_bytes)
    team.sync()
    (kept / "model.pt2").unlink()
    team.sync()
    with pytest.raises(NoSuchModel, match=r"model\.pt2"):
        team.sync(verify=True)


def test_an_artifact_that_was_overwritten_is_refused_naming_both_hashes(team: Team, model_bytes: bytes) -> None:
    _, kept = team.log(model_bytes)
    team.sync(verify=True)
    other = small_model([9.0, 9.0, 9.0])
    hashes = [hashlib.sha256(data).hexdigest() for data in (other, model_bytes)]
    (kept / "model.pt2").write_bytes(other)
    with pytest.raises(ModelChanged, match=f"MLflow.*{hashes[0]}.*{hashes[1]}"):
        team.sync(verify=True)
    (kept / "card.json").write_text(team.small.card(other).model_dump_json())
    with pytest.raises(ModelChanged, match=f"MLflow.*{hashes[0]}.*{hashes[1]}"):
        team.sync(verify=True)
    (kept / "model.pt2").write_bytes(model_bytes)
    changed = team.small.card(model_bytes).model_copy(update={"description": "another"})
    (kept / "card.json").write_text(changed.model_dump_json())
    with pytest.raises(ModelChanged, match=r"card\.json"):
        team.sync(verify=True)
    assert len(team.approvals()) == 1
    assert team.small.registry.version("mirrored", "v1").card == team.small.card(model_bytes)


def test_bytes_that_their_own_card_does_not_name_are_refused(team: Team, model_bytes: bytes) -> None:
    _, kept = team.log(model_bytes)
    (kept / "model.pt2").write_bytes(small_model([9.0, 9.0, 9.0]))
    with pytest.raises(ModelChanged, match=hashlib.sha256(model_bytes).hexdigest()):
        team.sync()
    assert team.small.registry.versions("mirrored") == []


def test_what_is_not_there_is_a_sentence(team: Team, model_bytes: bytes) -> None:
    with pytest.raises(NoSuchModel, match=f"does not have {re.escape(team.model)} with the alias batch"):
        team.sync()
    with pytest.raises(NoSuchModel, match="nobody"):
        MlflowSource(team.server.url, "nobody", "batch").sync(team.small.registry, "mirrored", "batch")
    _, kept = team.log(model_bytes)
    (kept / "card.json").unlink()
    with pytest.raises(NoSuchModel, match=r"card\.json"):
        team.sync()


def test_a_server_that_does_not_answer_is_a_sentence(team: Team) -> None:
    with pytest.raises(ModelError, match="cannot be asked"):
        MlflowSource("http://127.0.0.1:9", "x", "batch").sync(team.small.registry, "mirrored", "batch")


def test_a_night_goes_on_with_what_is_known_while_the_server_is_silent(
    team: Team, model_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ModelSettings(name="mirrored", mlflow=MlflowSettings(tracking_uri="http://127.0.0.1:9", registered_model="x"))
    with pytest.raises(MlflowUnreachable):
        team.small.registry.resolve(settings)
    team.log(model_bytes)
    team.sync()
    assert team.small.registry.resolve(settings).approval == 1
    assert "The newest approval that is known counts." in caplog.text


def test_a_password_has_no_place_in_the_address() -> None:
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        MlflowSettings(tracking_uri="https://ann:secret@mlflow.example", registered_model="x")


def test_without_the_client_the_extra_is_named(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModelError, match=r"pip install 'batch-assets\[mlflow\]'"):
        team.sync()


def test_a_pipeline_says_where_its_model_is_approved() -> None:
    settings = MlflowSettings(tracking_uri="https://mlflow.example", registered_model="propensity")
    assert MlflowSettings.model_validate(settings.model_dump()) == settings
