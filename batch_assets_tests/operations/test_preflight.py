"""Preflight on real files: a sample says what the night will be like, and may stop it before a chunk is scored."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotPublishable, PreflightFailed
from batch_assets.features.snapshot import days_of
from batch_assets.models.registry import Registry
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.summary import summarize
from batch_assets.operations.decide import look_again, override_day, verdict_of
from batch_assets.operations.explain import explain
from batch_assets.operations.preflight import Preflight, preflight
from batch_assets.operations.prune import prune
from batch_assets.operations.replay import replay
from batch_assets.operations.rollout import approve, outstanding, plan_rollout
from batch_assets.operations.sweep import newest_frozen_day
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.sensors import build_rollout_sensor
from batch_assets.storage import LocalStorage
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.small import DAY, Quiet, Small, rows, small_model, with_values

Make = Callable[..., Small]

BEFORE = "2024-03-09"


def looked_ahead(small: Small, version: str | None = None) -> Preflight:
    freeze(small.config, small.storage, DAY, small.progress)
    model = small.registry.version("small", version) if version else small.model
    return preflight(small.config, small.storage, DAY, model, small.progress)


def registered(small: Small, weights: list[float], version: str = "v2") -> None:
    model = small_model(weights)
    small.registry.register("small", version, small.card(model, confirmed=not any(weights)), model)


class TestWhatItSays:
    def test_of_a_first_night_only_what_the_sample_shows(self, small: Small) -> None:
        found = looked_ahead(small)
        assert (found.go, found.against, found.drift, found.shift, found.minutes) == (True, None, {}, {}, None)
        assert (found.sampled, found.rows) == (2_000, 2_000)
        assert found.dead_letters is not None
        assert found.memory is not None
        assert found.dead_letters.value == 0
        assert 0 < found.memory.low <= found.memory.value <= found.memory.high
        assert found.sentence().startswith(f"Preflight of small {DAY} with v1: 2,000 rows, 0.00% to ")

    def test_of_a_later_one_drift_duration_and_cost(self, make_small: Make) -> None:
        small = make_small(engine={"price": {"per_hour": 6.0, "currency": "EUR"}})
        small.night(BEFORE)
        found = looked_ahead(small)
        assert found.go
        assert found.minutes is not None
        assert found.cost is not None
        assert found.minutes.low <= found.minutes.value <= found.minutes.high
        assert (found.cost.value, found.currency) == (pytest.approx(found.minutes.value / 10), "EUR")
        assert set(found.drift) == {"psi", "ks", "js"}
        assert all(bounds.low <= bounds.high < 0.05 for bounds in found.drift.values())

    def test_of_a_large_day_a_sample(self, make_small: Make) -> None:
        small = make_small(rows(40_000), scoring={"chunk_rows": 4_096, "batch_size": 64})
        assert 1_000 < looked_ahead(small).sampled <= 16_384


class TestAnotherVersion:
    def test_is_compared_with_the_one_that_it_would_replace(self, small: Small) -> None:
        registered(small, [1.05, -0.5, 0.25])
        found = looked_ahead(small, "v2")
        assert (found.go, found.version, found.against) == (True, "v2", "v1")
        assert found.shift["psi"].high < 0.1

    @pytest.mark.parametrize("weights", [[-1.0, 0.5, -0.25], [5.0, -2.0, 1.0]])
    def test_that_scores_otherwise_is_a_no_go(self, small: Small, weights: list[float]) -> None:
        registered(small, weights)
        found = looked_ahead(small, "v2")
        assert not found.go
        assert found.reasons[0].startswith("previous_model: PSI")

    def test_that_scores_otherwise_as_its_approver_was_told_is_a_go(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        registered(small, [-1.0, 0.5, -0.25])
        approve([small.config], small.storage, small.registry, "small", "batch", "v2", why="better", by="Ann")
        found = looked_ahead(small)
        assert (found.go, found.version, found.against) == (True, "v2", "v1")

    def test_a_version_that_was_rolled_back_is_not_compared_with(self, small: Small) -> None:
        small.register("v2", small_model([9.0, 9.0, 9.0]))
        small.registry.approve("small", "batch", "v1", why="back", by="the test")
        assert looked_ahead(small).against is None


class TestNoGo:
    def test_a_model_that_says_nothing(self, small: Small) -> None:
        registered(small, [0.0, 0.0, 0.0])
        found = looked_ahead(small, "v2")
        assert any("all 2,000 scores of the sample are 0.5" in reason for reason in found.reasons)

    def test_features_that_block(self, small: Small) -> None:
        small.night(BEFORE)
        small.replace_rows(rows(1_000))
        assert any(reason.startswith("changes: 1,000 rows are 50% fewer") for reason in looked_ahead(small).reasons)

    def test_too_many_rows_that_cannot_be_scored(self, make_small: Make) -> None:
        """Missing values are permitted by the gate and not by the model."""
        small = make_small(
            with_values(rows(2_000), "x", dict.fromkeys(range(100), np.nan)),
            quality={"expectations": {"max_missing": 0.1}},
        )
        found = looked_ahead(small)
        assert found.dead_letters is not None
        assert found.dead_letters.low < 0.05 < found.dead_letters.high
        assert "of the rows would be dead letters, at most 1.00% are wanted" in found.reasons[0]

    def test_scores_that_moved(self, small: Small) -> None:
        small.night(BEFORE)
        table = rows(2_000)
        small.replace_rows(table.set_column(1, "x", pa.array(table["x"].to_numpy() + np.float32(2))))
        found = looked_ahead(small)
        assert found.drift["psi"].low > 0.25
        assert any(reason.startswith("drift: PSI would be ") for reason in found.reasons)

    @pytest.mark.parametrize("seed", [0, 2, 3])
    def test_what_chance_does_to_a_few_scores_is_none(self, make_small: Make, seed: int) -> None:
        small = make_small(rows(40, seed=10 * seed))
        small.night(BEFORE)
        small.replace_rows(rows(40, seed=10 * seed + 1))
        assert not [reason for reason in looked_ahead(small).reasons if reason.startswith("drift")]

    def test_scores_that_somebody_let_pass_are_none(self, small: Small) -> None:
        """On the day itself, and on those until which the decision holds."""
        small.night("2024-03-08")
        table = rows(2_000)
        small.replace_rows(table.set_column(1, "x", pa.array(table["x"].to_numpy() + np.float32(2))))
        with pytest.raises(NotPublishable):
            small.night(BEFORE)
        seen = look_again(small.config, small.storage, small.registry, BEFORE)
        override_day(small.config, small.storage, small.registry, seen, by="Ann", why="a campaign", until=DAY)
        for day in (BEFORE, DAY, "2024-03-11"):
            found = preflight(small.config, small.storage, day, small.model, small.progress)
            assert found.go == (day <= DAY), found.reasons
            assert found.drift["psi"].low > 0.25

    def test_a_model_of_other_features(self, small: Small) -> None:
        model = small_model()
        columns = tuple(
            column.model_copy(update={"name": "w"}) if column.name == "z" else column
            for column in small.config.features.contract.columns
        )
        contract = small.config.features.contract.model_copy(update={"columns": columns})
        card = small.card(model).model_copy(update={"contract": contract})
        small.registry.register("small", "v2", card, model)
        found = looked_ahead(small, "v2")
        assert "z seems to be renamed" in found.reasons[0] or "w" in found.reasons[0]

    def test_it_is_an_error_with_every_reason(self, small: Small) -> None:
        registered(small, [0.0, 0.0, 0.0])
        with pytest.raises(PreflightFailed, match=r"says no: .*the model says nothing.*Not a chunk was scored"):
            looked_ahead(small, "v2").require()
        looked_ahead(small).require()


def test_as_the_first_step_it_stops_a_bad_model_before_a_chunk_is_scored(make_small: Make) -> None:
    small = make_small(preflight=True)
    with dg.instance_for_test() as instance:
        location = repository(small)
        assert instance.get_run_by_id(run(location, instance, BEFORE)).is_success  # type: ignore[union-attr]
        small.register("v2", small_model([0.0, 0.0, 0.0]), confirmed=True)
        failed = instance.get_run_by_id(run(location, instance, DAY))
        assert failed is not None
        assert not failed.is_success
        folder = small.opened(DAY).folder
        assert small.storage.names(folder) == {}


def tree(small: Small) -> dict[str, int]:
    """Every file and folder under the root but scratch folders, which are nobody's, and the size of each file."""
    root = Path(small.storage.root)
    found = {path.relative_to(root): path for path in root.rglob("*")}
    return {str(name): path.stat().st_size if path.is_file() else 0 for name, path in found.items() if "_tmp" not in name.parts}


