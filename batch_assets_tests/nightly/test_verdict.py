"""Verdicts as they are recorded, read and overridden: a small pipeline of real files, without Dagster."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NotFound, NotPublishable, OverrideInvalid
from batch_assets.nightly import shift
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.nightly.shift import between_runs
from batch_assets.nightly.verdict import Decision, Verdict, override, read_verdict, recorded_verdict, verdict_log
from batch_assets.operations.decide import look_again, override_day, verdict_of
from batch_assets.operations.explain import explain
from batch_assets.operations.rollout import approve
from batch_assets.quality.model_shift import Shift
from batch_assets_tests.small import DAY, Small, rows, small_model, with_values

Make = Callable[..., Small]
Passed = tuple[Decision, ...]

BEFORE, AFTER = "2024-03-09", "2024-03-11"


def judged(small: Small, day: str = DAY) -> Verdict:
    freeze(small.config, small.storage, day, small.progress)
    score(small.opened(day), LocalEngine(1), small.progress)
    return judge(small.opened(day))


def shifted(by: float) -> pa.Table:
    table = rows(2_000)
    return table.set_column(1, "x", pa.array(table["x"].to_numpy() + np.float32(by)))


def shown(small: Small, day: str = DAY) -> dict[str, Any]:
    """What `verdict` prints."""
    return verdict_of(small.config, small.storage, small.registry, day).as_mapping()


def decide(small: Small, day: str = DAY, why: str = "a campaign began", by: str = "Ann", until: str | None = None) -> Passed:
    """Look at a day's verdict, and override what blocks."""
    seen = look_again(small.config, small.storage, small.registry, day)
    return override_day(small.config, small.storage, small.registry, seen, by=by, why=why, until=until)


@pytest.fixture
def blocked(small: Small) -> Small:
    """A day after a good one; its features and its scores moved."""
    small.night(BEFORE)
    small.replace_rows(shifted(2))
    assert not judged(small).good
    return small


class TestReading:
    def test_a_verdict_says_what_was_observed_allowed_and_compared_with(self, small: Small) -> None:
        run = small.night(BEFORE).release.run_id
        judged(small)
        found = shown(small)
        assert (found["good"], found["compared_with"], "error" in found) == (True, [run], False)
        assert found["subject"].startswith("run ")
        complete = next(check for check in found["checks"] if check["name"] == "complete")
        assert (complete["observed"], complete["threshold"], complete["passed"]) == (1.0, 0.99, True)

    def test_what_blocks_is_its_error(self, blocked: Small) -> None:
        found = shown(blocked)
        assert not found["good"]
        assert found["error"].startswith(f"small {DAY} is blocked by feature_drift: x is PSI ")
        assert "drift: PSI" in found["error"]

    def test_before_a_run_is_finished_it_is_that_of_the_features(self, small: Small) -> None:
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        with pytest.raises(NotFound, match="was not judged yet"):
            verdict_of(small.config, small.storage, small.registry, DAY)
        judge_features(small.config, small.storage, frozen, DAY)
        assert shown(small)["subject"] == "features"

    def test_the_features_say_which_snapshots_they_were_compared_with(self, small: Small) -> None:
        digests = [small.night(day).release.name and _digest(small, day) for day in ("2024-02-01", "2024-03-08", BEFORE)]
        small.night(AFTER)
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        verdict = judge_features(small.config, small.storage, frozen, DAY)
        assert verdict.compared_with == (f"2024-03-08 {digests[1][:16]}", f"{BEFORE} {digests[2][:16]}")

    def test_features_that_block_are_not_compared_with(self, blocked: Small) -> None:
        frozen = freeze(blocked.config, blocked.storage, AFTER, blocked.progress)
        verdict = judge_features(blocked.config, blocked.storage, frozen, AFTER)
        assert [one[:10] for one in verdict.compared_with] == [BEFORE]


