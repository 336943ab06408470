"""What a verdict is about, what an override lets pass and for how long, and what later days are compared with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NotFound, NotPublishable, OverrideInvalid
from batch_assets.nightly.accepted import accepted_run
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import Decision, Verdict, read_verdict, verdict_log
from batch_assets.operations.decide import look_again, override_day, verdict_of
from batch_assets.quality.outcome import CheckOutcome
from batch_assets_tests.small import Small, rows, small_model

Make = Callable[..., Small]

DAYS = [f"2024-03-{day:02}" for day in range(1, 32)]
GOOD = DAYS[:3]
FAULTY, NEXT, LATER, AFTER = DAYS[3:7]


def table(count: int = 2_000, seed: int = 0, **factors: float) -> pa.Table:
    """The same users on another day: each has changed a little, and some columns are in another unit."""
    found, random = rows(2_000).slice(0, count), np.random.default_rng(seed)
    for name in ("x", "y", "z"):
        moved = found[name].to_numpy() + random.normal(0, 0.1, count)
        values = pa.array((moved * factors.get(name, 1)).astype(np.float32))
        found = found.set_column(found.schema.get_field_index(name), name, values)
    return found


def frozen(small: Small, day: str, source: pa.Table | None = None, *, refresh: bool = False) -> Verdict:
    """The verdict on a day's features, of which the source has these rows."""
    if source is not None:
        small.replace_rows(source)
    return judge_features(
        small.config, small.storage, freeze(small.config, small.storage, day, small.progress, refresh=refresh), day
    )


def scored(small: Small, day: str, source: pa.Table | None = None, *, refresh: bool = False) -> Verdict:
    """The verdict on a day's run."""
    frozen(small, day, source, refresh=refresh)
    score(small.opened(day), LocalEngine(1), small.progress)
    return judge(small.opened(day))


def decide(small: Small, day: str, until: str | None = None) -> tuple[Decision, ...]:
    """Look, and override what blocks."""
    seen = look_again(small.config, small.storage, small.registry, day)
    return override_day(small.config, small.storage, small.registry, seen, by="Ann", why="a campaign", until=until)


def shown(small: Small, day: str) -> dict[str, Any]:
    """What `verdict` prints."""
    return verdict_of(small.config, small.storage, small.registry, day).as_mapping()


def names(verdict: Verdict) -> dict[str, list[str]]:
    """Which checks block, and on what."""
    return {one.name: [finding.subject or finding.kind for finding in one.blocking] for one in verdict.blocking}


@pytest.fixture
def good(small: Small) -> Small:
    """Three good days, published."""
    for number, day in enumerate(GOOD):
        small.replace_rows(table(seed=number))
        assert small.night(day).is_live
    return small


class TestTheDaysSnapshot:
    """A verdict is about the snapshot that a day uses now, and what was made of that."""

    def test_after_a_refresh_the_old_run_is_not_shown_as_good(self, good: Small) -> None:
        published = scored(good, FAULTY, table(seed=3))
        assert published.good
        frozen(good, FAULTY, table(seed=4, x=100), refresh=True)
        found = shown(good, FAULTY)
        assert (found["good"], found["subject"]) == (False, "features")
        assert "x is about 100 times" in found["error"]
        assert any("is accepted, was made of an earlier one" in note for note in found["notes"])

    def test_a_refreshed_snapshot_that_nobody_judged_is_not_judged(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=3))
        good.replace_rows(table(seed=4, x=100))
        freeze(good.config, good.storage, FAULTY, good.progress, refresh=True)
        with pytest.raises(NotFound, match=r"was not judged yet with the features that it uses now \(refreshed on"):
            shown(good, FAULTY)
        with pytest.raises(NotFound, match="was not judged yet"):
            decide(good, FAULTY)

    def test_a_refreshed_snapshot_that_is_good_says_that_it_is_not_scored(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=3))
        assert frozen(good, FAULTY, table(seed=4), refresh=True).good
        found = shown(good, FAULTY)
        assert (found["good"], found["subject"]) == (True, "features")
        assert found["notes"][0].startswith("The features were frozen again since the day was scored, and no run of these is")

    def test_a_finished_run_that_was_not_judged_is_not_good(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=3))
        score(good.opened(FAULTY), LocalEngine(1), good.progress)
        found = shown(good, FAULTY)
        assert not found["good"]
        assert "is finished, but was not judged yet" in found["error"]

    def test_another_version_that_was_approved_since_is_told_of(self, good: Small) -> None:
        run = scored(good, FAULTY, table(seed=3)).subject
        good.register("v2", small_model([1.05, -0.5, 0.25]))
        found = shown(good, FAULTY)
        assert found["subject"] == f"run {run} by small v1"
        assert found["notes"] == ["The version that is approved now has not scored these features yet."]

    def test_a_run_of_another_snapshot_is_not_another_versions_run(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=3))
        good.register("v2", small_model([1.05, -0.5, 0.25]))
        frozen(good, FAULTY, table(seed=4, x=100), refresh=True)
        assert shown(good, FAULTY)["subject"] == "features"

    def test_publishing_asks_for_it_too(self, small: Small) -> None:
        """The run was good when there was nothing to compare with; now there is."""
        assert scored(small, FAULTY, table(seed=9, x=100)).good
        for number, day in enumerate(GOOD):
            small.replace_rows(table(seed=number))
            small.night(day)
        with pytest.raises(NotPublishable, match="x is about 100 times"):
            publish(small.opened(FAULTY), small.progress)
        assert accepted_run(small.storage, "small", FAULTY, ()) is None


