"""Secrets in settings: what is shown of them, and what is not."""

import pickle

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from batch_assets.errors import ConfigError
from batch_assets.secret import Secret


class Door(BaseModel):
    key: Secret | SecretStr


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Secret:
    monkeypatch.setenv("DOOR_KEY", "open sesame")
    return Secret(env="DOOR_KEY")


def test_it_is_read_where_it_is_used(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret.reveal() == "open sesame"
    monkeypatch.setenv("DOOR_KEY", "open barley")
    assert secret.reveal() == "open barley"


@pytest.mark.parametrize("value", [None, ""])
def test_one_that_is_not_set_is_named(secret: Secret, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("DOOR_KEY") if value is None else monkeypatch.setenv("DOOR_KEY", value)
    with pytest.raises(ConfigError, match=r"^The environment variable DOOR_KEY is not set; [^.]*\.$"):
        secret.reveal()


def test_nothing_shows_it(secret: Secret) -> None:
    secret.reveal()
    door = Door(key=secret)
    for one in (secret, door):
        for shown in (repr(one), str(one), one.model_dump_json(), repr(one.model_dump()), str(pickle.dumps(one))):
            assert "sesame" not in shown
            assert "DOOR_KEY" in shown


def test_it_is_the_same_by_its_name(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash(secret)
    monkeypatch.setenv("DOOR_KEY", "open barley")
    assert (hash(secret), Secret(env="DOOR_KEY")) == (before, secret)
    assert secret != Secret(env="OTHER")


def test_it_comes_through_dumps_and_processes(secret: Secret) -> None:
    door = Door.model_validate({"key": {"env": "DOOR_KEY"}})
    assert door.key == secret
    assert Door.model_validate_json(door.model_dump_json()) == door
    assert Door.model_validate(door.model_dump()) == door
    assert pickle.loads(pickle.dumps(door)) == door


@pytest.mark.parametrize(
    "said", [{"env": "open sesame"}, {"env": "https://sesame"}, {"env": ""}, {"env": "A", "sesame": 1}, {}]
)
def test_what_is_no_name_of_a_variable_is_refused_and_not_shown(said: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        Secret.model_validate(said)
    assert "open sesame" not in str(refused.value)
    assert "//sesame" not in str(refused.value)
