from typing import ClassVar

import numpy as np
import pytest

from batch_assets.quality.changes import ChangeSettings, judge_changes
from batch_assets.quality.columns import Column
from batch_assets.quality.drift import DriftSettings
from batch_assets.quality.feature_drift import judge_feature_baseline, judge_feature_drift
from batch_assets.quality.model_shift import Shift, judge_model_shift, judge_ranks
from batch_assets.quality.outcome import CheckOutcome
from batch_assets_tests.quality.nights import DAY, ROWS, night, profiled, values, week

WEEK = week()
TONIGHT = values(9)


SHOPS = 40


def shops(seed: int, *, renumbered: bool = False, rows: int = ROWS) -> dict[str, Column]:
    """In which of 40 shops a user buys, some of them far more often than others."""
    shares = np.random.default_rng(0).dirichlet(np.full(SHOPS, 0.5))
    chosen = np.random.default_rng(seed).choice(SHOPS, rows, p=shares[::-1] if renumbered else shares)
    return profiled({"shop": chosen.astype(np.int16)}, ["shop"])


def judge(today: dict[str, Column], **settings: object) -> CheckOutcome:
    return judge_feature_drift(DAY, today, WEEK, DriftSettings.model_validate(settings))


class TestFeatures:
    def test_a_night_like_the_others_passes(self) -> None:
        outcome = judge(night(9))
        assert outcome.passed
        assert "3 features are as before" in outcome.message
        assert set(outcome.figures) == {"psi", "ks", "js"}
        assert (outcome.severity, outcome.threshold) == ("error", 0.25)

    def test_without_an_earlier_day_there_is_nothing_to_compare(self) -> None:
        outcome = judge_feature_drift(DAY, night(9), {}, DriftSettings())
        assert (outcome.passed, outcome.severity) == (True, "info")

    def test_a_column_that_moved_far_blocks_and_is_named(self) -> None:
        outcome = judge(night(9, share=TONIGHT["share"] + np.float32(0.3)))
        assert outcome.blocks
        assert outcome.message.startswith("share is PSI ")
        assert outcome.table.splitlines()[2].startswith("| share | blocks |")
        assert outcome.shares is not None
        assert outcome.shares.title.startswith("share of this partition and of 2024-03-0")
        assert sum(outcome.shares.observed) == pytest.approx(1, abs=1e-4)
        assert len(outcome.shares.groups) == len(outcome.shares.expected) == len(outcome.shares.observed)

    def test_one_that_moved_a_little_warns(self) -> None:
        outcome = judge(night(9, share=TONIGHT["share"] + np.float32(0.05)))
        assert (outcome.passed, outcome.severity, outcome.threshold) == (False, "warn", 0.1)
        assert "| share | warns |" in outcome.table

    def test_what_blocks_is_told_and_not_what_warns_beside_it(self) -> None:
        both = {"share": TONIGHT["share"] + np.float32(0.05), "amount": TONIGHT["amount"] * 2}
        outcome = judge(night(9, **both))
        assert outcome.blocks
        assert outcome.message.startswith("amount")
        assert "; share" not in outcome.message
        assert outcome.table.splitlines()[2].startswith("| amount | blocks |")
        assert outcome.table.splitlines()[3].startswith("| share | warns |")

    def test_it_is_enough_to_be_like_one_of_the_days(self) -> None:
        sunday = {**WEEK, "2024-03-02": night(2, share=values(2)["share"] + np.float32(0.3))}
        today = night(9, share=TONIGHT["share"] + np.float32(0.3))
        assert judge_feature_drift(DAY, today, sunday, DriftSettings()).passed

    def test_swapped_columns_are_recognized(self) -> None:
        message = judge(night(9, share=TONIGHT["orders"], orders=TONIGHT["share"])).message
        assert "looks like share then, as if they were swapped" in message
        assert "looks like orders then, as if they were swapped" in message

    def test_a_hundred_rows_of_many_columns_do_not_cry_wolf(self) -> None:
        alarms = 0
        for seed in range(20):
            random = np.random.default_rng(seed)
            nights = [{f"c{n}": random.standard_normal(100).astype(np.float32) for n in range(40)} for _ in range(2)]
            found = judge_feature_drift(DAY, profiled(nights[0]), {"2024-03-01": profiled(nights[1])}, DriftSettings())
            alarms += not found.passed
        assert alarms <= 1

    def test_a_column_without_values_is_not_compared(self) -> None:
        outcome = judge(night(9, share=np.full(ROWS, np.nan, np.float32)))
        assert outcome.passed
        assert "| share |" not in outcome.table

    def test_it_blocks_above_where_it_warns(self) -> None:
        low = {"psi": 0.05, "ks": 0.05, "js": 0.01}
        with pytest.raises(ValueError, match=r"drift blocks at psi 0\.05, below the 0\.1 where it warns"):
            DriftSettings.model_validate({"block": low})


