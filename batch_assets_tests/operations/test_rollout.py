"""What an approval causes: the days that are due, what was promised of them, and what a roll-back takes back."""

import hashlib
from datetime import date
from typing import Any

import pytest

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import Price
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ContractBroken, LostRace, ModelChanged, StorageFull, Withdrawn
from batch_assets.logs import LogEntry
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.accepted import accept, accepted_run
from batch_assets.nightly.freeze import freeze, frozen
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import read_verdict, verdict_log
from batch_assets.operations.rollout import approve, expected, outstanding, plan_rollout, require_fit
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.manifest import latest_manifest
from batch_assets.scoring.scorer import Scorer
from batch_assets.serving.live import Live, current_log, go_live, live_release
from batch_assets_tests.small import DAY, Quiet, Small, small_model

DAYS = ["2024-03-08", "2024-03-09", DAY]
TURNED = (0.9, -0.55, 0.3)
"""Weights of a second version, whose scores are a little different."""


def due(small: Small) -> tuple[str, ...]:
    found = outstanding(small.config, small.storage, small.registry)
    assert found is not None
    return found.days


def rescoring(small: Small, days: int) -> PipelineConfig:
    return small.config.model_copy(update={"model": small.config.model.model_copy(update={"rescore_days": days})})


class TestWhatIsDue:
    def test_nothing_while_nothing_is_frozen(self, small: Small) -> None:
        assert due(small) == ()

    def test_the_newest_days_once_for_each_approval(self, small: Small) -> None:
        for day in DAYS:
            small.night(day)
        assert due(small) == ()
        small.register("v2", small_model(TURNED))
        assert due(small) == (DAY,)
        small.config = rescoring(small, 2)
        assert due(small) == (DAYS[1], DAY)
        small.night(DAY)
        assert due(small) == (DAYS[1],)

    def test_a_day_that_is_scored_and_not_published_is_due(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """The run was accepted, and then the disk was full."""
        from batch_assets.nightly import build

        def full(*_: object) -> None:
            raise StorageFull("no space")

        small.night()
        model = small.register("v2", small_model(TURNED))
        with monkeypatch.context() as patched:
            patched.setattr(build, "build_release", full)
            with pytest.raises(StorageFull):
                small.night()
        accepted = accepted_run(small.storage, "small", DAY, ())
        assert accepted is not None
        assert accepted.approval == model.approval
        assert due(small) == (DAY,)
        small.night()
        assert due(small) == ()

    def test_a_day_with_blocked_features_is_passed_over(self, small: Small) -> None:
        """Else a roll-back would do nothing, and what was withdrawn would stay live."""
        small.night()
        small.register("v2", small_model(TURNED))
        small.night()
        bad = "2024-03-11"
        judge_features(small.config, small.storage, freeze(small.config, small.storage, bad, small.progress), bad)
        folder = frozen(small.config, small.storage, bad).folder
        verdict = read_verdict(small.storage, folder)
        assert verdict is not None
        blocked = [outcome.model_copy(update={"passed": False, "severity": "error"}) for outcome in verdict.outcomes]
        body = verdict.model_copy(update={"outcomes": tuple(blocked)})
        verdict_log(small.storage, folder).append(body, after=1, why="blocked")
        small.registry.approve("small", "batch", "v1", why="complaints", by="Bob")
        assert due(small) == (DAY,)
        assert small.night().is_live

    def test_what_is_live_is_due_beside_a_newer_day_that_may_block(self, small: Small) -> None:
        small.night(DAYS[1])
        freeze(small.config, small.storage, DAY, small.progress)
        small.register("v2", small_model(TURNED))
        assert due(small) == (DAYS[1], DAY)

    def test_a_day_that_the_approver_was_told_of_stays_due_when_newer_ones_come(self, small: Small) -> None:
        small.night(DAYS[1])
        model = small_model(TURNED)
        small.registry.register("small", "v2", _card(small, model), model)
        approve([small.config], small.storage, small.registry, "small", "batch", "v2", why="better", by="Ann")
        small.night(DAY)
        assert due(small) == (DAYS[1],)

    def test_each_roll_back_and_each_approval_again_is_due(self, small: Small) -> None:
        small.night()
        small.register("v2", small_model(TURNED))
        for version in ("v2", "v1", "v2"):
            if version != small.model.version:
                small.registry.approve("small", "batch", version, why="again", by="Ann")
            assert due(small) == (DAY,)
            small.night()
            assert due(small) == ()


class TestThePlan:
    def test_days_rows_time_and_money(self, small: Small) -> None:
        for day in DAYS:
            small.night(day)
        engine = small.config.engine.model_copy(update={"price": Price(per_hour=36.0, currency="EUR")})
        config = rescoring(small, 2).model_copy(update={"engine": engine})
        model = small_model(TURNED)
        small.registry.register("small", "v2", _card(small, model), model)
        plan = plan_rollout(config, small.storage, small.registry, "v2")
        assert (plan.days, plan.rows, plan.withdraws) == ((DAYS[1], DAY), 4_000, ())
        assert plan.minutes is not None
        assert plan.cost == pytest.approx(plan.minutes * 0.6, abs=0.001), "36 EUR an hour"

    def test_the_same_model_moves_nothing_and_another_does(self, small: Small) -> None:
        small.night()
        same = plan_rollout(small.config, small.storage, small.registry, "v1").shift
        assert same is not None
        assert (same.psi, same.top_decile_overlap, same.rank_correlation) == (0.0, 1.0, 1.0)
        model = small_model((-1.0, 0.5, -0.25))
        small.registry.register("small", "v2", _card(small, model), model)
        other = plan_rollout(small.config, small.storage, small.registry, "v2").shift
        assert other is not None
        assert other.rank_correlation == pytest.approx(-1.0)
        assert other.top_decile_overlap == 0.0
        assert (other.against, other.partition, other.rows) == ("v1", DAY, 2_000)

    def test_what_the_approver_was_told_is_in_the_audit_trail(self, small: Small) -> None:
        small.night()
        model = small_model(TURNED)
        small.registry.register("small", "v2", _card(small, model), model)
        approval, (plan,) = approve(
            [small.config], small.storage, small.registry, "small", "batch", "v2", why="better", by="Ann"
        )
        assert expected(small.registry.approvals("small", "batch").number(approval.number), "small") == plan
        assert expected(approval, "another") is None

    def test_an_approval_that_comes_in_between_wins(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody else approves while the sample is scored."""
        from batch_assets.operations import rollout

        small.night()
        measured = rollout.measure_shift

        def slowly(*arguments: object) -> object:
            small.registry.approve("small", "batch", "v1", why="in between", by="Bob")
            return measured(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(rollout, "measure_shift", slowly)
        with pytest.raises(LostRace, match="by Bob in the same moment"):
            approve([small.config], small.storage, small.registry, "small", "batch", "v1", why="late", by="Ann")


class TestAModelOfOtherFeatures:
    """The pipeline's contract says that z means something else since a day; the model was trained before."""

    @pytest.fixture
    def changed(self, small: Small) -> Small:
        columns = small.config.features.contract.columns
        contract = small.config.features.contract.model_copy(
            update={"columns": (*columns[:2], columns[2].model_copy(update={"since": date(2024, 3, 1)}))}
        )
        features = small.config.features.model_copy(update={"contract": contract})
        small.config = small.config.model_copy(update={"features": features})
        return small

    def test_cannot_be_approved(self, changed: Small) -> None:
        with pytest.raises(ContractBroken, match="z is what it means since always, not what it means since 2024-03-01"):
            plan_rollout(changed.config, changed.storage, changed.registry, "v1")

    def test_scores_nothing(self, changed: Small) -> None:
        with pytest.raises(ContractBroken, match="small v1 was trained on other features"):
            changed.night()

    def test_is_told_at_start_up(self, changed: Small) -> None:
        with pytest.raises(ContractBroken, match="small v1 was trained on other features"):
            require_fit([changed.config], changed.registry)

    def test_one_that_was_trained_on_them_is_approved_and_its_approver_told_what_changed(self, changed: Small) -> None:
        model = small_model([1.1, -0.5, 0.25])
        changed.registry.register("small", "v2", changed.card(model), model)
        plan = plan_rollout(changed.config, changed.storage, changed.registry, "v2")
        assert plan.contract_changes == ("z is what it means since 2024-03-01, not what it means since always",)
        assert plan.shift is None, "the version before cannot score these features"
        changed.registry.approve("small", "batch", "v2", why="new features", by="Ann")
        require_fit([changed.config], changed.registry)
        assert changed.night().is_live


class TestRollBack:
    @pytest.fixture
    def rolled_back(self, small: Small) -> tuple[Small, ModelVersion]:
        """v1 was live, v2 was approved and published, then somebody went back to v1. Gives v2 as it was pinned."""
        small.night()
        pinned = small.register("v2", small_model(TURNED))
        small.night()
        small.registry.approve("small", "batch", "v1", why="complaints", by="Bob")
        return small, pinned

    def test_what_was_withdrawn_is_not_published_again(self, rolled_back: tuple[Small, ModelVersion]) -> None:
        """A run of v2, finished or not, is tried again after the roll-back, before v1 was scored anew."""
        small, pinned = rolled_back
        before = current_log(small.storage, "small").latest()
        with pytest.raises(Withdrawn, match=r"Approval 2 of small v2 .* Bob went back to v1"):
            small.night(model=pinned)
        assert current_log(small.storage, "small").latest() == before
        small.night()
        live = current_log(small.storage, "small").latest()
        assert live is not None
        assert live.body.approval == 3
        with pytest.raises(Withdrawn):
            small.night(model=pinned)
        assert current_log(small.storage, "small").latest() == live

    def test_the_acceptance_before_counts_again(self, rolled_back: tuple[Small, ModelVersion]) -> None:
        """Drift of a later day compares with what v1 accepted, also before anything was scored anew."""
        small, _ = rolled_back
        accepted = accepted_run(small.storage, "small", DAY, small.model.withdrawn())
        assert accepted is not None
        assert accepted.approval == 1
        small.night("2024-03-11")
        run = small.opened("2024-03-11")
        verdict = read_verdict(small.storage, run.folder)
        assert verdict is not None
        assert verdict.compared_with == (accepted.run_id,)

    def test_judging_a_withdrawn_run_again_does_not_accept_it(self, rolled_back: tuple[Small, ModelVersion]) -> None:
        small, pinned = rolled_back
        judge(Night.open(small.config, small.storage, DAY, pinned))
        accepted = accepted_run(small.storage, "small", DAY, small.model.withdrawn())
        assert accepted is not None
        assert accepted.approval == 1

    def test_what_was_live_before_is_live_again_and_no_older_day(self, rolled_back: tuple[Small, ModelVersion]) -> None:
        small, _ = rolled_back
        first = live_release(small.storage, "small")
        assert first is not None
        assert not small.night(DAYS[1]).is_live
        now = live_release(small.storage, "small")
        assert now is not None
        assert (now.partition, now.model.version) == (DAY, "v1")
        assert now.name != first.name
        assert small.night(DAY).is_live

    def test_a_roll_back_in_the_moment_of_publishing_leaves_nothing_withdrawn_live(
        self, small: Small, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small.night()
        small.register("v2", small_model(TURNED))

        def late(*arguments: Any) -> LogEntry[Live]:
            small.registry.approve("small", "batch", "v1", why="complaints", by="Bob")
            return go_live(*arguments)

        monkeypatch.setattr("batch_assets.nightly.publish.go_live", late)
        with pytest.raises(Withdrawn):
            small.night()
        now = live_release(small.storage, "small")
        assert now is not None
        assert now.model.version == "v1"

    def test_a_run_that_is_not_good_any_more_is_not_accepted_again(self, rolled_back: tuple[Small, ModelVersion]) -> None:
        """v2's acceptance, which was withdrawn, is the newest entry."""
        small, _ = rolled_back
        strict = small.config.model_dump() | {"quality": {"completeness": {"min_output_ratio": 1.0}}}
        config = PipelineConfig.model_validate(strict)
        verdict = judge(Night.open(config, small.storage, DAY, small.registry.resolve(config.model, 1)))
        bad = verdict.model_copy(update={"outcomes": tuple(_failed(one) for one in verdict.outcomes)})
        manifest = latest_manifest(small.storage, Night.open(config, small.storage, DAY, small.model).folder)
        assert manifest is not None
        accept(small.storage, manifest, 1, bad, small.model.withdrawn())
        assert accepted_run(small.storage, "small", DAY, small.model.withdrawn()) is None

    @pytest.mark.parametrize("damage", ["file", "snapshot"])
    def test_a_broken_version_does_not_stop_who_goes_back_from_it(self, small: Small, damage: str) -> None:
        small.night()
        model = small.register("v2", small_model(TURNED))
        frozen_day = freeze(small.config, small.storage, DAY, small.progress)
        path = model.path if damage == "file" else f"{frozen_day.folder}/{frozen_day.snapshot.files[0].name}"
        file = small.storage.local_path(path)
        file.write_bytes(file.read_bytes()[:-1])
        _, (plan,) = approve(
            [small.config], small.storage, small.registry, "small", "batch", "v1", why="v2 is broken", by="Bob"
        )
        assert plan.shift is None
        assert plan.not_measured
        require_fit([small.config], small.registry)


def _failed(outcome: CheckOutcome) -> CheckOutcome:
    return outcome.model_copy(update={"passed": False, "severity": "error"})


class TestBytesThatChange:
    def test_a_model_changed_in_mid_run_leaves_no_manifest(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is changed after the workers have loaded it; the commits stay, nothing counts."""
        freeze(small.config, small.storage, DAY, small.progress)
        model = small.model
        path = small.storage.local_path(model.path)
        scored = Scorer.score

        def and_change(self: Scorer, *arguments: object) -> object:
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            return scored(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Scorer, "score", and_change)
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(ModelChanged, match=rf"has sha256 \w+, its card says {before}"):
            score(Night.open(small.config, small.storage, DAY, model), LocalEngine(1), Quiet())
        assert latest_manifest(small.storage, Night.open(small.config, small.storage, DAY, model).folder) is None

    def test_a_version_replaced_whole_in_mid_run_is_noticed_too(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """File and card fit each other, but they are not what the run began with."""
        freeze(small.config, small.storage, DAY, small.progress)
        model, other = small.model, small_model(TURNED)
        folder = small.storage.local_path("models/small/v1")
        scored = Scorer.score

        def and_replace(self: Scorer, *arguments: object) -> object:
            (folder / "model.pt2").write_bytes(other)
            (folder / "card.json").write_text(_card(small, other).model_dump_json(indent=1))
            return scored(self, *arguments)  # type: ignore[arg-type]

        card = small.model.card
        monkeypatch.setattr(Scorer, "score", and_replace)
        monkeypatch.setattr(type(small), "model", property(lambda _: model))
        assert card.model_sha256 != hashlib.sha256(other).hexdigest()
        with pytest.raises(ModelChanged, match=rf"has digest \w+ now, {model.digest} when the run began"):
            score(Night.open(small.config, small.storage, DAY, model), LocalEngine(1), Quiet())

    def test_an_approval_records_itself_in_the_manifest(self, small: Small) -> None:
        small.night()
        manifest = latest_manifest(small.storage, small.opened(DAY).folder)
        assert manifest is not None
        assert (manifest.model.version, manifest.approval) == ("v1", 1)


def _card(small: Small, model: bytes):  # type: ignore[no-untyped-def]
    return small.model.card.model_copy(update={"model_sha256": small.sha256(model)})
