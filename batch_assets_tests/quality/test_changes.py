import re

import numpy as np
import pytest

from batch_assets.quality.changes import ChangeSettings, judge_changes
from batch_assets.quality.columns import Column
from batch_assets.quality.outcome import CheckOutcome
from batch_assets_tests.quality.nights import DAY, ROWS, night, values, week

WEEK = week()
TONIGHT = values(9)


def judge(today: dict[str, Column]) -> CheckOutcome:
    return judge_changes(DAY, today, WEEK, ChangeSettings())


def test_a_night_like_the_others_passes() -> None:
    outcome = judge(night(9))
    assert outcome.passed
    assert (outcome.observed, outcome.threshold, outcome.figures) == (0.0, 0.0, {"rows_ratio": 1.0})
    assert outcome.message == "Nothing is suddenly otherwise than from 2024-03-01 to 2024-03-07 (7 good days)."


def test_without_an_earlier_day_there_is_nothing_to_compare() -> None:
    outcome = judge_changes(DAY, night(9), {}, ChangeSettings())
    assert (outcome.passed, outcome.severity) == (True, "info")
    assert outcome.message.startswith("not_compared")


class TestRows:
    @pytest.mark.parametrize(("rows", "passed"), [(1_800, True), (1_799, False), (3_000, True), (3_001, False)])
    def test_a_tenth_fewer_or_half_as_many_more_is_the_limit(self, rows: int, passed: bool) -> None:
        assert judge(night(9, rows)).passed is passed

    def test_the_message_says_how_many_and_how_many_are_usual(self) -> None:
        assert judge(night(9, 1_600)).message == "1,600 rows are 20% fewer than the usual 2,000"
        assert judge(night(9, 4_000)).message == "4,000 rows are 2.00 times the usual 2,000"

    def test_no_rows_are_too_few(self) -> None:
        assert judge(night(9, 0)).blocks

    def test_of_a_few_rows_chance_may_take_more(self) -> None:
        """Four times the square root: of 100 rows 60 may be missing or more, of 10,000 a tenth."""
        small = {day: night(number, 100) for number, day in enumerate(WEEK)}
        assert judge_changes(DAY, night(9, 65), small, ChangeSettings()).passed
        assert judge_changes(DAY, night(9, 59), small, ChangeSettings()).blocks
        assert judge_changes(DAY, night(9, 151), small, ChangeSettings()).blocks

    def test_chance_is_within_its_bound(self) -> None:
        """Four times the square root of 49 rows are 28."""
        small = {day: night(number, 49) for number, day in enumerate(WEEK)}
        assert judge_changes(DAY, night(9, 77), small, ChangeSettings()).passed
        assert judge_changes(DAY, night(9, 78), small, ChangeSettings()).blocks

    def test_one_odd_day_does_not_say_what_is_usual(self) -> None:
        odd = {**WEEK, "2024-03-07": night(7, 20_000)}
        assert judge_changes(DAY, night(9), odd, ChangeSettings()).passed


