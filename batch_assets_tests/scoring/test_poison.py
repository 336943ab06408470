"""Rows that make the model raise: only they are dead-lettered, at a bounded price, and a broken model is not a data problem."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ModelFails, StillFailing
from batch_assets.proof.audit import Sample
from batch_assets.proof.audit import compare as compare_values
from batch_assets.scoring import retry
from batch_assets.scoring.inputs import Batch
from batch_assets.scoring.poison import Breaker, isolate
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.faulty import Faulty, FaultyPredictor
from batch_assets_tests.poison_night import compare
from batch_assets_tests.small import Small, Working, rows, with_values

Make = Callable[..., Small]
POISON = 77.0


@given(st.sets(st.integers(0, 255), min_size=1, max_size=12), st.integers(1, 256))
def test_exactly_the_culprits_are_found_at_the_stated_price(bad: set[int], size: int) -> None:
    bad = {row for row in bad if row < size} or {0}
    scored: set[int] = set()
    raised = 0

    def run(batch: Batch) -> None:
        nonlocal raised
        if bad & set(batch.rows.tolist()):
            raised += 1
            raise ValueError("poison")
        scored.update(batch.rows.tolist())

    rows = np.arange(size)
    found = isolate(run, Batch(rows, rows, 256), ValueError("poison"), Breaker("chunk-00000", size, 1.0))
    assert set(found) == bad
    assert scored == set(range(size)) - bad
    assert set(found.values()) == {"ValueError: poison"}
    assert raised + 1 <= len(bad) * (math.ceil(math.log2(size)) + 1)


def faulty(working: Working, fault: str, **more: str) -> tuple[Scorer, FaultyPredictor]:
    working.task = replace(working.task, load=Faulty(working.task.load, fault, POISON, **more))
    scorer = working.task.open()
    assert isinstance(scorer.predictor, FaultyPredictor)
    return scorer, scorer.predictor


def poisoned(make_small: Make, places: list[int], count: int = 2_000, **settings: object) -> Working:
    scoring = {"chunk_rows": 1_024, "batch_size": 256, **settings}
    return Working(make_small(with_values(rows(count), "x", dict.fromkeys(places, POISON)), scoring=scoring))


def test_the_others_have_the_bits_of_a_run_without_faults(make_small: Make) -> None:
    working, places = poisoned(make_small, [3, 4, 300, 1_030]), {4, 5, 301, 1_031}
    healthy = Working(make_small(rows(2_000), scoring={"chunk_rows": 1_024, "batch_size": 256}))
    healthy.score_all()
    scorer, predictor = faulty(working, "no such id")
    commits = [scorer.score(chunk) for chunk in working.run.plan]
    assert [commit.dead_lettered for commit in commits] == [3, 1]
    assert {row["user"] for row in working.rejects()} == places
    assert {(row["reason"], row["error"]) for row in working.rejects()} == {("the model raised", "ValueError: no such id")}
    for number in (0, 1):
        survivors = pq.read_table(working.path(number), columns=["user", "probability"]).to_pylist()
        everybody = pq.read_table(healthy.path(number), columns=["user", "probability"]).to_pylist()
        assert survivors == [row for row in everybody if row["user"] not in places]
    assert working.prove().rows == 2_000
    assert predictor.raised <= 4 * (math.ceil(math.log2(256)) + 1)


def test_a_model_that_fails_on_the_whole_first_batch_stops_the_run_at_once(make_small: Make) -> None:
    working = poisoned(make_small, list(range(1_024)))
    scorer, predictor = faulty(working, "weights are broken")
    with pytest.raises(ModelFails, match=r"whole first batch of chunk-00000.*weights are broken"):
        scorer.score(working.run.plan[0])
    assert predictor.calls <= 20
    assert not working.commits()


def test_too_many_rows_stop_the_run_with_the_models_own_error(make_small: Make) -> None:
    working = poisoned(make_small, list(range(0, 1_024, 8)))
    scorer, predictor = faulty(working, "no such id")
    with pytest.raises(ModelFails, match=r"more than 10 rows \(1.00%\) of chunk-00000 \(ValueError: no such id\)"):
        scorer.score(working.run.plan[0])
    assert predictor.raised < 11 * 9


def test_how_many_are_too_many_can_be_set(make_small: Make) -> None:
    working = poisoned(make_small, list(range(0, 1_024, 8)), max_failed=0.2)
    scorer, _ = faulty(working, "no such id")
    assert scorer.score(working.run.plan[0]).dead_lettered == 128


def test_a_few_rows_say_nothing_about_the_model(make_small: Make) -> None:
    """The last chunk has one row, and it is poison."""
    working = poisoned(make_small, [1_024], count=1_025)
    scorer, _ = faulty(working, "no such id")
    assert [scorer.score(chunk).dead_lettered for chunk in working.run.plan] == [0, 1]


def test_none_at_all_may_raise_where_that_was_said(make_small: Make) -> None:
    working = poisoned(make_small, [3], max_failed=0.0)
    scorer, _ = faulty(working, "no such id")
    with pytest.raises(ModelFails, match="more than 0 rows"):
        scorer.score(working.run.plan[0])


def test_what_the_audit_draws_may_be_poison(make_small: Make) -> None:
    """Rows that were dead-lettered are not scored again."""
    working = poisoned(make_small, [3, 40, 500], max_failed=0.2)
    scorer, predictor = faulty(working, "no such id")
    commit = scorer.score(working.run.plan[0])
    raised = predictor.raised
    found = compare_values(
        scorer, Sample(working.run.plan[0], tuple(range(1_024)), commit.environment, commit.batch_rows, commit.rejects)
    )
    assert (found.rows, found.bit_equal, found.fault) == (1_021, 1_021, "")
    assert predictor.raised == raised


class TestTransientErrors:
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retry, "WAITS", (0.001, 0.001))

    def test_a_lost_connection_is_tried_again_and_leaves_no_dead_letter(self, make_small: Make) -> None:
        working = poisoned(make_small, [3, 400])
        flag = working.small.source.parent / "hang up"
        flag.touch()
        scorer, predictor = faulty(working, "lose connection once", while_there=str(flag))
        assert scorer.score(working.run.plan[0]).dead_lettered == 0
        assert predictor.raised == 1
        assert not flag.exists()

    def test_one_that_stays_lost_stops_the_run(self, make_small: Make) -> None:
        working = poisoned(make_small, [3])
        scorer, predictor = faulty(working, "lose connection")
        with pytest.raises(StillFailing, match=r"chunk-00000 still fails after 3 attempts .*hung up"):
            scorer.score(working.run.plan[0])
        assert predictor.raised == 4
        assert not working.commits()

    @pytest.mark.parametrize("rest", [[], [5, 130, 700]])
    def test_a_blip_while_poison_is_looked_for_costs_no_good_row(self, make_small: Make, rest: list[int]) -> None:
        """The connection is lost at the second pass that raises, in the middle of a bisection."""
        working = poisoned(make_small, [3, *rest])
        scorer, predictor = faulty(working, "no such id")
        real, calls = predictor.forward, []

        def forward(batches: Any) -> Any:
            for batch in batches:
                calls.append(1)
                if len(calls) in (2, 3):
                    raise ConnectionResetError("blip")
                yield from real([batch])

        predictor.forward = forward  # type: ignore[method-assign]
        assert scorer.score(working.run.plan[0]).dead_lettered == 1 + len(rest)

    def test_a_blip_and_then_poison_in_one_batch(self, make_small: Make) -> None:
        working = poisoned(make_small, [3])
        scorer, predictor = faulty(working, "no such id")
        real, calls = predictor.forward, []

        def forward(batches: Any) -> Any:
            for batch in batches:
                calls.append(1)
                if len(calls) == 1:
                    raise ConnectionResetError("blip")
                yield from real([batch])

        predictor.forward = forward  # type: ignore[method-assign]
        assert scorer.score(working.run.plan[0]).dead_lettered == 1

    def test_one_that_stays_lost_in_the_middle_is_no_dead_letter(self, make_small: Make) -> None:
        working = poisoned(make_small, [3])
        scorer, predictor = faulty(working, "no such id")
        real, calls = predictor.forward, []

        def forward(batches: Any) -> Any:
            for batch in batches:
                calls.append(1)
                if len(calls) > 3:
                    raise ConnectionResetError("gone")
                yield from real([batch])

        predictor.forward = forward  # type: ignore[method-assign]
        with pytest.raises(StillFailing, match="gone"):
            scorer.score(working.run.plan[0])

    def test_what_does_not_pass_is_not_tried_again(self) -> None:
        calls = []

        def call() -> None:
            calls.append(1)
            raise KeyError("no")

        with pytest.raises(KeyError):
            retry.patiently(call, "It")
        assert len(calls) == 1

    def test_a_sentence_about_a_lost_connection_is_transient_too(self) -> None:
        sentence = StillFailing("cannot be read")
        sentence.__cause__ = ConnectionResetError("gone")
        assert retry.is_transient(sentence)
        assert not retry.is_transient(ValueError("x"))
        assert retry.is_transient(OSError(16, "busy"))


@pytest.mark.night
def test_poison_of_six_kinds_and_nothing_else_is_dead_lettered(tmp_path: Path) -> None:
    """The short version of benchmarks/poison.py, which does the same with 1,000 rows in a million."""
    found = compare(tmp_path, rows=20_000, poison=60, chunk_rows=4_096, engine=LocalEngine())
    assert (found["poison_rows"], found["others_bit_equal"], found["proven_rows"]) == (60, 19_940, 20_000)
    assert sorted(found["dead_letters_by_reason"].values()) == [10] * 6  # type: ignore[attr-defined]