class TestOverriding:
    def test_what_is_overridden_is_accepted_and_published(self, blocked: Small) -> None:
        with pytest.raises(NotPublishable):
            publish(Night.open(blocked.config, blocked.storage, DAY, blocked.model), blocked.progress)
        decide(blocked)
        accepted = accepted_run(blocked.storage, "small", DAY, ())
        assert accepted is not None
        published = publish(Night.open(blocked.config, blocked.storage, DAY, blocked.model), blocked.progress)
        assert published.is_live
        assert {"drift", "feature_drift"} <= {warning.name for warning in published.warnings}

    def test_it_is_audited_and_shows_in_explain(self, blocked: Small) -> None:
        decide(blocked)
        publish(Night.open(blocked.config, blocked.storage, DAY, blocked.model), blocked.progress)
        found = explain(blocked.config, blocked.storage, blocked.registry, "42").as_mapping()
        drift = next(check for check in found["checks"] if check["name"] == "drift")
        assert (drift["passed"], drift["override"]["by"], drift["override"]["why"]) == (False, "Ann", "a campaign began")
        assert "Overridden by Ann on 20" in drift["message"]
        folder = f"small/predictions/date={DAY}/run={found['run_id']}"
        log = verdict_log(blocked.storage, folder)
        assert "overridden by Ann: a campaign began (drift)" in [log.entry(number).why for number in log.numbers()]

    def test_the_next_run_of_the_day_finds_it_overridden(self, blocked: Small) -> None:
        decide(blocked)
        published = blocked.night()
        assert published.is_live

    def test_a_finding_that_says_something_else_blocks_again(self, blocked: Small) -> None:
        """The day before is gone from what is compared with, and another one has come."""
        decide(blocked)
        blocked.replace_rows(shifted(-2))
        earlier = Small.night(blocked, "2024-03-05")
        assert earlier
        verdict = judge(Night.open(blocked.config, blocked.storage, DAY, blocked.model))
        assert verdict.outcome("drift").blocks
        assert verdict.outcome("drift").override is None
        assert accepted_run(blocked.storage, "small", DAY, ()) is None

    def test_what_nobody_has_seen_yet_is_not_overridden(self, blocked: Small) -> None:
        """Since the verdict was written another day has come, and the day is blocked by something else now."""
        blocked.replace_rows(shifted(-2))
        assert blocked.night("2024-03-05")
        with pytest.raises(OverrideInvalid, match="blocked by something else than before"):
            decide(blocked)
        decide(blocked, why="seen now")

    def test_features_can_be_overridden_before_they_are_scored(self, small: Small) -> None:
        small.night(BEFORE)
        small.replace_rows(rows(1_000))
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        assert not judge_features(small.config, small.storage, frozen, DAY).good
        decide(small)
        assert judge_features(small.config, small.storage, frozen, DAY).good
        assert small.night().is_live

    @pytest.mark.parametrize(("by", "why", "finding"), [("Ann", " ", "needs a reason"), ("", "so", "needs the name")])
    def test_it_needs_a_reason_and_a_name(self, blocked: Small, by: str, why: str, finding: str) -> None:
        with pytest.raises(OverrideInvalid, match=finding):
            decide(blocked, why=why, by=by)

    def test_there_must_be_something_to_override(self, small: Small) -> None:
        judged(small)
        with pytest.raises(OverrideInvalid, match="Nothing blocks"):
            decide(small)

    def test_a_verdict_that_comes_in_between_wins(self, blocked: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever overrides has decided on the verdict that they saw."""
        folder = freeze(blocked.config, blocked.storage, DAY, blocked.progress).folder
        seen = recorded_verdict(blocked.storage, folder)
        assert seen is not None
        log, verdict = verdict_log(blocked.storage, folder), seen.verdict
        create = blocked.storage.create

        def late(path: str, data: bytes) -> None:
            monkeypatch.undo()
            log.append(verdict, after=1, why="blocked")
            create(path, data)

        monkeypatch.setattr(type(blocked.storage), "create", lambda _, path, data: late(path, data))
        with pytest.raises(OverrideInvalid, match="was judged again since its verdict was shown"):
            override(blocked.storage, seen, "user_features", by="Ann", why="so", until=DAY)
        now = read_verdict(blocked.storage, folder)
        assert now is not None
        assert not now.good


class TestAnotherModel:
    """v1 scored the day; then another version is approved."""

    def rolled_out(self, small: Small, weights: list[float], *, told: bool) -> Verdict:
        small.night()
        model = small_model(weights)
        small.registry.register("small", "v2", small.card(model), model)
        if told:
            approve([small.config], small.storage, small.registry, "small", "batch", "v2", why="better", by="Ann")
        else:
            small.registry.approve("small", "batch", "v2", why="better", by="Ann")
        return judged(small)

    def test_that_scores_alike_passes(self, small: Small) -> None:
        verdict = self.rolled_out(small, [1.05, -0.5, 0.25], told=False)
        assert verdict.good
        assert "against v1 on 2024-03-10" in verdict.outcome("previous_model").message

    def test_that_has_the_signs_wrong_blocks_although_its_scores_are_spread_alike(self, small: Small) -> None:
        verdict = self.rolled_out(small, [-1.0, 0.5, -0.25], told=False)
        outcome = verdict.outcome("previous_model")
        assert outcome.blocks
        assert "rank correlation -1.0000" in outcome.message

    def test_that_moves_scores_as_its_approver_was_told_passes(self, small: Small) -> None:
        assert self.rolled_out(small, [-1.0, 0.5, -0.25], told=True).good

    def test_that_is_judged_twice_is_compared_with_the_same_run(self, small: Small) -> None:
        first = self.rolled_out(small, [1.05, -0.5, 0.25], told=False)
        assert judge(small.opened(DAY)) == first


class TestBetweenRuns:
    """Two days of the same users; on the second, features moved a little, or belong to others."""

    def between(self, small: Small, table: pa.Table) -> Shift:
        small.night(BEFORE)
        small.replace_rows(table)
        judged(small)
        before, after = (small.opened(day).manifest() for day in (BEFORE, DAY))
        found = between_runs(small.storage, before, after, ["user"])
        assert found is not None
        return found.shift

    @pytest.mark.parametrize("at_most", [1 << 20, 600])
    @pytest.mark.parametrize("key_type", [pa.int64(), pa.string()])
    def test_ranks_are_of_the_same_keys(
        self, make_small: Make, monkeypatch: pytest.MonkeyPatch, at_most: int, key_type: pa.DataType
    ) -> None:
        monkeypatch.setattr(shift, "_ROWS", at_most)
        table = rows(2_000, key_type=key_type)
        small = make_small(table)
        found = self.between(small, with_values(table, "x", {7: 9.0, 1_000: -9.0}))
        assert found.rank_correlation > 0.95
        assert found.rows == 2_000 if at_most > 2_000 else 256 <= found.rows <= 768

    @pytest.mark.parametrize("at_most", [1 << 20, 600])
    def test_other_users_features_do_not_rank_alike(
        self, make_small: Make, monkeypatch: pytest.MonkeyPatch, at_most: int
    ) -> None:
        monkeypatch.setattr(shift, "_ROWS", at_most)
        small = make_small(rows(2_000))
        assert abs(self.between(small, rows(2_000, seed=5)).rank_correlation) < 0.2

    def test_users_that_are_new_are_left_out(self, make_small: Make) -> None:
        small = make_small(rows(2_000))
        assert self.between(small, rows(2_000).slice(500)).rows == 1_500

    def test_rows_that_were_not_scored_are_left_out(self, make_small: Make) -> None:
        small = make_small(rows(2_000))
        assert self.between(small, with_values(rows(2_000), "x", dict.fromkeys(range(5), np.nan))).rows == 1_995


def _digest(small: Small, day: str) -> str:
    return freeze(small.config, small.storage, day, small.progress).snapshot.digest
