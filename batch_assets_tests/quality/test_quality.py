import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.features.contract import Column, FeatureContract
from batch_assets.histogram import Histogram
from batch_assets.quality.completeness import (
    CompletenessSettings,
    judge_audit,
    judge_completeness,
    judge_dead_letters,
    judge_one_model,
)
from batch_assets.quality.drift import (
    DriftSettings,
    Levels,
    between,
    judge_baseline,
    judge_drift,
    judge_scores,
)
from batch_assets.quality.expectations import ExpectationSettings, judge_data, judge_profile
from batch_assets.quality.outcome import CheckOutcome, none_blocks

DAY = "2024-01-04"
EDGES = tuple(np.linspace(0.01, 0.99, 99).tolist())


def scores(low: float, high: float, count: int = 20_000, seed: int = 0) -> Histogram:
    return Histogram.of(np.random.default_rng(seed).uniform(low, high, count), EDGES)


class TestOutcome:
    def outcome(self, passed: bool, severity: str) -> CheckOutcome:
        return CheckOutcome.model_validate(
            {"name": "n", "asset": "predictions", "passed": passed, "severity": severity, "message": ""}
        )

    def test_only_a_failed_error_blocks(self) -> None:
        assert self.outcome(False, "error").blocks
        assert not any(self.outcome(*what).blocks for what in [(True, "error"), (False, "warn"), (False, "info")])

    def test_nothing_judged_is_not_good(self) -> None:
        assert not none_blocks([])
        assert none_blocks([self.outcome(True, "error"), self.outcome(False, "warn")])
        assert not none_blocks([self.outcome(True, "error"), self.outcome(False, "error")])


class TestCompleteness:
    def judge(self, **counts: int) -> CheckOutcome:
        given_counts = {"rows": 1_000, "scored": 1_000, "excluded": 0, "dead_lettered": 0, "proven_rows": 1_000, **counts}
        return judge_completeness(**given_counts, settings=CompletenessSettings())

    def test_all_rows_scored_is_complete(self) -> None:
        assert self.judge().passed

    @pytest.mark.parametrize(("dead", "passed"), [(10, True), (11, False)])
    def test_the_ratio_has_a_threshold(self, dead: int, passed: bool) -> None:
        outcome = self.judge(scored=1_000 - dead, dead_lettered=dead)
        assert (outcome.passed, outcome.observed) == (passed, (1_000 - dead) / 1_000)

    def test_excluded_rows_are_not_expected(self) -> None:
        assert self.judge(scored=500, excluded=500).passed

    @pytest.mark.parametrize(
        "counts",
        [
            {"proven_rows": 999},
            {"scored": 999},
            {"scored": 1_001},
            {"scored": 0, "excluded": 1_000},
            {"rows": 0, "scored": 0, "proven_rows": 0},
        ],
    )
    def test_what_is_not_accounted_for_blocks(self, counts: dict[str, int]) -> None:
        assert self.judge(**counts).blocks

    def test_an_empty_partition_is_good_only_where_that_was_said(self) -> None:
        empty = {"rows": 0, "scored": 0, "excluded": 0, "dead_lettered": 0, "proven_rows": 0}
        assert judge_completeness(**empty, settings=CompletenessSettings(allow_empty=True)).passed

    def test_where_nothing_was_to_be_scored_nothing_was(self) -> None:
        assert self.judge(scored=0, excluded=1_000).observed == 0
        assert self.judge(scored=0, excluded=1_000).blocks

    @pytest.mark.parametrize(("dead", "passed"), [(0, True), (1, True), (2, False)])
    def test_one_dead_letter_in_a_thousand_is_few_enough(self, dead: int, passed: bool) -> None:
        outcome = judge_dead_letters(rows=1_000, dead_lettered=dead, settings=CompletenessSettings())
        assert (outcome.passed, outcome.severity, outcome.blocks, outcome.observed) == (passed, "warn", False, dead / 1_000)

    def test_no_rows_have_no_dead_letters(self) -> None:
        assert judge_dead_letters(rows=0, dead_lettered=0, settings=CompletenessSettings()).passed