class TestFromARefreshToItsPublication:
    def test_the_whole_way(self, good: Small) -> None:
        """Published, made again in another unit, looked at, overridden, scored, overridden, published."""
        first = scored(good, FAULTY, table(seed=3)).subject
        live = publish(good.opened(FAULTY), good.progress).release.run_id
        assert live == first
        frozen(good, FAULTY, table(seed=4, x=100), refresh=True)
        with pytest.raises(NotFound, match="not scored by"):
            publish(good.opened(FAULTY), good.progress)

        passed = decide(good, FAULTY)
        assert {(check, finding.subject) for check, finding in passed} == {("changes", "x"), ("feature_drift", "x")}
        folder = freeze(good.config, good.storage, FAULTY, good.progress).folder
        entry = verdict_log(good.storage, folder).latest()
        assert entry is not None
        assert entry.why == "overridden by Ann: a campaign (changes x unit, feature_drift x moved)"
        assert shown(good, FAULTY)["good"]

        second = scored(good, FAULTY)
        assert set(names(second)) == {"drift"}, "scores are another decision"
        with pytest.raises(NotPublishable):
            publish(good.opened(FAULTY), good.progress)
        assert [(check, finding.kind) for check, finding in decide(good, FAULTY)] == [("drift", "drift")]
        accepted = accepted_run(good.storage, "small", FAULTY, ())
        assert accepted is not None
        assert accepted.run_id == second.subject != first
        published = good.night(FAULTY)
        assert (published.is_live, published.release.run_id) == (True, second.subject)
        assert {"changes", "feature_drift", "drift"} <= {one.name for one in published.warnings}

    def test_what_was_judged_again_since_it_was_shown_is_not_overridden(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100))
        seen = look_again(good.config, good.storage, good.registry, FAULTY)
        frozen(good, FAULTY, table(seed=4, x=100, y=100), refresh=True)
        with pytest.raises(OverrideInvalid, match="was judged again since its verdict was shown"):
            override_day(good.config, good.storage, good.registry, seen, by="Ann", why="x is in cents", until=None)
        assert names(frozen(good, FAULTY))["changes"] == ["x", "y"]

    def test_of_two_who_decide_on_the_same_verdict_one_is_told(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100))
        seen = look_again(good.config, good.storage, good.registry, FAULTY)
        assert override_day(good.config, good.storage, good.registry, seen, by="Ann", why="a campaign")
        with pytest.raises(OverrideInvalid, match="was judged again since"):
            override_day(good.config, good.storage, good.registry, seen, by="Bob", why="no idea")


