"""An entry that is gone together with everything that vouches for it in the storage root: Dagster remembers its number."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_assets.errors import LostEntry
from batch_assets.features.snapshot import current_log
from batch_assets.logs import NumberedLog
from batch_assets.nightly.accepted import accepted_log
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.orchestration.nights import opened_nights
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import step_failures
from batch_assets.serving.live import current_log as live_log
from batch_assets_tests.forgery import delete_newest
from batch_assets_tests.orchestration.location import changed, repository, run
from batch_assets_tests.small import DAY, Small

pytestmark = pytest.mark.process

NEXT = "2024-03-11"
KNOWN: dict[str, Callable[[Small], NumberedLog[Any]]] = {
    "user_features": lambda small: current_log(small.storage, "small", DAY),
    "predictions": lambda small: accepted_log(small.storage, "small", DAY),
    "serving_table": lambda small: live_log(small.storage, "small"),
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


class Nights:
    """Runs of a small pipeline, and its roll-out sensor."""

    def __init__(self, small: Small, instance: dg.DagsterInstance) -> None:
        self.small, self.instance, self.location = small, instance, repository(small)

    def run(self, day: str = DAY, *assets: str) -> str:
        return run(self.location, self.instance, day, *assets)

    def faults(self, run_id: str) -> str:
        return "; ".join(step_failures(self.instance, run_id))

    def tick(self) -> None:
        resources = {"batch_assets_root": StorageRoot(root=self.small.storage.root)}
        with dg.build_sensor_context(self.instance, resources=resources, repository_def=self.location) as context:
            self.location.get_sensor_def("small_approved_model").evaluate_tick(context)


@pytest.fixture
def nights(small: Small, instance: dg.DagsterInstance) -> Nights:
    return Nights(small, instance)


@pytest.mark.parametrize("asset", KNOWN)
def test_the_next_run_the_check_and_the_sensor_name_it(nights: Nights, asset: str) -> None:
    first = nights.run()
    assert nights.instance.get_run_by_id(first).is_success  # type: ignore[union-attr]
    nights.tick()
    log = KNOWN[asset](nights.small)
    number = delete_newest(log, vouched=True)
    entry = f"Entry {number} of {log.folder} under {nights.small.storage.root}"
    says = f"{entry}, which Dagster run {first} (small/{asset} {DAY}) knew"
    for day in (DAY, NEXT):
        assert f"small__user_features: {says}, is missing: restore it" in nights.faults(nights.run(day))
    with pytest.raises(LostEntry, match=re.escape(says)):
        nights.tick()


def test_an_entry_that_took_its_place_is_another_one(nights: Nights) -> None:
    first = nights.run()
    log = live_log(nights.small.storage, "small")
    body = log.entry(1).body
    delete_newest(log, vouched=True)
    log.append(body, after=0, why="somebody published meanwhile")
    faults = nights.faults(nights.run(NEXT))
    assert f"serving/_current under {nights.small.storage.root}, which Dagster run {first}" in faults
    assert "is another one now" in faults


def test_a_check_that_is_run_by_itself_looks_too(nights: Nights) -> None:
    nights.run()
    delete_newest(live_log(nights.small.storage, "small"), vouched=True)
    config = changed(nights.small)
    (check,) = [one for one in build_checks(config) if {key.name for key in one.check_keys} == {"published_matches"}]
    job = dg.Definitions(
        asset_checks=[check],
        jobs=[dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(check))],
        resources={
            "batch_assets_root": StorageRoot(root=nights.small.storage.root),
            "batch_assets_nights": opened_nights,
        },
    ).resolve_job_def("by_hand")
    done = job.execute_in_process(instance=nights.instance, tags={"dagster/partition": DAY}, raise_on_error=False)
    assert not done.success
    assert "Entry 1 of small/serving/_current" in nights.faults(done.run_id)


def test_what_was_wiped_is_forgotten(nights: Nights) -> None:
    nights.run()
    delete_newest(live_log(nights.small.storage, "small"), vouched=True)
    nights.instance.wipe_assets([dg.AssetKey(["small", "serving_table"])])
    assert nights.instance.get_run_by_id(nights.run(NEXT)).is_success  # type: ignore[union-attr]


def test_a_root_that_was_made_anew_is_another_root(nights: Nights, tmp_path: Path) -> None:
    nights.run()
    models = tmp_path / "models"
    root = Path(nights.small.storage.root)
    (root / "models").rename(models)
    shutil.rmtree(root)
    root.mkdir()
    models.rename(root / "models")
    assert nights.instance.get_run_by_id(nights.run()).is_success  # type: ignore[union-attr]