class TestOneModel:
    def test_chunks_of_another_version_or_program_block_and_are_named(self) -> None:
        ours = ("v2", "a" * 64)
        assert judge_one_model({ours}, *ours).passed
        assert (judge_one_model({ours}, *ours).observed, judge_one_model({ours}, *ours).threshold) == (1, 1)
        assert judge_one_model(set(), *ours).passed, "an empty day has no chunks"
        for other in (("v1", "a" * 64), ("v2", "b" * 64)):
            outcome = judge_one_model({ours, other}, *ours)
            assert outcome.blocks
            assert f"scored by {other[0]} (sha256 {other[1][:16]})" in outcome.message
            assert judge_one_model({other}, *ours).blocks


class TestAudit:
    def judge(self, scored: int, audited: int, detects: float = 0.96) -> CheckOutcome:
        return judge_audit(scored=scored, audited=audited, bit_equal=audited, detects=detects)

    def test_rows_were_scored_again(self) -> None:
        outcome = self.judge(1_000, 320)
        assert outcome.passed
        assert outcome.message.startswith("320 rows scored again, 320 of them bit-equal")
        assert self.judge(0, 0).passed
        assert [(one.observed, one.threshold) for one in (outcome, self.judge(0, 0))] == [(0.96, 0.95), (None, 0.95)]

    @pytest.mark.parametrize(("detects", "passed"), [(0.33, False), (0.9499, False), (0.95, True)])
    def test_a_look_that_finds_little_warns_and_says_so(self, detects: float, passed: bool) -> None:
        outcome = self.judge(1_000, 40, detects)
        assert (outcome.passed, outcome.blocks) == (passed, False)
        assert f"one wrong row in a hundred is found with probability {detects:.4f}" in outcome.message
        assert passed or "at least 0.95 is wanted" in outcome.message

    def test_a_run_that_nobody_looked_at_twice_blocks(self) -> None:
        outcome = self.judge(1_000, 0, 0.0)
        assert outcome.blocks
        assert "None of 1,000 scored rows" in outcome.message