class TestWhatWasOverridden:
    """It is no yardstick, finding by finding."""

    def test_the_same_fault_blocks_again(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=4, x=100))
        decide(good, FAULTY)
        assert accepted_run(good.storage, "small", FAULTY, ()) is not None
        assert scored(good, NEXT, table(seed=5)).good
        found = names(scored(good, LATER, table(seed=6, x=100)))
        assert found == {"changes": ["x"], "feature_drift": ["x"], "drift": ["drift"]}

    def test_its_other_columns_are_compared_with(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100, y=1.4))
        decide(good, FAULTY)
        later = frozen(good, NEXT, table(seed=5, y=1.9))
        assert later.good, "y ages, and is compared with what it was yesterday"
        assert later.compared_with[-1].endswith(" without x")

    def test_rows_that_were_few_are_not_what_is_usual(self, good: Small) -> None:
        for number, day in enumerate((FAULTY, NEXT, LATER, AFTER)):
            verdict = frozen(good, day, table(1_000, seed=20 + number))
            assert names(verdict) == {"changes": ["fewer_rows"]}
            decide(good, day)
        assert "the usual 2,000" in frozen(good, DAYS[8], table(1_000, seed=30)).outcome("changes").message

    def test_a_day_that_was_the_same_again_is_no_yardstick_at_all(self, make_small: Make) -> None:
        small = make_small(quality={"changes": {"allow_unchanged": False}})
        small.config = _strict(small)
        frozen(small, GOOD[0], table(seed=1))
        assert names(frozen(small, FAULTY, table(seed=1))) == {"sources": ["unchanged"]}
        decide(small, FAULTY)
        assert [one[:10] for one in frozen(small, NEXT, table(seed=2)).compared_with] == [GOOD[0]]

    def test_a_column_is_compared_with_older_days_instead(self, make_small: Make) -> None:
        """As many days as are compared with were overridden; the fault does not become what is usual."""
        small = make_small(quality={"changes": {"compare_days": 2}})
        for number, day in enumerate(GOOD):
            frozen(small, day, table(seed=number))
        for number, day in enumerate((FAULTY, NEXT, LATER)):
            assert names(frozen(small, day, table(seed=10 + number, x=100)))["changes"] == ["x"]
            decide(small, day)
        assert names(frozen(small, AFTER, table(seed=20, x=100)))["changes"] == ["x"]

    def test_a_column_without_any_day_left_says_so(self, small: Small) -> None:
        frozen(small, "2024-02-20", table(seed=0))
        for number, day in enumerate(("2024-03-10", "2024-03-11")):
            frozen(small, day, table(seed=10 + number, x=100))
            decide(small, day)
        verdict = frozen(small, "2024-03-25", table(seed=20, x=100))
        changes = verdict.outcome("changes")
        assert (verdict.good, changes.passed, changes.severity) == (True, False, "warn")
        assert "x is compared with no day: it was overridden on every one" in changes.message

    def test_a_number_of_rows_without_any_day_left_says_so(self, make_small: Make) -> None:
        small = make_small(quality={"drift": {"trailing_days": 2}})
        for number, day in enumerate(GOOD):
            frozen(small, day, table(seed=number))
        for number, day in enumerate((FAULTY, NEXT)):
            assert names(frozen(small, day, table(1_000, seed=10 + number))) == {"changes": ["fewer_rows"]}
            decide(small, day)
        changes = frozen(small, LATER, table(1_000, seed=20)).outcome("changes")
        assert (changes.passed, changes.severity) == (False, "warn")
        assert "the number of rows is compared with no day: it was overridden on every one" in changes.message

    def test_scores_without_any_day_left_say_so(self, make_small: Make) -> None:
        small = make_small(quality={"drift": {"trailing_days": 2}})
        for number, day in enumerate(GOOD):
            scored(small, day, table(seed=number))
        assert "drift" in names(scored(small, FAULTY, table(seed=10, x=100)))
        decide(small, FAULTY, until=NEXT)
        assert scored(small, NEXT, table(seed=11, x=100)).good
        drift = scored(small, LATER, table(seed=12, x=100)).outcome("drift")
        assert (drift.passed, drift.severity) == (False, "warn")
        assert drift.message.startswith("not_compared: what was found on each accepted day of the 2 days before")

    def test_scores_that_were_overridden_are_not_compared_with(self, good: Small) -> None:
        """Another version scores otherwise; what somebody let pass once is not what is usual from then on."""
        good.register("v2", small_model([5.0, -2.0, 1.0]))
        assert names(scored(good, FAULTY, table(seed=4))) == {"previous_model": ["previous_model"]}
        decide(good, FAULTY)
        assert accepted_run(good.storage, "small", FAULTY, ()) is not None
        later = scored(good, NEXT, table(seed=5))
        assert names(later) == {"previous_model": ["previous_model"]}
        assert "not_compared" in later.outcome("drift").message

    def test_an_override_that_is_taken_back_by_a_good_snapshot_makes_a_yardstick_again(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=4, x=100))
        decide(good, FAULTY)
        assert scored(good, FAULTY, table(seed=4), refresh=True).good
        accepted = accepted_run(good.storage, "small", FAULTY, ())
        assert accepted is not None
        assert accepted.is_yardstick
        assert accepted.run_id in scored(good, NEXT, table(seed=5)).compared_with


