"""Who waits for whom: one pool for each target."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.engines.engine import EngineName
from batch_assets.orchestration import turns
from batch_assets.orchestration.component import definitions
from batch_assets.orchestration.liveness import COMMAND_LINE, command_line_tags, fail_dead_runs
from batch_assets.orchestration.pools import MACHINE, as_asked, pool_of
from batch_assets.orchestration.turns import give_way, own_turn
from batch_assets.process import Process
from batch_assets_tests.orchestration.location import changed, part_in
from batch_assets_tests.small import DAY, Quiet, Small

STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(overrides={"concurrency": {"pools": {"default_limit": 1, "granularity": "run"}}}) as made:
        yield made


def of(small: Small, name: str = "small", **engine: Any) -> PipelineConfig:
    return changed(small, name=name, engine=engine)


def begun(instance: dg.DagsterInstance, config: PipelineConfig, **process: Any) -> str:
    """A run of a pipeline that is in progress, by its id."""
    run_id = str(uuid.uuid4())
    fields = {**Process.current().as_mapping(), "run": run_id, **process}
    tags = {f"batch_assets/{name}": str(value) for name, value in fields.items()}
    part = part_in(pool_of(config))
    instance.add_run(dg.DagsterRun(run_id=run_id, job_name=config.name, status=STARTED, tags=tags, run_op_concurrency=part))
    return run_id


class TestThePoolOfATarget:
    @pytest.mark.parametrize("engine", [{}, {"kind": "auto"}, {"kind": "local"}, {"kind": "ray"}])
    def test_what_this_machine_scores_shares_one(self, small: Small, engine: dict[str, str]) -> None:
        assert pool_of(of(small, **engine)) == MACHINE

    @pytest.mark.parametrize("kind", ["auto", "ray"])
    def test_a_cluster_has_its_own(self, small: Small, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "ray://head.example:10001")
        assert pool_of(of(small, kind=kind)) == "scoring-ray-ray-head.example-10001"
        assert pool_of(of(small, kind="local")) == MACHINE

    def test_a_ray_that_is_only_called_by_an_address_is_this_machines(
        self, small: Small, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert pool_of(of(small, kind="ray")) == MACHINE

    def test_a_pipeline_can_name_its_own(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "head.example:6379")
        assert pool_of(of(small, kind="ray", pool="gpu-2")) == "gpu-2"

    @pytest.mark.parametrize(
        ("master", "pool"),
        [
            (None, MACHINE),
            ("local[4]", MACHINE),
            ("local-cluster[2,1,1024]", MACHINE),
            ("spark://spark.example:7077", "scoring-spark-spark-spark.example-7077"),
            ("yarn", "scoring-spark-yarn"),
        ],
    )
    def test_of_spark_it_is_that_of_its_master(self, small: Small, master: str | None, pool: str) -> None:
        engine = SimpleNamespace(kind="spark", master=master, pool=None)
        assert pool_of(small.config.model_copy(update={"engine": engine})) == pool

    def test_who_asks_for_another_engine_takes_the_place_of_that_one(
        self, small: Small, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "head.example:6379")
        config = of(small, kind="ray", pool="gpu-2")
        assert pool_of(as_asked(config, "local")) == MACHINE
        assert pool_of(as_asked(config, "auto")) == "gpu-2", "the same cluster"
        assert as_asked(config, "ray") is as_asked(config, None) is config

    @pytest.mark.parametrize("engine", ["ray", "local", "spark"])
    def test_another_engine_on_the_same_machine_stays_in_the_pool_that_is_named(self, small: Small, engine: EngineName) -> None:
        """Ray and threads would be on the one GPU that the pool stands for."""
        asked = as_asked(of(small, kind="auto", pool="gpu-2"), engine)
        assert (asked.engine.kind, pool_of(asked)) == (engine, "gpu-2")

    @pytest.mark.parametrize("name", ["a pool", "../pool", ""])
    def test_a_name_that_no_file_could_have_is_refused(self, small: Small, name: str) -> None:
        with pytest.raises(ValueError, match="pool"):
            of(small, pool=name)

    def test_dagster_is_told_it(self, small: Small) -> None:
        found = definitions(of(small, pool="gpu-2")).resolve_assets_def(dg.AssetKey(["small", "predictions"]))
        assert found.op.pool == "gpu-2"


class Impatient(Quiet):
    """Whoever looks at it interrupts what waits."""

    @override
    def say(self, message: str) -> None:
        super().say(message)
        raise KeyboardInterrupt


class TestWhoWaits:
    def test_a_command_line_waits_for_its_pool_and_for_no_other(self, small: Small, instance: dg.DagsterInstance) -> None:
        here, there = of(small), of(small, "other", pool="gpu-2")
        holder, progress = begun(instance, there), Quiet()
        let_go: list[str] = []
        with own_turn(instance, here, progress, let_go=lambda: let_go.append("here")):
            assert progress.said == []
        waiting = Impatient()
        with (
            pytest.raises(KeyboardInterrupt),
            own_turn(instance, there, waiting, let_go=lambda: let_go.append("there")),
        ):
            pass
        assert f"{holder} (" in waiting.said[0]
        assert "in the pool 'gpu-2'; this run waits for its place" in waiting.said[0]
        assert let_go == ["there"], "who waits lets go what others may need"

    def test_a_run_that_begins_while_a_command_line_connects_goes_first(
        self, small: Small, instance: dg.DagsterInstance
    ) -> None:
        """A Spark session takes its time, and may hold the executors that the other needs."""
        here, waiting, done = of(small), Impatient(), list[str]()

        def take() -> None:
            done.append("taken")
            begun(instance, here)

        with (
            pytest.raises(KeyboardInterrupt),
            own_turn(instance, here, waiting, take=take, let_go=lambda: done.append("let go")),
        ):
            pass
        assert done == ["taken", "let go"]
        assert "this run waits for its place" in waiting.said[0]

    @pytest.mark.parametrize("of_the_pool", [True, False])
    def test_a_command_line_waits_only_if_the_pool_is_full(self, small: Small, of_the_pool: bool) -> None:
        pools = {"default_limit": 1 if of_the_pool else 2, "granularity": "run"}
        with dg.instance_for_test(overrides={"concurrency": {"pools": pools}}) as instance:
            if of_the_pool:
                instance.event_log_storage.set_concurrency_slots(MACHINE, 2)
            begun(instance, of(small))
            with own_turn(instance, of(small), Quiet()):
                pass
            begun(instance, of(small))
            with pytest.raises(KeyboardInterrupt), own_turn(instance, of(small), Impatient()):
                pass

    def test_a_pool_that_is_closed_is_said(self, small: Small, instance: dg.DagsterInstance) -> None:
        instance.event_log_storage.set_concurrency_slots(MACHINE, 0)
        waiting = Impatient()
        with pytest.raises(KeyboardInterrupt), own_turn(instance, of(small), waiting):
            pass
        assert waiting.said == [
            f"The pool {MACHINE!r} takes no runs, as its limit is 0; this run waits until somebody sets another."
        ]

    def test_two_command_lines_in_one_pool_take_turns_and_others_do_not(
        self, small: Small, instance: dg.DagsterInstance
    ) -> None:
        with own_turn(instance, of(small, pool="gpu-2"), Quiet()):
            with own_turn(instance, of(small), Quiet()):
                pass
            waiting = Impatient()
            with pytest.raises(KeyboardInterrupt), own_turn(instance, of(small, "other", pool="gpu-2"), waiting):
                pass
            assert waiting.said == [
                f"Another command line is at work in the pool 'gpu-2' ({Process.current()}); waiting for it."
            ]

    def test_a_run_of_the_queue_lets_a_command_line_go_first_that_began_in_the_same_moment(
        self, small: Small, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both found the one place free. The command line ends while the other waits."""
        config = of(small)
        run_id = begun(instance, config)
        instance.add_run_tags(run_id, {COMMAND_LINE: run_id})
        events: list[str] = []

        def ends(_: float) -> None:
            (waits,) = (run for run in instance.get_runs() if run.run_id != run_id)
            found = instance.all_logs(waits.run_id, dg.DagsterEventType.ENGINE_EVENT)
            events.extend(event.message for event in found if "Waiting" in event.message)
            assert not instance.all_logs(waits.run_id, dg.DagsterEventType.STEP_START), "it has not begun"
            command_line = instance.get_run_by_id(run_id)
            assert command_line is not None
            instance.report_run_canceled(command_line)

        monkeypatch.setattr(turns, "time", SimpleNamespace(sleep=ends))
        monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)
        done = definitions(config).resolve_job_def(config.name).execute_in_process(partition_key=DAY, instance=instance)
        assert done.success
        assert events == [f"Waiting in the pool 'scoring' for a command line: {run_id} ({Process.current()})."]

    def test_there_is_no_such_wait_where_the_pool_has_room(
        self, small: Small, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instance.event_log_storage.set_concurrency_slots(MACHINE, 2)
        run_id = begun(instance, of(small))
        instance.add_run_tags(run_id, {COMMAND_LINE: run_id})
        queued = instance.get_run_by_id(begun(instance, of(small)))
        assert queued is not None
        monkeypatch.setattr(turns, "time", SimpleNamespace(sleep=lambda _: pytest.fail("it waits")))
        give_way(instance, queued)


class TestADeadRun:
    def test_frees_its_own_pool_only(self, small: Small, instance: dg.DagsterInstance) -> None:
        here, there = of(small), of(small, "other", pool="gpu-2")
        dead, alive = begun(instance, here, pid=2**22 - 1), begun(instance, there)
        slots = instance.event_log_storage
        for pool, run_id in ((MACHINE, dead), ("gpu-2", alive)):
            slots.set_concurrency_slots(pool, 1)
            slots.claim_concurrency_slot(pool, run_id, "step")
        assert fail_dead_runs(instance, there) == []
        assert fail_dead_runs(instance, here) == [dead]
        assert not slots.get_concurrency_info(MACHINE).claimed_slots
        assert slots.get_concurrency_info("gpu-2").claimed_slots

    def test_of_a_command_line_with_another_dagster_home_is_not_proven_by_the_turn_here(
        self, small: Small, instance: dg.DagsterInstance, tmp_path: Path
    ) -> None:
        """Two hosts share a database. Each has a home of its own, so the lock of one says nothing of the other."""
        config, run_id = of(small), str(uuid.uuid4())
        with dg.instance_for_test(temp_dir=str(tmp_path)) as elsewhere:
            theirs = command_line_tags(elsewhere, run_id)
        tags, part = {**theirs, "batch_assets/host": "another-host"}, part_in(MACHINE)
        instance.add_run(dg.DagsterRun(run_id=run_id, job_name=config.name, status=STARTED, tags=tags, run_op_concurrency=part))
        assert fail_dead_runs(instance, config, turn=True) == []

    def test_of_somebody_elses_job_in_the_pool_is_not_ours_to_judge(self, small: Small, instance: dg.DagsterInstance) -> None:
        run = instance.add_run(
            dg.DagsterRun(job_name="training", status=dg.DagsterRunStatus.STARTING, run_op_concurrency=part_in("gpu-2"))
        )
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "training"), run.run_id, timestamp=0.0
        )
        assert fail_dead_runs(instance, of(small, pool="gpu-2"), turn=True) == []