class TestDrift:
    def judge(self, actual: Histogram) -> CheckOutcome:
        trailing = {f"2024-01-0{day}": scores(0.2, 0.8, seed=day) for day in (1, 2, 3)}
        return judge_drift(DAY, actual, trailing, DriftSettings())

    def test_the_same_scores_pass(self) -> None:
        outcome = self.judge(scores(0.2, 0.8, seed=9))
        assert outcome.passed
        assert outcome.observed is not None
        assert outcome.observed < 0.01
        assert (outcome.severity, outcome.threshold) == ("error", 0.1), "it is a check that could have blocked"
        assert re.search(
            r"against 2024-01-0[1-3] \([A-Z][a-z]+day\), the nearest comparable one of 3 accepted day", outcome.message
        )

    def test_scores_in_other_bins_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="other edges"):
            between(scores(0.2, 0.8), Histogram.empty((0.5,)))
        with pytest.raises(ValueError, match="other edges"):
            between(Histogram.of(np.array([0.1, 0.9]), (0.4,)), Histogram.of(np.array([0.1, 0.9]), (0.5,)))

    def test_a_small_shift_warns_and_does_not_block(self) -> None:
        outcome = self.judge(scores(0.2, 0.8, 14_000) + scores(0.6, 0.8, 6_000))
        assert (outcome.passed, outcome.severity, outcome.blocks) == (False, "warn", False)

    def test_a_large_shift_blocks(self) -> None:
        assert self.judge(scores(0.4, 1.0)).blocks

    def test_a_shift_that_one_measure_sees_is_enough(self) -> None:
        """A tenth of the rows moves far within the highest group: PSI over ten groups sees little of it, KS much."""
        settings = DriftSettings(block=Levels(psi=9.0, ks=0.2, js=9.0))
        outcome = judge_drift(DAY, scores(0.4, 1.0), {"2024-01-01": scores(0.2, 0.8)}, settings)
        assert outcome.blocks
        assert "blocks as KS reaches 0.2" in outcome.message
        assert set(outcome.figures) == {"psi", "ks", "js"}

    def test_two_hundred_rows_do_not_cry_wolf(self) -> None:
        alarms = 0
        for seed in range(200):
            trailing = {"2024-01-01": scores(0.2, 0.8, 200, seed=seed)}
            alarms += not judge_drift(DAY, scores(0.2, 0.8, 200, seed=seed + 1_000), trailing, DriftSettings()).passed
        assert alarms <= 2

    def test_two_hundred_rows_that_are_all_elsewhere_are_seen(self) -> None:
        assert judge_drift(DAY, scores(0.7, 1.0, 200), {"2024-01-01": scores(0.2, 0.8, 200)}, DriftSettings()).blocks

    def test_nothing_to_compare_with_is_said(self) -> None:
        outcome = judge_drift(DAY, scores(0, 1), {}, DriftSettings())
        assert (outcome.passed, outcome.severity) == (True, "info")
        assert outcome.message.startswith("not_compared")

    def test_it_cannot_block_before_it_warns(self) -> None:
        with pytest.raises(ValueError, match="below the"):
            DriftSettings(warn=Levels(psi=0.5, ks=0.1, js=0.1), block=Levels(psi=0.25, ks=0.2, js=0.2))

    def test_the_baseline_only_warns(self) -> None:
        outcome = judge_baseline(scores(0.6, 1.0), scores(0.0, 0.5), "2023-12-31", DriftSettings())
        assert (outcome.passed, outcome.severity, outcome.blocks) == (False, "warn", False)

    def test_constant_and_non_finite_scores_block(self) -> None:
        assert judge_scores(Histogram.of(np.full(100, 0.3), EDGES), {"no": 100}).blocks
        assert judge_scores(Histogram.of(np.array([0.1, 0.2, np.nan]), EDGES), {"no": 2, "yes": 0}).blocks
        assert judge_scores(scores(0, 1), {"no": 10_000, "yes": 10_000}).passed

    @pytest.mark.parametrize("labels", [{"no": 6_000, "yes": 0}, {"no": 0, "yes": 6_000}, {"a": 0, "b": 6_000, "c": 0}])
    def test_one_label_for_everybody_warns(self, labels: dict[str, int]) -> None:
        threshold = 0.5 if len(labels) == 2 else None
        outcome = judge_scores(scores(0.01, 0.32, 6_000), labels, threshold)
        assert (outcome.passed, outcome.severity) == (False, "warn")
        (given,) = (label for label, rows in labels.items() if rows)
        assert outcome.message.startswith(f"All 6,000 rows have the same label, {given}: scores are from 0.01")
        assert ("the threshold of the model's card is 0.5" in outcome.message) is (threshold is not None)

    def test_a_few_rows_may_have_one_label(self) -> None:
        assert judge_scores(scores(0.01, 0.32, 29), {"no": 29, "yes": 0}, 0.5).passed
        assert not judge_scores(scores(0.01, 0.32, 30), {"no": 30, "yes": 0}, 0.5).passed