class TestAgainstTheModelCard:
    def test_a_population_that_moved_warns_and_never_blocks(self) -> None:
        outcome = judge_feature_baseline(
            night(9, share=TONIGHT["share"] + 5), WEEK["2024-03-01"], "2024-01-31", DriftSettings()
        )
        assert (outcome.name, outcome.asset, outcome.passed, outcome.severity) == (
            "feature_baseline",
            "predictions",
            False,
            "warn",
        )
        assert "share is PSI" in outcome.message
        assert "from what it was on 2024-01-31" in outcome.message
        assert outcome.threshold == 0.25

    def test_one_that_has_not_passes(self) -> None:
        assert judge_feature_baseline(night(9), WEEK["2024-03-01"], "2024-01-31", DriftSettings()).passed

    def test_a_card_without_features_is_not_compared_with(self) -> None:
        outcome = judge_feature_baseline(night(9), {}, "2024-01-31", DriftSettings())
        assert (outcome.passed, outcome.severity) == (True, "info")


class TestRanks:
    @pytest.mark.parametrize(("correlation", "passed"), [(0.3, True), (0.29, False), (-1.0, False)])
    def test_keys_that_rank_otherwise_than_the_day_before_block(self, correlation: float, passed: bool) -> None:
        outcome = judge_ranks(TestAnotherModel.shift(0.0, correlation), DriftSettings())
        assert (outcome.passed, outcome.blocks, outcome.observed) == (passed, not passed, correlation)
        assert "20,000 keys rank as on 2024-03-10" in outcome.message

    @pytest.mark.parametrize(("rows", "severity"), [(29, "info"), (30, "error")])
    def test_of_a_few_keys_ranks_say_nothing(self, rows: int, severity: str) -> None:
        shift = TestAnotherModel.shift(0.0, -1.0).model_copy(update={"rows": rows})
        assert judge_ranks(shift, DriftSettings()).severity == severity
        assert judge_ranks(None, DriftSettings()).severity == "info"


