"""What Dagster shows of a day that is run again: what was not judged or scored now says so, with its time."""

import re
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.summary import summarize
from batch_assets.orchestration.alerting import of_failure
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.small import DAY, Small, rows

pytestmark = pytest.mark.process

BEFORE = "2024-03-09"
NOT_NOW = re.compile(r".* \(Judged \d{4}-\d\d-\d\d \d\d:\d\d UTC, not now\.\)")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def checks(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """What the checks of a run say."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    found = [record.event_log_entry.asset_check_evaluation for record in records]
    return {one.check_name: str(one.metadata["message"].value) for one in found if one}


def materialized(instance: dg.DagsterInstance, asset: str) -> dict[str, Any]:
    """The metadata of an asset's newest materialization."""
    event = instance.get_latest_materialization_event(dg.AssetKey(["small", asset]))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def kept(messages: dict[str, str]) -> set[str]:
    return {name for name, message in messages.items() if NOT_NOW.fullmatch(message)}


def test_a_day_that_is_run_again(small: Small, instance: dg.DagsterInstance) -> None:
    location = repository(small)
    first = checks(instance, run(location, instance, DAY))
    shown = materialized(instance, "predictions")
    assert kept(first) == set()
    assert shown["rows_per_s"] > 0
    assert (shown["judged"], materialized(instance, "user_features")["judged"]) == ("now", "now")

    second = checks(instance, run(location, instance, DAY))
    assert kept(second) == set(first) - {"published_matches"}, "the release is read back every time"
    assert {name: message.partition(" (Judged")[0] for name, message in second.items()} == first
    again = materialized(instance, "predictions")
    assert again["rows_per_s"] == "nothing was computed now"
    for name in ("seconds_per_stage", "workers_time", "what_limits_it"):
        assert re.search(r", when the run was finished, \d{4}-\d\d-\d\dT\d\d:\d\d UTC", again[name]), name
    for asset in ("user_features", "predictions"):
        assert materialized(instance, asset)["judged"].endswith("UTC, and kept: it would be compared with the same now")

    third = checks(instance, run(location, instance, DAY, "user_features"))
    assert kept(third) == set(third) > set()


@pytest.mark.long
def test_a_day_that_is_compared_with_others_now_is_judged_now(small: Small, instance: dg.DagsterInstance) -> None:
    location = repository(small)
    assert "not_compared" in checks(instance, run(location, instance, DAY))["changes"]
    run(location, instance, BEFORE)
    again = checks(instance, run(location, instance, DAY))
    assert kept(again) == set()
    assert "not_compared" not in again["changes"] + again["drift"]


def test_the_command_lines_summary_says_it_too(small: Small) -> None:
    small.night()
    night = small.opened(DAY)
    judged = [check["judged"] for check in summarize(night, published_matches(night), "")["checks"]]
    later = summarize(night, published_matches(night), "9999")
    assert all(judged[:-1])
    assert kept({check["name"]: check["message"] for check in later["checks"]}) == {
        check["name"] for check in later["checks"] if check["name"] != "published_matches"
    }


def test_an_alert_of_a_day_that_is_blocked_again_says_since_when(small: Small, instance: dg.DagsterInstance) -> None:
    location = repository(small)
    run(location, instance, BEFORE)
    small.replace_rows(rows(1_000))
    for pattern in (r"the check changes: 1,000 rows are 50% fewer[^(]*\. \(Dagster run", r"1,000 rows .* UTC, not now\.\)"):
        failed = instance.get_run_by_id(run(location, instance, DAY))
        assert failed is not None
        alert = of_failure(small.config, instance, failed, "")
        assert alert is not None
        assert alert.kind == "blocked"
        assert re.search(pattern, alert.message), alert.message