class TestExpectations:
    contract = FeatureContract.model_validate(
        {
            "key": {"name": "user", "dtype": "int64"},
            "columns": [{"name": "x", "min": 0, "max": 10}, {"name": "y"}, {"name": "z", "min": -1}],
        }
    )

    def judge(
        self,
        *columns: dict[str, object],
        allow_empty: bool = False,
        nullable: bool = False,
        settings: ExpectationSettings | None = None,
    ) -> CheckOutcome:
        good = {"rows": 1_000, "nulls": 0, "nans": 0, "infinities": 0, "zeros": 0, "minimum": 1.0, "maximum": 9.0, "mean": 5.0}
        names = ("x", "y", "z", "w") if nullable else ("x", "y", "z")
        contract = self.contract.model_copy(
            update={"columns": (*self.contract.columns, *([Column(name="w", nullable=True)] if nullable else []))}
        )
        profile = [{**good, "column": name} for name in names]
        for change in columns:
            next(row for row in profile if row["column"] == change["column"]).update(change)
        kept = [row for row in profile if not row.get("absent")]
        schema = pa.schema(
            [("column", pa.string()), *[(name, pa.int64()) for name in ("rows", "nulls", "nans", "infinities", "zeros")]]
            + [(name, pa.float64()) for name in ("minimum", "maximum", "mean")]
        )
        return judge_profile(
            pa.Table.from_pylist(kept, schema=schema), contract, settings or ExpectationSettings(), allow_empty=allow_empty
        )

    def test_a_good_profile_passes(self) -> None:
        outcome = self.judge()
        assert (outcome.passed, outcome.message) == (True, "7 expectations hold for 3 columns.")
        assert (outcome.observed, outcome.threshold, outcome.severity) == (0, 0, "error")

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            ({"column": "y", "nulls": 500}, "y is missing in 500 of 1,000 rows (50.00%), at most 1.00% is allowed"),
            ({"column": "y", "nans": 11}, "y is missing in 11 of 1,000 rows (1.10%), at most 1.00% is allowed"),
            ({"column": "z", "infinities": 20}, "z is missing in 20 of 1,000 rows (2.00%), at most 1.00% is allowed"),
            (
                {"column": "z", "rows": 100_000, "nulls": 1_001},
                "z is missing in 1,001 of 100,000 rows (1.001%), at most 1.00% is allowed",
            ),
            ({"column": "x", "minimum": -0.5}, "x is -0.5 at the lowest, at least 0 is permitted"),
            ({"column": "x", "maximum": 10.5}, "x is 10.5 at the highest, at most 10 is permitted"),
            ({"column": "x", "maximum": 10.00000001}, "x is 10.00000001 at the highest, at most 10 is permitted"),
            ({"column": "z", "minimum": -1.01}, "z is -1.01 at the lowest, at least -1 is permitted"),
            ({"column": "x", "rows": 0}, "x has no rows, at least 1 is wanted"),
            ({"column": "z", "absent": True}, "z is not there, or is no number"),
            (
                {"column": "y", "nulls": 1_000, "minimum": None, "maximum": None, "mean": None},
                "y has no value in any of 1,000 rows, at least one is wanted",
            ),
        ],
    )
    def test_what_is_wrong_blocks_and_says_value_and_limit(self, change: dict[str, object], finding: str) -> None:
        outcome = self.judge(change)
        assert outcome.blocks
        assert outcome.message == finding, "once, and nothing else"

    def test_no_rows_are_good_where_that_was_said(self) -> None:
        empty = {"rows": 0, "minimum": None, "maximum": None, "mean": None}
        profile = [{"column": name, **empty} for name in ("x", "y", "z")]
        assert self.judge(*profile).blocks
        assert self.judge(*profile, allow_empty=True).passed

    def test_a_few_missing_values_only_warn(self) -> None:
        outcome = self.judge({"column": "y", "nulls": 3})
        assert (outcome.passed, outcome.severity) == (False, "warn")
        assert outcome.message == "y is missing in 3 of 1,000 rows (0.30%), none is expected"

    def test_offending_columns_come_first_in_the_table(self) -> None:
        outcome = self.judge({"column": "z", "minimum": -5.0})
        assert outcome.table.splitlines()[2].startswith("| z |")

    @pytest.mark.parametrize(
        ("own", "blocks", "finding"),
        [
            ({"statistic": "mean", "max": 4.0}, True, "y has the mean 5, at most 4 expected"),
            (
                {"statistic": "mean", "min": 5.5, "max": 9, "severity": "warn"},
                False,
                "y has the mean 5, at least 5.5 and at most 9 expected",
            ),
            ({"statistic": "zeros", "max": 0.4}, True, "y is zero in 50.00% of the rows, at most 40.00% expected"),
            ({"statistic": "minimum", "min": 2}, True, "y has the minimum 1, at least 2 expected"),
        ],
    )
    def test_what_the_team_expects_is_judged_too(self, own: dict[str, object], blocks: bool, finding: str) -> None:
        settings = ExpectationSettings.model_validate({"own": [{"column": "y", **own}]})
        outcome = self.judge({"column": "y", "zeros": 500}, settings=settings)
        assert (outcome.passed, outcome.blocks, outcome.message) == (False, blocks, finding)

    def test_what_the_team_expects_of_one_column_is_not_asked_of_others(self) -> None:
        settings = ExpectationSettings.model_validate({"own": [{"column": "y", "statistic": "mean", "min": 4, "max": 6}]})
        assert self.judge({"column": "x", "mean": 100.0}, settings=settings).passed

    def test_an_expectation_says_something(self) -> None:
        with pytest.raises(ValueError, match="has neither min nor max"):
            ExpectationSettings.model_validate({"own": [{"column": "y", "statistic": "mean"}]})

    @pytest.mark.parametrize(("nulls", "passed"), [(999, True), (1_000, False)])
    def test_where_missing_values_are_permitted_one_must_be_there(self, nulls: int, passed: bool) -> None:
        assert self.judge({"column": "w", "nulls": nulls}, nullable=True).passed is passed


