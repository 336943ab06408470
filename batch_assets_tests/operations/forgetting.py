"""What tests of forgetting share: a secret elsewhere, and what readers and files say."""

from pathlib import Path

import pytest

from batch_assets.features.forgotten import KEPT_IN
from batch_assets.features.keys import Said
from batch_assets.operations.forget import Hushed, forget
from batch_assets.serving.reader import Answer, Reader
from batch_assets_tests.small import Small

WHY = "a letter of 3 March"


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the secret, outside of every root."""
    path = tmp_path / "elsewhere" / "secret"
    monkeypatch.setenv(KEPT_IN, str(path))
    return path


def forgets(small: Small, *keys: Said, why: str = WHY) -> Hushed:
    return forget(small.config, small.storage, small.registry, keys, why, small.progress)


def answers(small: Small, *keys: Said) -> list[Answer | None]:
    """What readers are told now."""
    reader = Reader.open("small", small.storage)
    try:
        return reader.get_many(keys)
    finally:
        reader.close()


def records(small: Small, *keys: Said) -> list[object]:
    """Of what they are told, the records alone."""
    return [one and one.record for one in answers(small, *keys)]
