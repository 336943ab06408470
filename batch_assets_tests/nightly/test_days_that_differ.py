"""Days that truly differ are published: weekends, and the first days of a pipeline. What is wrong on them is still found."""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.demo import train as training
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import Verdict
from batch_assets.operations.preflight import preflight
from batch_assets.orchestration.catalog import pipeline
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet, Small

Make = Callable[..., Small]

USERS = 6_000
MONDAY = date(2024, 1, 1)
NEW = {"quality": {"min_days": 7, "changes": {"allow_unchanged": False}}, "scoring": {"chunk_rows": USERS, "batch_size": 64}}
"""As strict as a pipeline is where nobody says otherwise."""


def days(count: int) -> list[date]:
    """So many days from a Monday on."""
    return [MONDAY + timedelta(days=number) for number in range(count)]


def users(day: date, *, weekend: bool | None = None, rows: int = USERS, times: float = 1) -> pa.Table:
    """Steady users; x, which is as high as they are, is a standard deviation higher at weekends."""
    steady, today = np.random.default_rng(1), np.random.default_rng(day.toordinal())
    weekend = day.weekday() >= 5 if weekend is None else weekend
    x, y, z = (steady.standard_normal(rows) + today.normal(0, 0.1, rows) for _ in range(3))
    columns = {"x": (x + weekend) * times, "y": y, "z": z}
    return pa.table({"user": np.arange(1, rows + 1), **{name: one.astype(np.float32) for name, one in columns.items()}})


def judged(small: Small, day: date, table: pa.Table) -> Verdict:
    """A day with such rows, up to its verdict."""
    small.replace_rows(table)
    freeze(small.config, small.storage, day.isoformat(), small.progress)
    score(Night.open(small.config, small.storage, day.isoformat(), small.model), LocalEngine(1), small.progress)
    return judge(Night.open(small.config, small.storage, day.isoformat(), small.model))


def said(verdict: Verdict) -> dict[str, str]:
    """What checks found that do not pass, but for the model card's baseline and the freshness of rows without dates."""
    aside = ("baseline", "feature_baseline", "sources")
    return {one.name: one.message for one in verdict.outcomes if not one.passed and one.name not in aside}


