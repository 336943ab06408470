import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from batch_assets.demo import train as training
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.orchestration.catalog import pipeline
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet


def trained(root: Path) -> ModelVersion:
    return Registry(LocalStorage(str(root))).version(pipeline(training.PIPELINE).model.name, training.VERSION)


def test_no_training_label_reaches_into_the_test_days() -> None:
    last_label_day = max(training.TRAINING_DAYS) + timedelta(days=training.HORIZON_DAYS)
    assert last_label_day < min(training.TEST_DAYS)


def test_every_label_window_ends_within_the_data() -> None:
    last_day = pipeline(training.PIPELINE).partitions.last()
    assert max(training.TEST_DAYS) + timedelta(days=training.HORIZON_DAYS) <= last_day


def test_the_model_is_as_good_as_its_card_says(trained_root: Path) -> None:
    metrics = trained(trained_root).card.metrics
    assert set(metrics) == {day.isoformat() for day in training.TEST_DAYS}
    measured = metrics["1998-05-31"]
    assert 0.83 <= measured["auc"] <= 0.86
    assert measured["rows"] == 23_570
    assert abs(measured["mean_probability"] - measured["base_rate"]) < 0.015
    assert measured["calibration_error"] < 0.015


def test_training_again_gives_the_same_bytes(trained_root: Path, tmp_path: Path) -> None:
    again = training.train(pipeline(training.PIPELINE), Registry(LocalStorage(str(tmp_path))), Quiet())
    assert again.digest == trained(trained_root).digest


@pytest.mark.long
def test_another_seed_is_another_model(trained_root: Path, tmp_path: Path) -> None:
    other = training.train(pipeline(training.PIPELINE), Registry(LocalStorage(str(tmp_path))), Quiet(), version="v2", seed=7)
    assert other.card.model_sha256 != trained(trained_root).card.model_sha256


def test_the_card_holds_the_contract_of_the_pipeline(trained_root: Path) -> None:
    model = trained(trained_root)
    assert model.card.contract == pipeline(training.PIPELINE).features.contract
    data = (trained_root / model.path).read_bytes()
    assert model.card.model_sha256 == hashlib.sha256(data).hexdigest()


def test_no_path_of_this_machine_is_in_model_or_card(trained_root: Path) -> None:
    folder = trained_root / trained(trained_root).path
    for file in (file for file in folder.parent.iterdir() if file.is_file()):
        for place in (str(Path(training.__file__).parent), str(trained_root)):
            assert place.encode() not in file.read_bytes()