class TestUntil:
    """An override for a range of days."""

    def test_the_same_finding_passes_until_then_and_blocks_after_it(self, good: Small) -> None:
        scored(good, FAULTY, table(seed=4, x=100))
        decide(good, FAULTY, until=LATER)
        for number, day in enumerate((NEXT, LATER)):
            verdict = scored(good, day, table(seed=5 + number, x=120))
            assert verdict.good
            changes = verdict.outcome("changes")
            assert changes.override is not None
            assert (changes.override.day, changes.override.until) == (FAULTY, LATER)
            assert f"Overridden for {FAULTY} until {LATER} by Ann" in changes.explained()
            assert publish(good.opened(day), good.progress).is_live
        assert names(scored(good, AFTER, table(seed=7, x=100))) == {
            "changes": ["x"],
            "feature_drift": ["x"],
            "drift": ["drift"],
        }

    def test_another_column_and_another_kind_block(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100))
        decide(good, FAULTY, until=LATER)
        assert names(frozen(good, NEXT, table(seed=5, x=100, y=100))) == {"changes": ["y"], "feature_drift": ["y"]}
        filled = table(seed=6)
        filled = filled.set_column(filled.schema.get_field_index("x"), "x", pa.array(np.full(2_000, 7.0, np.float32)))
        assert names(frozen(good, LATER, filled))["changes"] == ["x"], "x is filled, which is not another unit"

    def test_it_does_not_pass_on_from_day_to_day(self, good: Small) -> None:
        """The day on which it was decided was corrected: nobody has decided anything about the days after it."""
        frozen(good, FAULTY, table(seed=4, x=100))
        decide(good, FAULTY, until=LATER)
        assert frozen(good, NEXT, table(seed=5, x=100)).good
        assert frozen(good, FAULTY, table(seed=4), refresh=True).good
        assert not frozen(good, LATER, table(seed=6, x=100)).good
        assert not frozen(good, NEXT).good

    def test_it_holds_for_a_day_that_was_blocked_before_it_was_given(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100))
        assert not frozen(good, NEXT, table(seed=5, x=100)).good
        decide(good, FAULTY, until=NEXT)
        assert frozen(good, NEXT).good

    def test_it_ends_before_there_is_nothing_left_to_compare_with(self, good: Small) -> None:
        frozen(good, FAULTY, table(seed=4, x=100))
        with pytest.raises(OverrideInvalid, match="can hold until 2024-04-01, not until 2024-04-02"):
            decide(good, FAULTY, until="2024-04-02")
        with pytest.raises(OverrideInvalid, match="not until 2024-03-03"):
            decide(good, FAULTY, until=GOOD[-1])
        with pytest.raises(OverrideInvalid, match="is not a day"):
            decide(good, FAULTY, until="next week")
        assert not frozen(good, FAULTY).good


