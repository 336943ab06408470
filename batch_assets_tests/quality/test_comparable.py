"""Which good days a day is compared with; here a day is a number, and two days are apart from 5 on."""

from collections.abc import Iterable
from datetime import date, timedelta

import pytest

from batch_assets.quality.comparable import comparable, same_weekday, while_few_are_known
from batch_assets.quality.outcome import CheckOutcome

MONDAY = date(2024, 1, 1)


def day(number: int) -> str:
    """The day so many days after a Monday."""
    return (MONDAY + timedelta(days=number)).isoformat()


def weekends(numbers: Iterable[int]) -> dict[str, float]:
    """Days on which weekends are 10 higher."""
    return {day(number): 10.0 * (number % 7 >= 5) for number in numbers}


def ageing(numbers: Iterable[int], by: float = 1) -> dict[str, float]:
    """Days each of which is a little higher than the one before."""
    return {day(number): by * number for number in numbers}


def alike(number: int, before: dict[str, float]) -> list[int]:
    """The days that a day is compared with, as numbers, ascending."""
    found = comparable(day(number), before, lambda one, other: abs(one - other) >= 5)
    assert all(before[other] == value for other, value in found.items())
    assert list(found) == sorted(found, reverse=True)
    return sorted((date.fromisoformat(other) - MONDAY).days for other in found)


@pytest.mark.parametrize(
    ("number", "days"),
    [
        (23, [2, 9, 16, 22]),  # a Wednesday: Wednesdays, and the Tuesday before
        (21, [0, 7, 14]),  # a Monday is not like the Sunday before it
        (26, [5, 12, 19]),  # nor a Saturday like the Friday
        (27, [6, 13, 20, 26]),  # but a Sunday is like the Saturday
    ],
)
def test_the_same_weekdays_and_the_day_before_if_it_is_alike_in_other_weeks(number: int, days: list[int]) -> None:
    assert alike(number, weekends(range(number))) == days


@pytest.mark.parametrize("number", [14, 17, 26, 33])
@pytest.mark.parametrize("by", [0.1, 1, 4, 40])
def test_what_ages_is_compared_with_the_day_before(number: int, by: float) -> None:
    assert number - 1 in alike(number, ageing(range(number), by))


@pytest.mark.parametrize("number", [15, 18, 29])
def test_what_ages_is_compared_with_the_newest_day_after_some_were_blocked(number: int) -> None:
    """Days age so fast that two days before is apart, in every week: weeks say nothing of what is on the move."""
    assert number - 2 in alike(number, ageing((one for one in range(number) if one != number - 1), 4))


def test_where_one_of_the_same_weekday_is_known_the_newest_seven_count_too() -> None:
    """That one may have been a holiday."""
    assert alike(7, weekends(range(7))) == [0, 1, 2, 3, 4, 5, 6]
    assert alike(13, weekends(range(13))) == [6, 7, 8, 9, 10, 11, 12]
    assert alike(12, weekends(one for one in range(12) if one != 7)) == [4, 5, 6, 8, 9, 10, 11]


def test_where_all_of_a_weekday_were_blocked_the_newest_seven_count() -> None:
    before = weekends(one for one in range(28) if one % 7 != 0)
    assert alike(28, before) == [20, 22, 23, 24, 25, 26, 27]


def test_days_that_are_missing_are_passed_over() -> None:
    """The Sunday a week before the newest day is missing, but the weeks before that say enough."""
    assert alike(28, weekends(one for one in range(28) if one != 20)) == [0, 7, 14, 21]
    assert alike(23, weekends([2, 9, 20])) == [2, 9, 20], "of which nothing is known in other weeks"
    assert alike(23, {}) == []


def test_a_week_that_was_otherwise_once_does_not_part_two_weekdays() -> None:
    """On one Monday of three it was a holiday."""
    before = weekends(range(28)) | {day(14): 10.0}
    assert 27 in alike(28, before)
    assert alike(29, before | {day(28): 0.0}) == [1, 8, 15, 22, 28], "and the Tuesdays are as always"


def test_clocks_that_are_set_move_no_weekday() -> None:
    assert same_weekday("2024-04-07", ["2024-03-30", "2024-03-31", "2024-03-24", "2023-12-31"]) == [
        "2024-03-31",
        "2024-03-24",
        "2023-12-31",
    ]


class TestFewDays:
    def outcome(self, **said: object) -> CheckOutcome:
        known = {"name": "drift", "asset": "predictions", "passed": False, "severity": "error", "message": "PSI 0.5."}
        return CheckOutcome.model_validate({**known, **said})

    @pytest.mark.parametrize(("known", "blocks"), [(1, False), (6, False), (7, True), (30, True)])
    def test_what_would_block_warns_until_there_are_enough(self, known: int, blocks: bool) -> None:
        found = while_few_are_known(self.outcome(), known, 7)
        assert (found.passed, found.blocks) == (False, blocks)
        few = f"PSI 0.5. It would block, but only {known} good day{' is' if known == 1 else 's are'} known before it"
        assert found.message.startswith("PSI 0.5." if blocks else few)
        assert blocks or "it warns until there are 7. Later days are compared with this one" in found.message

    @pytest.mark.parametrize("said", [{"passed": True}, {"severity": "warn"}, {"passed": True, "severity": "info"}])
    def test_what_does_not_block_stays_as_it_is(self, said: dict[str, object]) -> None:
        assert while_few_are_known(self.outcome(**said), 1, 7) == self.outcome(**said)
