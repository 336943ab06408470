import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_assets.errors import LostRace, ModelChanged, ModelMisfit, NoSuchModel, VersionExists
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.registry import ModelSettings, Registry
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.storage import open_storage
from batch_assets_tests.small import Small, small_model

SETTINGS = ModelSettings(name="small", alias="batch")


def model_folder(small: Small, version: str = "v1") -> Path:
    return small.storage.local_path(f"models/small/{version}")


def test_the_same_version_again_is_no_change(small: Small, model_bytes: bytes) -> None:
    before = small.model
    small.registry.register("small", "v1", before.card, model_bytes)
    assert small.registry.version("small", "v1").digest == before.digest


def test_a_version_is_immutable(small: Small, model_bytes: bytes) -> None:
    card = small.model.card
    with pytest.raises(VersionExists, match="immutable"):
        small.registry.register("small", "v1", card.model_copy(update={"description": "another"}), model_bytes)
    with pytest.raises(ModelChanged):
        small.registry.register("small", "v2", card, model_bytes + b"x")
    assert small.registry.versions("small") == ["v1"]


def test_a_flipped_byte_in_the_model_is_noticed(small: Small) -> None:
    path = model_folder(small) / "model.pt2"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelChanged, match="the file was changed"):
        small.registry.resolve(SETTINGS)


def test_an_edited_card_is_noticed(small: Small) -> None:
    path = model_folder(small) / "card.json"
    card = json.loads(path.read_text())
    card["head"]["threshold"] = 0.01
    path.write_text(json.dumps(card))
    with pytest.raises(ModelChanged, match="approval 1"):
        small.registry.resolve(SETTINGS)


@pytest.mark.parametrize("damage", ["", "{", '{"description": 1}'])
def test_a_card_that_cannot_be_read_is_a_sentence(small: Small, damage: str) -> None:
    (model_folder(small) / "card.json").write_text(damage)
    with pytest.raises(ModelChanged, match="card of small v1"):
        small.registry.resolve(SETTINGS)


def test_an_alias_names_one_version_and_remembers_the_others(small: Small) -> None:
    first = small.model
    second = small.register("v2", small_model([3.0, 2.0, 1.0]))
    assert (second.version, second.approval) == ("v2", 2)
    assert small.registry.resolve(SETTINGS, approval=1) == first
    assert [approval.version for approval in small.registry.approvals("small", "batch").history()] == ["v1", "v2"]
    assert small.registry.aliases("small")["batch"].version == "v2"


def test_no_alias_no_version_no_model(small: Small) -> None:
    with pytest.raises(NoSuchModel, match="alias realtime"):
        small.registry.resolve(ModelSettings(name="small", alias="realtime"))
    with pytest.raises(NoSuchModel, match="small v9"):
        small.registry.approve("small", "batch", "v9", why="none", by="the test")
    assert small.registry.versions("nobody") == []


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", "aliases", "a b", ".hidden", "x" * 65, "v1\n"])
def test_a_name_cannot_leave_its_folder(small: Small, model_bytes: bytes, name: str) -> None:
    with pytest.raises(NoSuchModel):
        small.registry.version("small", name)
    with pytest.raises(NoSuchModel):
        small.registry.register("small", name, small.model.card, model_bytes)


def test_versions_are_in_natural_order(small: Small, model_bytes: bytes) -> None:
    for version in ("v10", "v2"):
        small.registry.register("small", version, small.model.card, model_bytes)
    assert small.registry.versions("small") == ["v1", "v2", "v10"]


def test_a_model_that_does_not_fit_its_contract_is_not_registered(small: Small) -> None:
    """One column too many, and two outputs a row."""
    for model in (export_model(torch.nn.Linear(4, 1), 4), export_model(torch.nn.Linear(3, 2), 3)):
        card = small.model.card.model_copy(update={"model_sha256": hashlib.sha256(model).hexdigest()})
        with pytest.raises(ModelMisfit, match="small v7 does not map 3 columns to one logit"):
            small.registry.register("small", "v7", card, model)
    assert small.registry.versions("small") == ["v1"]


def test_strangers_in_the_folder_are_no_models(small: Small) -> None:
    small.storage.create("models/README", b"hello")
    small.storage.create("models/.cache dir/x", b"")
    small.storage.create("models/small/notes.txt", b"hello")
    assert small.registry.names() == ["small"]
    assert small.registry.versions("small") == ["v1"]


def test_two_approvals_cannot_take_the_same_number(small: Small) -> None:
    with pytest.raises(LostRace, match="approval 1 for batch went to v1 by the test in the same moment"):
        small.registry.approve("small", "batch", "v1", why="late", by="somebody", after=0)


def test_the_registry_works_in_a_bucket(small: Small, bucket: str, model_bytes: bytes) -> None:
    """Register, approve, resolve; another process finds the same; other bytes are refused."""
    registry = Registry(open_storage(f"{bucket}/models of ours"))
    card = small.model.card
    assert registry.register("small", "v1", card, model_bytes).digest == small.model.digest
    registry.register("small", "v1", card, model_bytes)
    with pytest.raises(VersionExists, match="immutable"):
        registry.register("small", "v1", card.model_copy(update={"description": "another"}), model_bytes)
    registry.approve("small", "batch", "v1", why="test", by="test")
    found = Registry(open_storage(f"{bucket}/models of ours")).resolve(SETTINGS)
    assert (found.digest, found.approval) == (small.model.digest, 1)
    assert (registry.names(), registry.versions("small"), list(registry.aliases("small"))) == (["small"], ["v1"], ["batch"])
    load = pickle.loads(
        pickle.dumps(PredictorLoader(open_storage(f"{bucket}/models of ours"), found.path, card.model_sha256, card.runtime))
    )
    assert next(iter(load().forward([(np.ones((3, 64), dtype=np.float32),)]))).shape == (1, 64)


class Writing(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mul_(2).sum(dim=1)


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return features.sum(dim=1) + self.seen


@pytest.mark.parametrize(("model", "message"), [(Writing(), "writes into its inputs"), (Counting(), "other values the second")])
def test_a_model_whose_values_depend_on_what_ran_before_is_not_registered(
    small: Small, model: torch.nn.Module, message: str
) -> None:
    data = export_model(model, 3)
    card = small.model.card.model_copy(update={"model_sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(ModelMisfit, match=message):
        small.registry.register("small", "v8", card, data)
