"""A night is opened once: how often it is planned, how often a model is hashed or read, how often a release is read back."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from batch_assets.models.predictor import PredictorLoader
from batch_assets.nightly.night import Night
from batch_assets.nightly.summary import summarize
from batch_assets.orchestration.launch import materialize
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.storage import LocalStorage
from batch_assets_tests.orchestration.location import changed, repository, run
from batch_assets_tests.small import DAY, Small

MODEL = "models/small/v1/model.pt2"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is done from now on."""
    found = Counter[str]()

    def counting(cls: type, name: str, of: Callable[..., str | None]) -> None:
        real = getattr(cls, name)

        def method(*arguments: Any, **said: Any) -> Any:
            what = of(*arguments)
            if what:
                found[what] += 1
            return real(*arguments, **said)

        monkeypatch.setattr(cls, name, method if not isinstance(vars(cls).get(name), classmethod) else staticmethod(method))

    counting(Night, "open", lambda *_: "opened")
    counting(LocalStorage, "sha256", lambda _, path: "model hashed" if path == MODEL else None)
    counting(PredictorLoader, "_copied", lambda *_: "model read")
    counting(ArrowStore, "scan", lambda *_: "release read back")
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def test_a_run_of_the_ui(small: Small, instance: dg.DagsterInstance, counted: Counter[str]) -> None:
    """Its steps share the night; a worker reads the model once, to load it."""
    run_id = run(repository(small), instance, DAY)
    assert instance.get_run_by_id(run_id).is_success  # type: ignore[union-attr]
    assert counted == {"opened": 1, "model hashed": 2, "model read": 1, "release read back": 2}


def test_steps_that_are_run_alone(small: Small, instance: dg.DagsterInstance, counted: Counter[str]) -> None:
    for asset, opened in (("user_features", 0), ("predictions", 1), ("serving_table", 1)):
        counted.clear()
        assert instance.get_run_by_id(run(repository(small), instance, DAY, asset)).is_success  # type: ignore[union-attr]
        assert counted["opened"] == opened, asset
        assert counted["model hashed"] == opened * (2 if asset == "predictions" else 1), asset


def test_a_night_of_the_command_line(
    small: Small, instance: dg.DagsterInstance, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before it begins, when the model is resolved, and once after the last row; the summary reads nothing again."""
    monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)
    monkeypatch.delenv("BATCH_ASSETS_MODELS", raising=False)
    model = StorageRoot().registry().resolve(small.config.model)
    launched = materialize(changed(small), DAY, instance, small.progress, model=model)
    found = summarize(launched.night, launched.matches, "")
    assert found["release"] == found["live_release"]
    assert counted == {"opened": 1, "model hashed": 2, "model read": 1, "release read back": 2}