class TestFullScan:
    """great-expectations on the rows themselves."""

    contract = FeatureContract.model_validate(
        {
            "key": {"name": "user", "dtype": "int64"},
            "columns": [{"name": "x", "min": 0, "max": 10}, {"name": "y", "nullable": True}],
        }
    )

    def judge(self, own: list[dict[str, object]] | None = None, **columns: object) -> CheckOutcome:
        good = {"user": [1, 2, 3, 4], "x": [0.0, 1.0, 2.0, 10.0], "y": [None, 1.0, None, None]}
        types = {"user": pa.int64(), "x": pa.float32(), "y": pa.float32()}
        data = {name: pa.array(given, types[name]) for name, given in {**good, **columns}.items()}
        return judge_data([pa.table(data)], self.contract, ExpectationSettings.model_validate({"own": own or []}))

    def test_good_rows_pass(self) -> None:
        outcome = self.judge([{"column": "x", "statistic": "mean", "min": 3, "max": 4}])
        assert (outcome.name, outcome.passed, outcome.message) == ("full_scan", True, "7 expectations hold for 4 rows.")

    @pytest.mark.parametrize(
        ("columns", "finding"),
        [
            (
                {"user": [1, 2, 2, 4]},
                "user is that of another row in 2 of 4 rows (50.00%), none is permitted, first user 2, 2",
            ),
            ({"user": [1, None, 3, 4]}, "user is null in 1 of 4 rows (25.00%), none is permitted, first user nan"),
            ({"x": [0, 1, 2, 11]}, "x is below 0 or above 10 in 1 of 4 rows (25.00%), none is permitted, first user 4"),
            ({"x": [0, 1, None, 10]}, "x is missing in 1 of 4 rows (25.00%), at most 1.00% is allowed, first user 3"),
            (
                {"y": [None] * 4},
                "y is missing in 4 of 4 rows (100.00%), at least one value is wanted, first user 1, 2, 3, 4",
            ),
            ({"user": [], "x": [], "y": []}, "there are no rows, at least 1 is wanted"),
        ],
    )
    def test_what_is_wrong_blocks_and_says_value_limit_and_share(self, columns: dict[str, object], finding: str) -> None:
        outcome = self.judge(**columns)
        assert outcome.blocks
        assert outcome.message == finding

    def test_what_the_team_expects_is_judged_too(self) -> None:
        own = [{"column": "x", "statistic": "mean", "max": 3, "severity": "warn"}]
        outcome = self.judge(own)
        assert (outcome.passed, outcome.blocks, outcome.message) == (False, False, "x has the mean 3.25, at most 3 expected")

    def test_of_many_rows_a_few_are_named(self) -> None:
        outcome = self.judge(user=list(range(100)), x=[-1.0] * 100, y=[1.0] * 100)
        assert outcome.message == (
            "x is below 0 or above 10 in 100 of 100 rows (100.00%), none is permitted, first user 0, 1, 2, 3, 4"
        )


@pytest.mark.process
@pytest.mark.parametrize("known", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_spark_that_is_installed_is_not_imported(tmp_path: Path, known: bool) -> None:
    """A part of its package ends processes in which it does not find a main module; a made-up one stands for it."""
    (tmp_path / "pyspark" / "sql" / "connect").mkdir(parents=True)
    (tmp_path / "pyspark" / "__init__.py").write_text("" if known else "raise SystemExit('imported')")
    (tmp_path / "pyspark" / "sql" / "__init__.py").touch()
    (tmp_path / "pyspark" / "sql" / "connect" / "__init__.py").write_text("raise SystemExit('imported')")
    first = "import pyspark" if known else ""
    program = f"""
{first}
from batch_assets.features.contract import Column, FeatureContract
from batch_assets.quality.expectations import ExpectationSettings, judge_profile
import pyarrow as pa
contract = {{"key": {{"name": "user", "dtype": "int64"}}, "columns": [{{"name": "x"}}]}}
names = ("rows", "nulls", "nans", "infinities", "zeros", "minimum", "mean", "maximum")
profile = pa.table({{"column": ["x"], **{{name: [1.0] for name in names}}}})
assert judge_profile(profile, FeatureContract.model_validate(contract), ExpectationSettings()).name == "expectations"
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