class TestKept:
    """A verdict is kept as long as its subject would be compared with the same."""

    def test_in_the_same_world_nothing_is_judged_again(self, good: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        first = scored(good, FAULTY, table(seed=3))
        log = verdict_log(good.storage, good.opened(FAULTY).folder)

        def never(*_: object, **__: object) -> CheckOutcome:
            raise AssertionError("it is judged again")

        for name in ("judge_features.judge_profile", "judge.judge_drift"):
            monkeypatch.setattr(f"batch_assets.nightly.{name}", never)
        assert judge(good.opened(FAULTY)) == first
        assert log.numbers() == [1]

    def test_days_that_came_since_are_compared_with(self, small: Small) -> None:
        first = frozen(small, FAULTY, table(seed=3))
        assert "not_compared" in first.outcome("changes").message
        for number, day in enumerate(GOOD):
            frozen(small, day, table(seed=10 + number))
        second = frozen(small, FAULTY)
        assert "not_compared" not in second.outcome("changes").message
        assert [one[:10] for one in second.compared_with] == GOOD
        assert second.outcome("changes").judged > first.outcome("changes").judged

    def test_a_day_that_was_made_again_is_compared_with_as_it_is_now(self, good: Small) -> None:
        before = frozen(good, FAULTY, table(seed=3))
        frozen(good, GOOD[1], table(seed=30), refresh=True)
        after = frozen(good, FAULTY)
        assert before.compared_with != after.compared_with

    def test_an_override_elsewhere_is_a_reason_to_judge_again(self, make_small: Make) -> None:
        """x was blocked on an earlier day after this one had been judged without it."""
        small = make_small()
        frozen(small, GOOD[0], table(seed=1))
        frozen(small, GOOD[1], table(seed=2, x=100))
        assert [one[:10] for one in frozen(small, GOOD[2], table(seed=3)).compared_with] == [GOOD[0]]
        decide(small, GOOD[1])
        assert [one[:10] for one in frozen(small, GOOD[2]).compared_with] == GOOD[:2]

    def test_a_run_is_judged_again_beside_other_runs(self, small: Small) -> None:
        first = scored(small, FAULTY, table(seed=3))
        assert "not_compared" in first.outcome("drift").message
        run = scored(small, GOOD[0], table(seed=4)).subject
        assert shown(small, FAULTY)["notes"] == ["It would be compared with something else now: the next `run` judges it anew."]
        assert scored(small, FAULTY).compared_with == (run,)
        assert shown(small, FAULTY)["notes"] == []

    def test_it_says_when_it_was_judged(self, good: Small) -> None:
        outcome = frozen(good, FAULTY, table(seed=3)).outcome("changes")
        assert outcome.explained(outcome.judged) == outcome.message
        later = outcome.explained("9999-01-01T00:00:00.000+00:00")
        assert later == f"{outcome.message} (Judged {outcome.judged[:10]} {outcome.judged[11:16]} UTC, not now.)"


def _strict(small: Small) -> Any:
    """The pipeline's config, where the same features again are a finding."""
    changes = small.config.quality.changes.model_copy(update={"allow_unchanged": False})
    quality = small.config.quality.model_copy(update={"changes": changes})
    return small.config.model_copy(update={"quality": quality})


def test_a_failed_check_without_findings_has_one_about_everything() -> None:
    outcome = CheckOutcome(name="scores", asset="predictions", passed=False, severity="error", message="They are all 1.")
    assert [(one.subject, one.kind, one.message, one.blocks) for one in outcome.findings] == [
        ("", "scores", "They are all 1.", True)
    ]
    assert CheckOutcome(name="scores", asset="predictions", passed=True, severity="error", message="Fine.").findings == ()


@pytest.mark.long
def test_a_verdict_that_somebody_wrote_in_between_is_looked_at(good: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """An override that comes while the same subject is judged stays."""
    frozen(good, FAULTY, table(seed=4, x=100))
    folder = freeze(good.config, good.storage, FAULTY, good.progress).folder
    frozen(good, GOOD[0], table(seed=50), refresh=True)  # so that it is judged anew, and written
    create = type(good.storage).create

    def late(storage: Any, path: str, data: bytes) -> None:
        if folder in path:
            monkeypatch.undo()
            latest = verdict_log(good.storage, folder).latest()
            assert latest is not None
            verdict_log(good.storage, folder).append(latest.body, after=latest.number, why="somebody else")
        create(storage, path, data)

    monkeypatch.setattr(type(good.storage), "create", late)
    assert not frozen(good, FAULTY).good
    assert verdict_log(good.storage, folder).numbers() == [1, 2, 3]
    assert read_verdict(good.storage, folder) is not None
