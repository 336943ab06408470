"""What is judged of a day's rows and of features that nobody changed, from plain numbers."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta

import pytest

from batch_assets.quality.outcome import CheckOutcome
from batch_assets.quality.sources import ChangedRows, SourceSettings, TableRows, judge_sources

DAY = "2024-03-29"  # a Friday
YESTERDAY = "2024-03-28"
STEADY = dict.fromkeys(
    ((date(2024, 3, 29) - timedelta(days=back)).isoformat() for back in range(28, 0, -1)),
    1_000,
)
SOME = ChangedRows(since=YESTERDAY, rows=400, changed=100, unchanged=False)
NONE = ChangedRows(since=YESTERDAY, rows=400, changed=0, unchanged=True)


def table(rows: int, before: Mapping[str, int] = STEADY, newest: str = DAY, name: str = "visits") -> TableRows:
    return TableRows(name, "day", date.fromisoformat(newest), rows, before)


def judge(
    *tables: TableRows, changed: ChangedRows | None = SOME, allow_unchanged: bool = False, **settings: object
) -> CheckOutcome:
    return judge_sources(DAY, tables, changed, SourceSettings.model_validate(settings), allow_unchanged=allow_unchanged)


def newest_days(count: int) -> dict[str, int]:
    return dict(list(STEADY.items())[-count:])


class TestRowsThatCouldNotBeRead:
    @pytest.mark.parametrize(("unreadable", "severity"), [(1, "warn"), (10, "warn"), (11, "error")])
    def test_are_told_of_and_block_if_they_are_too_many(self, unreadable: int, severity: str) -> None:
        outcome = judge(replace(table(990), all_rows=10_000, unreadable=unreadable))
        (finding,) = outcome.findings
        assert (finding.subject, finding.kind, finding.severity) == ("visits", "unreadable", severity)
        assert outcome.severity == severity
        assert f"visits has {unreadable} rows of 10,000 that could not be read" in outcome.message

    def test_how_many_may_be_is_a_setting(self) -> None:
        rows = replace(table(990), all_rows=100, unreadable=5)
        assert judge(rows).message == (
            "visits has 5 rows of 100 that could not be read (5.000%), at most 0.10% may be: "
            "when its load is complete, run the day again with --refresh"
        )
        assert not judge(rows, max_unreadable=0.05).blocks

    def test_are_told_of_where_nobody_watches_its_days_too(self) -> None:
        outcome = judge(TableRows("visits", all_rows=2, unreadable=1))
        assert [finding.kind for finding in outcome.findings] == ["unwatched", "unreadable"]
        assert outcome.blocks


class TestADaysRows:
    def test_as_many_as_usual_are_good(self) -> None:
        outcome = judge(table(990))
        assert outcome.passed
        assert (outcome.observed, outcome.threshold) == (0.99, 0.58)
        assert outcome.figures == {"visits_rows": 990, "visits_usual": 1_000, "visits_ratio": 0.99, "changed_share": 0.25}
        assert outcome.message == (
            "visits has 990 rows of 2024-03-29, 1,000 are usual; 25.0% of 400 rows that were compared changed since 2024-03-28."
        )

    @pytest.mark.parametrize("newest", [YESTERDAY, "2024-03-01"])
    def test_none_block_and_the_message_says_what_to_do(self, newest: str) -> None:
        outcome = judge(table(0, newest=newest))
        assert outcome.blocks
        assert outcome.observed == 0
        assert outcome.message == (
            f"visits has no row of 2024-03-29, the newest day is {newest}: "
            "when its load is complete, run the day again with --refresh"
        )

    def test_a_table_without_any_date_blocks(self) -> None:
        outcome = judge(TableRows("visits", "day", None, 0, {}))
        assert outcome.blocks
        assert "it has no day at all" in outcome.message

    def test_none_block_from_the_first_day_on(self) -> None:
        assert judge(table(0, {}, YESTERDAY), changed=None).blocks

    def test_the_first_day_has_nothing_to_be_compared_with(self) -> None:
        outcome = judge(table(3, {}), changed=None)
        assert outcome.passed
        assert outcome.message == "visits has 3 rows of 2024-03-29; not_compared: no earlier good day."

    @pytest.mark.parametrize(("rows", "blocks"), [(580, False), (579, True), (500, True), (1, True)])
    def test_half_of_them_block(self, rows: int, blocks: bool) -> None:
        outcome = judge(table(rows))
        assert outcome.blocks is blocks
        assert outcome.passed is not blocks

    def test_the_message_says_how_many_there_are_and_how_many_are_wanted(self) -> None:
        assert judge(table(500)).message == (
            "visits has 500 rows of 2024-03-29, 50% of the usual 1,000; at least 580 rows are wanted on a Friday: "
            "when its load is complete, run the day again with --refresh"
        )

    def test_the_share_is_a_setting(self) -> None:
        assert judge(table(899), min_day_rows=0.9).blocks
        assert judge(table(500), min_day_rows=0.4).passed

    @pytest.mark.parametrize(("rows", "blocks"), [(4, False), (3, True)])
    def test_of_a_few_chance_may_take_more(self, rows: int, blocks: bool) -> None:
        """Sixteen are usual: three times the square root are twelve."""
        assert judge(table(rows, dict.fromkeys(STEADY, 16))).blocks is blocks

    def test_more_than_usual_are_good(self) -> None:
        assert judge(table(10_000)).passed


class TestWhatIsUsual:
    def test_is_the_same_weekday(self) -> None:
        """Fridays have three times as many: a Friday like the other days has lost two thirds, and they have not."""
        fridays = {day: 3_000 if date.fromisoformat(day).weekday() == 4 else 1_000 for day in STEADY}
        assert "33% of the usual 3,000" in judge(table(1_000, fridays)).message
        assert judge(table(1_000, {day: 1_000 if rows == 3_000 else 3_000 for day, rows in fridays.items()})).passed

    def test_is_less_where_a_source_dwindles(self) -> None:
        """A twentieth less each day: the last Fridays had twice as many in the middle."""
        dwindling = {day: round(4_000 * 0.95**number) for number, day in enumerate(STEADY)}
        assert judge(table(round(4_000 * 0.95**28), dwindling)).passed

    def test_is_not_what_one_feast_had(self) -> None:
        """Of one Friday alone nobody knows whether it was one."""
        week = {**newest_days(7), "2024-03-22": 5_000}
        assert judge(table(900, week)).passed
        assert judge(table(500, week)).blocks

    def test_is_not_known_before_there_are_seven_good_days(self) -> None:
        outcome = judge(table(100, newest_days(6)))
        assert (outcome.passed, outcome.severity) == (False, "warn")
        assert outcome.message == "visits has 100 rows of 2024-03-29, 10% of the usual 1,000, as far as 6 good days can tell"
        assert judge(table(100, newest_days(7))).blocks

    def test_is_not_known_without_such_a_weekday(self) -> None:
        others = {day: rows for day, rows in STEADY.items() if date.fromisoformat(day).weekday() != 4}
        assert judge(table(100, others)).severity == "warn"

    def test_is_shown_with_the_days_that_say_so(self) -> None:
        shares = judge(table(500)).shares
        assert shares is not None
        assert shares.unit == "rows"
        assert shares.groups == ("2024-03-01", "2024-03-08", "2024-03-15", "2024-03-22", DAY)
        assert shares.expected == (1_000,) * 5
        assert shares.observed == (1_000, 1_000, 1_000, 1_000, 500)


class TestTables:
    def test_the_worst_is_shown_and_every_finding_is_told(self) -> None:
        outcome = judge(table(1_000), table(500, name="orders"), table(0, name="returns", newest=YESTERDAY))
        assert outcome.observed == 0
        assert "orders has 500 rows" in outcome.message
        assert "returns has no row" in outcome.message
        assert outcome.shares is not None
        assert "returns" in outcome.shares.title
        assert outcome.table.splitlines()[2].startswith("| orders | blocks | day |")
        assert outcome.table.splitlines()[-1] == "| visits |  | day | 2024-03-29 | 1,000 | 1,000 |"

    def test_one_without_a_date_warns_that_nobody_watches_it(self) -> None:
        outcome = judge(table(1_000), TableRows("planes"))
        assert (outcome.passed, outcome.blocks, outcome.severity) == (False, False, "warn")
        assert outcome.message == "planes has no event_date: whether it is fresh is not watched"

    def test_one_that_seldom_grows_needs_none(self) -> None:
        assert judge(table(1_000), TableRows("planes"), not_daily=["planes"]).passed

    def test_one_that_rests_on_some_days_may_have_no_rows_of_these(self) -> None:
        resting = {day: 0 if date.fromisoformat(day).weekday() == 4 else 1_000 for day in STEADY}
        assert judge(table(0, resting, YESTERDAY)).blocks
        assert judge(table(0, resting, YESTERDAY), not_daily=["visits"]).passed

    def test_one_that_rests_on_other_days_may_not(self) -> None:
        assert judge(table(0, newest=YESTERDAY), not_daily=["visits"]).blocks


class TestUnchangedFeatures:
    def test_block(self) -> None:
        outcome = judge(table(1_000), changed=NONE)
        assert outcome.blocks
        assert outcome.message == "these are the features of 2024-03-28 again: the source was not updated"
        assert outcome.figures["changed_share"] == 0

    def test_block_where_no_table_has_dates(self) -> None:
        outcome = judge(TableRows("visits"), changed=NONE)
        assert outcome.blocks
        assert outcome.message.endswith("whether it is fresh is not watched")

    def test_can_be_allowed(self) -> None:
        assert judge(table(1_000), changed=NONE, allow_unchanged=True).passed

    def test_are_not_those_of_a_sample_alone(self) -> None:
        assert judge(table(1_000), changed=ChangedRows(YESTERDAY, rows=400, changed=0, unchanged=False)).passed

    def test_that_nobody_can_compare_are_said_to_be_so(self) -> None:
        outcome = judge(changed=None)
        assert (outcome.passed, outcome.severity) == (True, "info")
        assert outcome.message.startswith("not_compared")