class TestAnotherModel:
    edges = tuple(np.linspace(0.01, 0.99, 99).tolist())

    def judge(self, low: float, *, rank: float = 1.0, expected: Shift | None = None) -> CheckOutcome:
        from batch_assets.histogram import Histogram
        from batch_assets.quality.drift import between

        random = np.random.default_rng(1)
        before = Histogram.of(random.uniform(0.2, 0.8, 20_000), self.edges)
        found = between(before, Histogram.of(random.uniform(low, 0.8, 20_000), self.edges))
        shift = self.shift(found.psi.value, rank, found.ks.value, found.js.value)
        return judge_model_shift(found, shift, expected, DriftSettings(), self.edges)

    @staticmethod
    def shift(psi: float, rank: float, ks: float = 0.0, js: float = 0.0) -> Shift:
        return Shift(
            partition="2024-03-10",
            against="v1",
            rows=20_000,
            psi=psi,
            ks=ks,
            js=js,
            top_decile_overlap=0.9,
            rank_correlation=rank,
        )

    def test_a_version_that_scores_alike_passes(self) -> None:
        outcome = self.judge(0.21)
        assert outcome.passed
        assert "against v1 on 2024-03-10" in outcome.message
        assert outcome.figures["rank_correlation"] == 1.0

    def test_one_that_scores_otherwise_blocks_unless_its_approval_was_told(self) -> None:
        outcome = self.judge(0.5)
        assert outcome.blocks
        assert outcome.message.endswith("which the approval was not told to expect.")
        told = outcome.figures
        assert self.judge(0.5, expected=self.shift(told["psi"], 1.0, told["ks"], told["js"])).passed

    def test_half_as_much_again_as_was_told_is_the_limit(self) -> None:
        told = self.judge(0.5).figures
        for share, passed in ((0.7, True), (0.6, False)):
            expected = self.shift(told["psi"] * share, 1.0, told["ks"] * share, told["js"] * share)
            assert self.judge(0.5, expected=expected).passed is passed

    def test_one_that_ranks_otherwise_blocks_although_its_scores_are_spread_alike(self) -> None:
        assert self.judge(0.2, rank=0.51).passed
        outcome = self.judge(0.2, rank=0.49)
        assert outcome.blocks
        assert "the rank correlation is below 0.5" in outcome.message

    def test_a_rank_correlation_that_was_told_may_be_a_tenth_lower(self) -> None:
        expected = self.shift(0.0, 0.2)
        assert self.judge(0.2, rank=0.11, expected=expected).passed
        assert self.judge(0.2, rank=0.09, expected=expected).blocks
        assert self.judge(0.2, rank=0.49, expected=self.shift(0.0, 0.95)).blocks, "what was told does not ask for more"

    def test_without_an_earlier_version_there_is_nothing_to_compare(self) -> None:
        outcome = judge_model_shift(None, None, None, DriftSettings())
        assert (outcome.passed, outcome.severity) == (True, "info")


class TestCategories:
    BEFORE: ClassVar = {f"2024-03-0{day}": shops(day) for day in range(1, 8)}

    def test_a_night_like_the_others_passes(self) -> None:
        outcome = judge_feature_drift(DAY, shops(9), self.BEFORE, DriftSettings())
        assert outcome.passed, outcome.message

    def test_categories_that_were_numbered_otherwise_block(self) -> None:
        outcome = judge_feature_drift(DAY, shops(9, renumbered=True), self.BEFORE, DriftSettings())
        assert outcome.blocks
        assert outcome.message.startswith("shop is PSI ")
        assert outcome.shares is not None
        assert outcome.shares.groups[-1] == "others"
        assert all(0 <= int(group) < SHOPS for group in outcome.shares.groups[:-1])

    def test_no_unit_is_guessed(self) -> None:
        today = profiled({"shop": np.full(ROWS, 39, np.int16) - (np.arange(ROWS) % 2).astype(np.int16)}, ["shop"])
        before = {
            day: profiled({"shop": np.arange(ROWS, dtype=np.int16) % 2 + 1}, ["shop"]) for day in ("2024-03-06", "2024-03-07")
        }
        assert judge_changes(DAY, today, before, ChangeSettings()).passed
        numbers = {day: profiled({"shop": np.arange(ROWS, dtype=np.int16) % 2 + 1}) for day in ("2024-03-06", "2024-03-07")}
        larger = profiled({"shop": np.full(ROWS, 39) - np.arange(ROWS) % 2})
        assert (
            judge_changes(DAY, larger, numbers, ChangeSettings()).message == "shop is about 36 times what it was on 2024-03-07"
        )

    def test_a_day_on_which_it_was_a_number_is_not_compared(self) -> None:
        numbers = profiled({"shop": np.arange(ROWS, dtype=np.int16)})
        outcome = judge_feature_drift(DAY, shops(9), {"2024-03-01": numbers}, DriftSettings())
        assert (outcome.passed, outcome.severity) == (True, "info")