class TestItLeavesNothingBehind:
    """A day that was only looked at counts for nobody."""

    def test_of_a_day_that_was_never_frozen(self, make_small: Make) -> None:
        small = make_small(scoring={"chunk_rows": 256, "batch_size": "auto"})
        small.night(BEFORE)
        before = tree(small)
        found = flown_unfrozen(small)
        assert (found.go, found.rows, found.sampled) == (True, 2_000, 2_000)
        assert found.drift["psi"].high < 0.1, "it was compared with the day before"
        assert tree(small) == before
        assert days_of(small.storage, "small") == [BEFORE]
        assert list(Path(small.storage.root, "_tmp").iterdir()) == []

    def test_of_a_day_that_was_frozen_and_not_judged(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        before = tree(small)
        assert looked_ahead(small).go
        assert tree(small) == before

    def test_of_a_day_whose_verdict_would_be_another_one_now(self, small: Small) -> None:
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        assert judge_features(small.config, small.storage, frozen, DAY).good
        small.replace_rows(rows(1_000))
        small.night(BEFORE)
        before = tree(small)
        assert any("changes: 2,000 rows are 2.00 times" in reason for reason in looked_ahead(small).reasons)
        assert tree(small) == before

    def test_of_a_day_that_is_a_no_go(self, small: Small) -> None:
        small.night(BEFORE)
        small.replace_rows(rows(1_000))
        before = tree(small)
        assert not flown_unfrozen(small).go
        assert tree(small) == before

    def test_also_if_it_is_killed(self, small: Small) -> None:
        """What a dead process left is taken away by the next one that needs room; nobody counts it before."""
        small.night(BEFORE)
        before = tree(small)
        victim = multiprocessing.get_context("spawn").Process(target=_killed_in_preflight, args=(small.config, small.storage))
        victim.start()
        victim.join(60)
        assert victim.exitcode == -signal.SIGKILL
        scratch = Path(small.storage.root, "_tmp")
        assert [path.name for path in scratch.glob("*/snapshot/*") if path.suffix == ".parquet"]
        assert tree(small) == before
        assert days_of(small.storage, "small") == [BEFORE]
        assert flown_unfrozen(small).go
        assert list(scratch.iterdir()) == []

    def test_so_the_roll_out_of_an_approval_does_not_score_it(self, small: Small) -> None:
        small.night(BEFORE)
        flown_unfrozen(small)
        with dg.instance_for_test() as instance:
            small.register("v2", small_model([1.05, -0.5, 0.25]))
            context = dg.build_sensor_context(
                instance=instance, resources={"batch_assets_root": StorageRoot(root=small.storage.root)}
            )
            result: Any = build_rollout_sensor(small.config)(context)
        assert [request.partition_key for request in result.run_requests] == [BEFORE]


def test_whoever_only_looks_changes_nothing(small: Small) -> None:
    """Verdict, summary, explain, a plan of an approval, of what is pruned, of a roll-out: the tree is as it was."""
    small.night(BEFORE)
    small.night()
    registered(small, [1.05, -0.5, 0.25])
    small.replace_rows(rows(2_000, seed=9))
    before = tree(small)
    verdict_of(small.config, small.storage, small.registry, DAY).as_mapping()
    night = small.opened(DAY)
    summarize(night, published_matches(night), "")
    explain(small.config, small.storage, small.registry, "42")
    replay(small.config, small.storage, small.registry, "42")
    assert plan_rollout(small.config, small.storage, small.registry, "v2").shift is not None
    outstanding(small.config, small.storage, small.registry)
    prune(small.config, small.storage, None, dry_run=True, progress=small.progress)
    newest_frozen_day(small.config, small.storage)
    assert tree(small) == before


def test_a_day_of_which_only_a_folder_is_left_is_not_the_newest_frozen_one(small: Small) -> None:
    small.night(BEFORE)
    Path(small.storage.root, "small", "user_features", f"date={DAY}").mkdir()
    assert newest_frozen_day(small.config, small.storage) == BEFORE


def flown_unfrozen(small: Small) -> Preflight:
    return preflight(small.config, small.storage, DAY, small.model, small.progress)


def _killed_in_preflight(config: PipelineConfig, storage: LocalStorage) -> None:
    class Deadly(Quiet):
        def at(self, stage: str, done: int, total: int | None) -> None:
            if done:
                os.kill(os.getpid(), signal.SIGKILL)

    preflight(config, storage, DAY, Registry(storage).resolve(config.model), Deadly())