class TestAColumn:
    def test_that_is_filled_with_one_value(self) -> None:
        outcome = judge(night(9, orders=np.zeros(ROWS, np.float32)))
        assert outcome.blocks
        assert outcome.message == "orders is 0 in every row; it had many values on 2024-03-07"

    def test_that_was_constant_before_may_be_so_again(self) -> None:
        flat = {day: night(number, share=np.full(ROWS, 0.5, np.float32)) for number, day in enumerate(WEEK)}
        assert judge_changes(DAY, night(9, share=np.full(ROWS, 0.5, np.float32)), flat, ChangeSettings()).passed

    def test_with_a_single_row_is_not_called_constant(self) -> None:
        single = {"2024-03-01": night(1, 1)}
        assert judge_changes(DAY, night(9, 1), single, ChangeSettings()).passed
        assert "in every row" not in judge(night(9, 1)).message

    @pytest.mark.parametrize("factor", [7, 10, 12, 24, 60, 100, 365, 1_000, 3_600, 10_000, 86_400, 1_000_000])
    def test_in_another_unit(self, factor: int) -> None:
        for times, words in ((factor, f"{factor:,} times"), (1 / factor, f"1/{factor:,} of"), (-factor, f"{factor:,} times")):
            outcome = judge(night(9, amount=TONIGHT["amount"] * np.float32(times)))
            assert outcome.blocks
            said = rf"amount is about {words} what it was on 2024-03-0[1-7], as if in another unit"
            assert re.fullmatch(said, outcome.message)

    @pytest.mark.parametrize("factor", [5.4, 17.0, 40.0])
    def test_in_a_unit_that_nobody_knows(self, factor: float) -> None:
        outcome = judge(night(9, amount=TONIGHT["amount"] * np.float32(factor)))
        (said,) = re.findall(r"^amount is about ([0-9.]+) times", outcome.message)
        assert float(said) == pytest.approx(factor, rel=0.13)
        assert float(said) not in (7, 10, 24, 60)

    @pytest.mark.parametrize("factor", [3.0, 1 / 3])
    def test_that_is_a_few_times_as_large_is_no_other_unit(self, factor: float) -> None:
        assert judge(night(9, amount=TONIGHT["amount"] * np.float32(factor))).passed

    def test_the_nearest_day_counts(self) -> None:
        cents = {**WEEK, "2024-03-03": night(3, amount=values(3)["amount"] * np.float32(100))}
        assert judge_changes(DAY, night(9, amount=TONIGHT["amount"] * np.float32(100)), cents, ChangeSettings()).passed

    def test_of_a_few_values_no_unit_is_guessed(self) -> None:
        """29 values that are not zero, on both sides."""
        few = np.concatenate([np.ones(29), np.zeros(ROWS - 29)]).astype(np.float32)
        before = {day: night(number, orders=few) for number, day in enumerate(WEEK)}
        assert judge_changes(DAY, night(9, orders=few * np.float32(1_000)), before, ChangeSettings()).passed
        more = np.concatenate([np.ones(30), np.zeros(ROWS - 30)]).astype(np.float32)
        before = {day: night(number, orders=more) for number, day in enumerate(WEEK)}
        assert judge_changes(DAY, night(9, orders=more * np.float32(1_000)), before, ChangeSettings()).blocks
        assert judge_changes(DAY, night(9, orders=few * np.float32(1_000)), before, ChangeSettings()).passed
        before["2024-03-07"] = night(7, orders=few * np.float32(1_000))
        assert judge_changes(DAY, night(9, orders=more * np.float32(1_000)), before, ChangeSettings()).blocks, "29 say nothing"

    def test_that_is_missing_more_often_than_before(self) -> None:
        share = TONIGHT["share"].copy()
        share[:101] = np.nan
        assert judge(night(9, share=share)).message == "share is missing in 5% of the rows; it was in at most 0%"
        share[100] = 0.5
        assert judge(night(9, share=share)).passed

    def test_that_was_missing_as_often_before_is_as_usual(self) -> None:
        share = np.full(ROWS, np.nan, np.float32)
        share[:1_000] = 0.1 + np.arange(1_000, dtype=np.float32) / 2_000
        before = {"2024-03-01": night(1, share=share)}
        assert judge_changes(DAY, night(9, share=share), before, ChangeSettings()).passed

    def test_that_is_new_has_nothing_to_be_compared_with(self) -> None:
        before = {day: {name: one for name, one in columns.items() if name != "orders"} for day, columns in WEEK.items()}
        assert judge_changes(DAY, night(9, orders=np.zeros(ROWS, np.float32)), before, ChangeSettings()).passed


def test_every_finding_is_told() -> None:
    changed = {"amount": TONIGHT["amount"] * np.float32(100), "orders": np.ones(ROWS, np.float32)}
    outcome = judge(night(9, **changed))
    message = outcome.message
    assert outcome.observed == 2
    assert "amount is about 100 times" in message
    assert "orders is 1 in every row" in message
