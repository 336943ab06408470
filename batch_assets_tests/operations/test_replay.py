"""A recorded prediction is found again: from the recorded rows, model and shapes, not from today's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ModelChanged, NoPrediction, NoSuchModel, ProofFailed, SnapshotChanged
from batch_assets.models import predictor
from batch_assets.models.runtimes.torch_runtime import TorchRuntime
from batch_assets.nightly import score as score_module
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import replay as replay_dead_letters
from batch_assets.operations.replay import Replayed, replay
from batch_assets.runs.manifest import Manifest
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import DAY, Small, rows, small_model, with_values

Make = Callable[..., Small]
POISON = 77.0


def scored(small: Small) -> Manifest:
    freeze(small.config, small.storage, DAY, small.progress)
    return score(small.config, small.storage, DAY, small.model, LocalEngine(), small.progress).manifest


def replayed(small: Small, key: int | str, day: str | None = DAY) -> Replayed:
    return replay(small.config, small.storage, small.registry, str(key), day)


def in_another_environment(monkeypatch: pytest.MonkeyPatch, weight: float = 1.0) -> None:
    """What loads a model loads one that another torch computes, a little otherwise."""

    class Elsewhere:
        def __init__(self, *arguments: Any) -> None:
            self._load = predictor.PredictorLoader(*arguments)

        def __call__(self, *arguments: Any) -> Any:
            loaded = self._load(*arguments)
            real, environment = loaded.forward, {**loaded.environment, "torch": "0.1"}

            class There(type(loaded)):  # type: ignore[misc]
                environment = property(lambda self: environment_there)

                def forward(self, batches: Any) -> Any:
                    return (logits * weight for logits in real(batches))

            environment_there = environment
            return There(loaded.program)

    monkeypatch.setattr(score_module, "PredictorLoader", Elsewhere)


@pytest.mark.parametrize("key", [1, 42, 255, 256, 257, 2_000])
def test_every_row_has_the_same_bits_alone(small: Small, key: int) -> None:
    manifest = scored(small)
    found = replayed(small, key)
    assert found.bit_equal
    assert (found.bound, found.difference, found.batch_rows) == (0.0, 0.0, 64)
    assert found.recorded == found.replayed
    assert found.recorded_environment == found.replayed_environment == manifest.environments[0]
    assert found.verdict.startswith("Equal bit for bit, as they must be")


def test_text_keys(make_small: Make) -> None:
    small = make_small(rows(500, key_type=pa.string()))
    scored(small)
    assert replayed(small, "user-0000042").bit_equal


def test_what_the_pipeline_says_today_does_not_matter(small: Small) -> None:
    scored(small)
    before = replayed(small, 700)
    small.register("v2", small_model([2.0, 2.0, 2.0]))
    small.replace_rows(rows(2_000, seed=9))
    freeze(small.config, small.storage, DAY, small.progress, refresh=True)
    exclude = [{"reason": "everybody", "column": "x", "op": ">", "value": -1e9}]
    scoring = {"chunk_rows": 512, "batch_size": 1_024, "precision": "bfloat16", "exclude": exclude}
    small.config = small.config.model_validate({**small.config.model_dump(), "scoring": scoring})
    assert replayed(small, 700) == before


def test_a_changed_value_is_found(small: Small) -> None:
    manifest = scored(small)
    path = small.storage.local_path(f"{manifest.folder}/chunk-00001.parquet")
    data = bytearray(path.read_bytes())
    value = pq.ParquetFile(path).read()["probability"].to_numpy()[3:4].tobytes()
    assert data.count(value) == 1
    data[data.index(value)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ProofFailed, match=r"chunk-00001.parquet of .* for key 260, scored again it is .* differ by 0\."):
        replayed(small, 260)
    assert replayed(small, 261).bit_equal


class TestElsewhere:
    def test_last_bits_may_differ(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        scored(small)
        in_another_environment(monkeypatch, weight=1.00001)
        found = replayed(small, 42)
        assert not found.bit_equal
        assert 0 < found.difference <= found.bound == 1e-4
        assert found.replayed_environment["torch"] == "0.1"
        assert "within 0.0001" in found.verdict

    def test_the_same_bits_are_said(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        scored(small)
        in_another_environment(monkeypatch)
        found = replayed(small, 42)
        assert (found.bit_equal, found.bound) == (True, 1e-4)
        assert "although" in found.verdict

    def test_more_than_the_bound_fails(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        scored(small)
        in_another_environment(monkeypatch, weight=1.1)
        with pytest.raises(ProofFailed, match=r"they may differ by 0\.0001"):
            replayed(small, 42)

    def test_a_device_that_is_not_here_is_replaced(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        scored(small)
        asked: list[str] = []
        monkeypatch.setattr(TorchRuntime, "has", lambda _, device: asked.append(device))
        assert replayed(small, 42).bit_equal
        assert asked == ["cpu"]


class TestTheModel:
    def test_other_bytes_are_refused(self, small: Small) -> None:
        scored(small)
        card = small.storage.local_path("models/small/v1/card.json")
        card.write_text(card.read_text().replace("made up", "made up again"))
        with pytest.raises(ModelChanged, match=r"run .* was scored by .* its files were changed"):
            replayed(small, 42)

    def test_a_model_that_is_gone(self, small: Small) -> None:
        scored(small)
        small.storage.local_path("models/small/v1/model.pt2").unlink()
        with pytest.raises(NoSuchModel, match="restore it from a copy"):
            replayed(small, 42)


def test_other_rows_are_refused(small: Small) -> None:
    manifest = scored(small)
    path = small.storage.local_path(f"{manifest.snapshot_folder}/part-00000.parquet")
    data = bytearray(path.read_bytes())
    data[5_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotChanged, match="other sha256"):
        replayed(small, 42)


class TestAKeyThatWasNotScored:
    def test_there_is_nothing_to_replay(self, make_small: Make) -> None:
        small = make_small(with_values(rows(2_000), "x", {10: None}))
        scored(small)
        with pytest.raises(NoPrediction, match=r"was not scored .*dead letter: missing or non-finite feature: x"):
            replayed(small, 11)
        with pytest.raises(NoPrediction, match="not in the snapshot"):
            replayed(small, 2_001)

    def test_a_replayed_dead_letter(self, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What replayed it was not recorded, so the bound holds, and here the bits are the same."""
        small, flag = make_small(with_values(rows(2_000), "x", {5: POISON})), tmp_path / "library is broken"
        flag.touch()
        real = score_module.PredictorLoader
        monkeypatch.setattr(score_module, "PredictorLoader", lambda *args: Faulty(real(*args), "broken", POISON, str(flag)))
        manifest = scored(small)
        with pytest.raises(NoPrediction, match="the model raised"):
            replayed(small, 6)
        flag.unlink()
        replay_dead_letters(small.config, small.storage, small.registry, manifest.folder, LocalEngine(), small.progress)
        found = replayed(small, 6)
        assert (found.bit_equal, found.bound, found.recorded_environment) == (True, 1e-4, None)
        assert found.file == "chunk-00000.replay-001.parquet"