@pytest.fixture(scope="module")
def four_weeks(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> tuple[Path, list[Verdict]]:
    """Four weeks and two days of steady users: their storage root, and the verdicts."""
    small = Small(tmp_path_factory.mktemp("weekends"), users(MONDAY), model_bytes, **NEW)
    return Path(small.storage.location), [judged(small, day, users(day)) for day in days(30)]


class TestWeekends:
    """Every test goes on with a copy of the four weeks."""

    @pytest.fixture
    def small(self, four_weeks: tuple[Path, list[Verdict]], tmp_path: Path, model_bytes: bytes) -> Small:
        shutil.copytree(four_weeks[0], tmp_path / "before")
        (tmp_path / "small").mkdir()
        small = Small(tmp_path / "small", users(MONDAY), model_bytes, **NEW)
        small.storage = LocalStorage(str(tmp_path / "before"))
        small.registry = Registry(small.storage)
        return small

    @pytest.mark.long
    def test_all_of_them_are_good(self, four_weeks: tuple[Path, list[Verdict]]) -> None:
        found = {day: said(verdict) for day, verdict in zip(days(30), four_weeks[1], strict=True)}
        assert all(verdict.good for verdict in four_weeks[1])
        assert [day.day for day, messages in found.items() if messages] == [6], "on the first Saturday there were none before"
        assert all(
            "It would block, but only 5 good days are known" in found[days(6)[-1]][name] for name in ("drift", "feature_drift")
        )

    def test_it_is_told_and_drawn_which_day_one_was_compared_with(self, four_weeks: tuple[Path, list[Verdict]]) -> None:
        saturday = four_weeks[1][26].outcome("drift")
        assert saturday.shares is not None
        assert "against 2024-01-20 (Saturday)" in saturday.message or "against 2024-01-13 (Saturday)" in saturday.message
        assert "of 2024-01-" in saturday.shares.title
        assert saturday.shares.title.endswith("(Saturday)")

    @pytest.mark.parametrize(
        ("day", "weekend"),
        [(date(2024, 1, 31), True), (date(2024, 2, 3), False), (date(2024, 2, 4), False)],
        ids=["Wednesday", "Saturday", "Sunday"],
    )
    def test_a_day_that_looks_like_one_of_another_kind_is_found(self, small: Small, day: date, weekend: bool) -> None:
        verdict = judged(small, day, users(day, weekend=weekend))
        assert {"drift", "feature_drift"} <= {one.name for one in verdict.blocking}
        assert f"({day:%A})" in verdict.outcome("drift").message or "(Tuesday)" in verdict.outcome("drift").message

    def test_a_monday_that_looks_like_the_sunday_before_it_is_found(self, small: Small) -> None:
        for day in (date(2024, 1, 31), date(2024, 2, 3), date(2024, 2, 4)):
            assert judged(small, day, users(day)).good
        monday = date(2024, 2, 5)
        small.replace_rows(users(monday, weekend=True))
        freeze(small.config, small.storage, monday.isoformat(), small.progress)
        before = preflight(small.config, small.storage, monday.isoformat(), small.model, small.progress)
        assert any(reason.startswith("drift: ") for reason in before.reasons)
        verdict = judged(small, monday, users(monday, weekend=True))
        assert {"drift", "feature_drift"} <= {one.name for one in verdict.blocking}

    def test_a_preflight_of_a_weekend_says_go(self, small: Small) -> None:
        saturday = date(2024, 2, 3)
        small.replace_rows(users(saturday))
        freeze(small.config, small.storage, saturday.isoformat(), small.progress)
        assert preflight(small.config, small.storage, saturday.isoformat(), small.model, small.progress).go


class TestFewerUsersAtWeekends:
    def test_rows_are_compared_with_those_of_the_same_weekday(self, make_small: Make) -> None:
        """Two fifths fewer at weekends; then on a Wednesday, and on a Sunday another tenth and more."""
        small = make_small(users(MONDAY), **NEW)

        def features(day: date, rows: int) -> dict[str, str]:
            small.replace_rows(users(day, weekend=False, rows=rows))
            frozen = freeze(small.config, small.storage, day.isoformat(), small.progress)
            return said(judge_features(small.config, small.storage, frozen, day.isoformat()))

        found = {day: features(day, 1_200 if day.weekday() >= 5 else 2_000) for day in days(16)}
        assert [day.day for day, messages in found.items() if "changes" in messages] == [6, 7]
        assert features(date(2024, 1, 17), 1_200)["changes"] == "1,200 rows are 40% fewer than the usual 2,000"
        assert features(date(2024, 1, 21), 1_000)["changes"] == "1,000 rows are 17% fewer than the usual 1,200"


class TestFirstDays:
    @pytest.mark.long
    def test_the_first_days_of_cdnow_are_published(self, trained_root: Path, tmp_path: Path) -> None:
        """From the shop's first day on: every day there are more customers, and each was there for a day more."""
        shutil.copytree(trained_root, tmp_path / "root")
        config, storage, progress = pipeline(training.PIPELINE), LocalStorage(str(tmp_path / "root")), Quiet()
        model, found = Registry(storage).resolve(config.model), {}
        for day in (date(1997, 1, 1) + timedelta(days=number) for number in range(20)):
            freeze(config, storage, day.isoformat(), progress)
            score(Night.open(config, storage, day.isoformat(), model), LocalEngine(1), progress)
            verdict = judge(Night.open(config, storage, day.isoformat(), model))
            assert verdict.good, said(verdict)
            found[day.day] = said(verdict)
        young = {day for day, messages in found.items() if any("It would block, but only" in one for one in messages.values())}
        assert young
        assert young < set(range(2, 8))

    def test_a_night_that_is_broken_says_that_it_would_block(self, make_small: Make) -> None:
        small = make_small(users(MONDAY), **NEW)
        first, second, third = days(3)
        assert not said(judged(small, first, users(first)))
        assert not said(judged(small, second, users(second)))
        verdict = judged(small, third, users(third, times=100))
        assert verdict.good
        messages = said(verdict)
        assert {"changes", "feature_drift", "drift"} <= messages.keys()
        assert messages["changes"].startswith("x is about 100 times what it was on 2024-01-0")
        assert all("It would block, but only 2 good days are known" in messages[name] for name in ("changes", "feature_drift"))

    def test_what_is_wrong_without_any_day_before_blocks_on_the_first(self, make_small: Make) -> None:
        small = make_small(users(MONDAY), **NEW)
        table = users(MONDAY)
        empty = table.set_column(1, "x", pa.nulls(len(table), pa.float32()))
        small.replace_rows(empty)
        frozen = freeze(small.config, small.storage, MONDAY.isoformat(), small.progress)
        assert "x has no value" in said(judge_features(small.config, small.storage, frozen, MONDAY.isoformat()))["expectations"]
        constant = table
        for number, name in enumerate(("x", "y", "z"), start=1):
            constant = constant.set_column(number, name, pa.array(np.zeros(len(table), np.float32)))
        verdict = judged(small, days(2)[1], constant)
        assert "scores" in {one.name for one in verdict.blocking}

    def test_good_days_that_are_too_old_to_be_compared_with_are_known_all_the_same(self, make_small: Make) -> None:
        """A pipeline that runs now and then is not young for ever."""
        small = make_small(users(MONDAY), **{**NEW, "quality": {"min_days": 3}})
        for day in (date(2024, 1, 1), date(2024, 2, 5), date(2024, 3, 4)):
            assert not said(judged(small, day, users(day)))
        verdict = judged(small, date(2024, 3, 11), users(MONDAY, times=100))
        assert {"changes", "feature_drift", "drift"} <= {one.name for one in verdict.blocking}

    def test_a_days_prune_leaves_what_is_counted(self, make_small: Make) -> None:
        with pytest.raises(ValueError, match=r"the last 9 days are needed by .*min_days"):
            make_small(users(MONDAY), quality={"min_days": 9, "drift": {"trailing_days": 7}}, retention={"keep_days": 8})


def test_one_label_for_everybody_is_said(make_small: Make) -> None:
    """No score reaches the threshold of 0.5."""
    small = make_small(users(MONDAY), **NEW)
    table = users(MONDAY)
    verdict = judged(small, MONDAY, table.set_column(1, "x", pa.array(table["x"].to_numpy() / 10 - np.float32(6))))
    outcome = verdict.outcome("scores")
    assert (outcome.passed, outcome.blocks) == (False, False)
    assert outcome.message.startswith("All 6,000 rows have the same label, no: scores are from 0.0")
    assert judged(small, days(2)[1], table).outcome("scores").passed
