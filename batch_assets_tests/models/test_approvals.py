"""The audit trail of an alias: who approved what, when and why; two cannot both win; a roll-back withdraws."""

import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batch_assets.errors import ApprovalInvalid, InUse, LostRace, NoSuchModel, Retired, VersionExists, Withdrawn
from batch_assets.models.registry import ModelSettings
from batch_assets.operations.rollout import retire
from batch_assets_tests.approving import approve_some
from batch_assets_tests.small import Small, small_model

SETTINGS = ModelSettings(name="small")


@pytest.fixture
def two(small: Small) -> Small:
    """v1 and v2, of which v2 is not approved yet."""
    model = small_model((3.0, 2.0, 1.0))
    card = small.model.card.model_copy(update={"model_sha256": small.sha256(model)})
    small.registry.register("small", "v2", card, model)
    return small


def approve(small: Small, version: str, **more: Any) -> int:
    return small.registry.approve("small", "batch", version, **{"why": "because", "by": "Ann", **more}).number


def test_an_approval_says_who_when_and_why(two: Small) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    number = approve(two, "v2", why="better on the test days", by="Ann")
    approval = two.registry.approvals("small", "batch").number(number)
    assert (approval.version, approval.by, approval.why) == ("v2", "Ann", "better on the test days")
    assert before < datetime.fromisoformat(approval.when) < datetime.now(UTC) + timedelta(seconds=1)
    assert approval.digest == two.registry.version("small", "v2").digest


@pytest.mark.parametrize(("missing", "message"), [({"why": " "}, "a reason"), ({"by": ""}, "name of who gives it")])
def test_an_approval_without_a_reason_or_a_name_is_none(two: Small, missing: dict[str, str], message: str) -> None:
    with pytest.raises(ApprovalInvalid, match=message):
        approve(two, "v2", **missing)
    assert two.model.version == "v1"


def test_each_alias_is_an_approval_of_its_own(two: Small) -> None:
    two.registry.approve("small", "realtime", "v2", why="latency", by="Ann")
    assert two.model.version == "v1"
    assert two.registry.resolve(ModelSettings(name="small", alias="realtime")).version == "v2"


def test_whoever_decided_on_another_approval_is_told_who_was_first(two: Small) -> None:
    approve(two, "v2", by="Bob", why="mine", after=1)
    with pytest.raises(LostRace, match=r"approval 2 for batch went to v2 by Bob in the same moment \(mine\)"):
        approve(two, "v1", after=1)


def test_fifty_approvals_of_eight_processes_are_as_many_entries_as_successes(two: Small) -> None:
    before = len(two.registry.approvals("small", "batch").history())
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    shares = [7, 7, 6, 6, 6, 6, 6, 6]
    processes = [
        context.Process(target=approve_some, args=(two.storage.root, which, times, answers))
        for which, times in enumerate(shares)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    won, lost = [n for some, _ in found for n in some], [line for _, some in found for line in some]
    history = two.registry.approvals("small", "batch").history()[before:]
    assert len(won) + len(lost) == 50
    assert sorted(won) == [approval.number for approval in history]
    assert all("went to v" in line and " by process " in line for line in lost)
    assert two.model.approval == max(won)


class TestRollBack:
    def test_it_withdraws_what_was_approved_since(self, two: Small) -> None:
        approve(two, "v2")
        assert approve(two, "v1", why="worse for new customers", by="Bob") == 3
        approvals = two.registry.approvals("small", "batch")
        assert approvals.withdrawn() == {2}
        with pytest.raises(Withdrawn, match=r"Approval 2 of small v2 .* was withdrawn: Bob went back to v1 .*new customers"):
            two.registry.resolve(SETTINGS, approval=2)
        assert two.registry.resolve(SETTINGS, approval=1).version == "v1", "what it goes back to is in force"

    def test_approving_it_again_later_is_a_new_approval(self, two: Small) -> None:
        for version in ("v2", "v1", "v2"):
            approve(two, version)
        assert (two.model.version, two.model.approval) == ("v2", 4)
        assert two.registry.approvals("small", "batch").withdrawn() == {2, 3}

    def test_a_version_that_was_never_approved_withdraws_nothing(self, two: Small) -> None:
        approve(two, "v2")
        assert two.registry.approvals("small", "batch").withdrawn() == frozenset()


def test_which_approval_was_in_force_at_a_moment(two: Small) -> None:
    approvals = two.registry.approvals("small", "batch")
    first = datetime.fromisoformat(approvals.number(1).when)
    approve(two, "v2")
    assert approvals.as_of(first).number == 1
    assert approvals.as_of(datetime.now(UTC) + timedelta(days=1)).number == 2
    with pytest.raises(NoSuchModel, match="approved for batch yet at"):
        approvals.as_of(first - timedelta(seconds=1))


class TestRetire:
    def test_a_version_in_use_is_not_retired(self, two: Small) -> None:
        with pytest.raises(InUse, match="the alias batch names it"):
            two.registry.retire("small", "v1", why="old", by="Ann")

    def test_nor_one_that_scored_what_is_live(self, two: Small) -> None:
        two.night()
        approve(two, "v2")
        with pytest.raises(InUse, match="was scored by it"):
            retire(["small"], two.storage, two.registry, "small", "v1", why="old", by="Ann", delete=True)
        assert two.registry.version("small", "v1")

    def test_it_cannot_be_approved_any_more(self, two: Small) -> None:
        two.registry.retire("small", "v2", why="leaks the label", by="Ann")
        with pytest.raises(Retired, match=r"retired by Ann \(leaks the label\)"):
            approve(two, "v2")

    def test_its_program_goes_and_its_card_stays(self, two: Small, model_bytes: bytes) -> None:
        card = two.registry.card("small", "v2")
        two.registry.retire("small", "v2", why="leaks the label", by="Ann", delete=True)
        with pytest.raises(NoSuchModel, match="deleted by Ann: leaks the label"):
            two.registry.version("small", "v2")
        assert two.registry.card("small", "v2") == card
        other = card.model_copy(update={"model_sha256": two.sha256(model_bytes)})
        with pytest.raises((VersionExists, NoSuchModel)):
            two.registry.register("small", "v2", other, model_bytes)


def test_a_file_that_was_changed_is_found_by_hashing_everything(two: Small) -> None:
    assert [two.registry.fault("small", version) for version in ("v1", "v2")] == ["", ""]
    path = two.storage.local_path("models/small/v2/model.pt2")
    path.write_bytes(path.read_bytes() + b"x")
    assert "the file was changed" in two.registry.fault("small", "v2")


def test_a_registration_that_was_cut_short_is_no_version_and_can_be_finished(
    make_small: Callable[..., Small], model_bytes: bytes
) -> None:
    small = make_small()
    card = small.model.card
    small.storage.create("models/small/v5/model.pt2", model_bytes)
    assert small.registry.versions("small") == ["v1"]
    small.registry.register("small", "v5", card, model_bytes)
    assert small.registry.versions("small") == ["v1", "v5"]
