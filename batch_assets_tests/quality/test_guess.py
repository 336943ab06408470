"""What is guessed of a column that is far from what it was, and what is not."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from batch_assets.quality.changes import ChangeSettings, judge_changes
from batch_assets.quality.columns import Column
from batch_assets.quality.drift import DriftSettings
from batch_assets.quality.feature_drift import judge_feature_drift
from batch_assets.quality.guess import guessed
from batch_assets.quality.statistics import distance
from batch_assets_tests.quality.nights import DAY, profiled

ROWS = 6_000
Values = dict[str, npt.NDArray[np.float32]]


def values(seed: int) -> Values:
    """Amounts of money, orders that are as a hundredth of them by and large, ages within a narrow range, and whole numbers."""
    random = np.random.default_rng(seed)
    columns = {
        "amount": random.lognormal(0, 1, ROWS),
        "balance": random.lognormal(4.6, 1.03, ROWS),
        "age": random.normal(500, 12, ROWS),
        "orders": random.poisson(1.2, ROWS),
    }
    return {name: column.astype(np.float32) for name, column in columns.items()}


def night(seed: int, **changed: npt.NDArray[np.float32]) -> dict[str, Column]:
    return profiled({**values(seed), **changed})


BEFORE = {f"2024-03-0{day}": night(day) for day in range(1, 8)}
TODAY = values(9)


def told(**changed: npt.NDArray[np.float32]) -> tuple[str, str]:
    """What `changes` and `feature_drift` say of a night."""
    today = night(9, **changed)
    changes = judge_changes(DAY, today, BEFORE, ChangeSettings())
    return changes.message, judge_feature_drift(DAY, today, BEFORE, DriftSettings()).message


class TestUnits:
    @pytest.mark.parametrize("name", ["amount", "age", "orders"])
    @pytest.mark.parametrize("factor", [100.0, 1 / 7, 24.0])
    def test_are_named_by_both_checks(self, name: str, factor: float) -> None:
        words = f"about {factor:.0f} times" if factor > 1 else "about 1/7 of"
        changes, drift = told(**{name: TODAY[name] * np.float32(factor)})
        assert changes.startswith(f"{name} is {words} what it was on 2024-03-0")
        assert changes.endswith(", as if in another unit")
        assert drift.startswith(f"{name} is PSI ")
        assert drift.endswith(f", {words} that, as if in another unit.")

    def test_a_hundred_times_an_amount_is_no_balance_although_it_looks_like_one(self) -> None:
        """Both explain it to the eye; one does so clearly better."""
        cents = profiled({"amount": TODAY["amount"] * np.float32(100)})["amount"]
        balance = BEFORE["2024-03-07"]["balance"]
        assert distance(balance.counts, cents.counts).js.value < 0.02
        assert "balance" not in "".join(told(amount=TODAY["amount"] * np.float32(100)))

    def test_miles_for_kilometres_are_named_where_they_drift(self) -> None:
        changes, drift = told(amount=TODAY["amount"] / np.float32(1.609344))
        assert changes.startswith("Nothing is suddenly otherwise")
        (factor,) = re.findall(r", about 1/([0-9.]+) of that, as if in another unit\.$", drift)
        assert float(factor) == pytest.approx(1.609344, rel=0.05)

    @pytest.mark.parametrize("kind", ["added", "powered", "other numbers"])
    def test_are_not_guessed_where_sizes_are_not_multiplied(self, kind: str) -> None:
        other = {
            "added": TODAY["amount"] + np.float32(300),
            "powered": TODAY["amount"] ** np.float32(3) * 20,
            "other numbers": np.random.default_rng(3).uniform(30, 31, ROWS).astype(np.float32),
        }[kind]
        changes, drift = told(amount=other)
        assert changes.startswith("amount is about ")
        assert "unit" not in changes + drift


class TestOtherColumns:
    def test_two_that_were_swapped_are_named(self) -> None:
        changes, drift = told(age=TODAY["orders"], orders=TODAY["age"])
        for message in (changes, drift):
            assert "and looks like orders then, as if they were swapped" in message
            assert "and looks like age then, as if they were swapped" in message
            assert "unit" not in message

    def test_two_that_were_swapped_are_named_although_one_is_like_the_other_times_a_hundred(self) -> None:
        _, drift = told(amount=TODAY["balance"], balance=TODAY["amount"])
        assert drift.count("as if they were swapped") == 2

    def test_one_that_was_filled_from_another_is_not_called_swapped(self) -> None:
        _, drift = told(age=TODAY["orders"])
        assert drift.endswith(" and looks like orders then, as if it held the values of orders.")

    def test_where_several_explain_as_well_none_is_named(self) -> None:
        """Two columns are alike, and a third holds the values of one of them."""
        twins: dict[str, npt.NDArray[np.float32]] = {"balance": TODAY["balance"], "twin": values(8)["balance"]}
        then = profiled({**values(7), "twin": values(6)["balance"]})
        assert guessed("orders", profiled({**TODAY, **twins, "orders": values(5)["balance"]}), then) is None

    def test_one_times_so_much_that_it_looks_like_another_is_ambiguous(self) -> None:
        """37 is no usual factor between units, and another column holds just these values: neither is said."""
        then = profiled({"amount": TODAY["amount"], "scaled": TODAY["amount"] * np.float32(37)})
        today = profiled({"amount": values(8)["amount"] * np.float32(37), "scaled": values(8)["amount"] * np.float32(37)})
        assert guessed("amount", today, then) is None


class TestNothing:
    def test_is_guessed_of_a_category_or_of_what_was_not_there(self) -> None:
        shops = profiled({"shop": np.arange(ROWS, dtype=np.int16) % 5}, ["shop"])
        assert guessed("shop", shops, shops) is None
        assert guessed("amount", night(9), {}) is None

    def test_is_guessed_of_what_was_the_same_in_every_row(self) -> None:
        """Any number is some times another one."""
        ones, hundreds = (profiled({"x": np.full(ROWS, value, np.float32)}) for value in (1, 100))
        assert guessed("x", hundreds, ones) is None


class TestWhatFewRowsHave:
    """Zeros in nineteen rows of twenty are like zeros times anything, and like those of another column."""

    @staticmethod
    def rare(seed: int, shape: float, size: float) -> npt.NDArray[np.float32]:
        random = np.random.default_rng(seed)
        return np.where(random.random(ROWS) < 0.05, random.gamma(shape, size, ROWS), 0).astype(np.float32)

    def night(self, seed: int, refunds: npt.NDArray[np.float32]) -> dict[str, Column]:
        return profiled({"refunds": refunds, "bonus": self.rare(seed, 900, 1)})

    def test_in_another_unit_is_named(self) -> None:
        found = guessed("refunds", self.night(1, self.rare(2, 2, 2_000)), self.night(3, self.rare(4, 2, 20)))
        assert str(found).endswith("times that, as if in another unit")

    def test_in_another_shape_is_explained_by_nothing(self) -> None:
        today, then = profiled({"refunds": self.rare(2, 400, 2)}), profiled({"refunds": self.rare(4, 2, 20)})
        assert guessed("refunds", today, then) is None

    def test_is_another_columns_by_its_values(self) -> None:
        found = guessed("refunds", self.night(1, self.rare(2, 900, 1)), self.night(3, self.rare(4, 2, 20)))
        assert str(found) == " and looks like bonus then, as if it held the values of bonus"
