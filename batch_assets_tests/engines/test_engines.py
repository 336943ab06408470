import shutil
import time
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from batch_assets.engines.engine import Engine, EngineSettings
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.errors import ModelChanged, SnapshotChanged
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import replay
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.small import DAY, Small, rows, with_values

pytestmark = pytest.mark.process

Make = Callable[..., Small]


def table_of(small: Small, folder: str, names: list[str]) -> list[dict[str, object]]:
    return [row for name in names for row in pq.read_table(small.storage.local_path(f"{folder}/{name}")).to_pylist()]


class EngineBehaviour:
    """What every engine does; a new engine inherits these tests."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def test_its_values_are_the_reference_engines_bit_for_bit(self, engine: Engine, make_small: Make) -> None:
        """Separate storage roots, so that nothing of one can be seen by the other."""
        manifests, tables = [], []
        for scorer in (LocalEngine(), engine):
            small = make_small()
            freeze(small.config, small.storage, DAY, small.progress)
            manifest = score(small.opened(DAY), scorer, small.progress).manifest
            manifests.append(manifest)
            tables.append(table_of(small, manifest.folder, [file.name for file in manifest.files]))
        assert manifests[0].run_id == manifests[1].run_id
        assert manifests[0].values == manifests[1].values
        assert manifests[0].histogram == manifests[1].histogram
        assert tables[0] == tables[1]

    def test_it_scores_what_is_missing_and_nothing_else(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        run = small.opened(DAY)
        score(small.opened(DAY), engine, small.progress)
        folder = small.storage.local_path(run.folder)
        kept = {path: path.stat() for path in folder.glob("chunk-*.parquet")}
        for log in ("_manifest", "_witness"):
            shutil.rmtree(folder / log)
        (folder / "chunk-00002.parquet").unlink()
        resumed = score(small.opened(DAY), engine, small.progress)
        assert resumed.resumed_chunks == len(run.plan) - 1
        for path, before in kept.items():
            assert path.name == "chunk-00002.parquet" or path.stat().st_mtime_ns == before.st_mtime_ns

    def test_what_a_chunk_raises_comes_out_as_itself(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        model = small.model
        path = small.storage.local_path(model.path)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(ModelChanged, match="the file was changed") as raised:
            score(Night.open(small.config, small.storage, DAY, model), engine, small.progress)
        assert "Traceback" not in str(raised.value)

    def test_nothing_to_do_is_done_at_once(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        run = small.opened(DAY)
        with engine.open(run.task(), small.progress.say) as workers:
            assert list(workers.map(Scorer.score, [])) == []


class EngineDetails:
    """What every engine does beyond that. Of one that starts processes, `make test-long` looks at it."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def test_progress_ends_at_all_rows(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        score(small.opened(DAY), engine, small.progress)
        done = [done for stage, done, total in small.progress.seen if stage == "scoring" and total == 2_000]
        assert (done[0], done[-1], len(done)) == (0, 2_000, 9)
        assert done == sorted(done)

    def test_input_that_changes_under_it_is_noticed(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        run = small.opened(DAY)
        task = run.task()
        path = small.storage.local_path(f"{run.frozen.folder}/part-00000.parquet")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(SnapshotChanged), engine.open(task, small.progress.say) as workers:
            list(workers.map(Scorer.score, run.plan))
        assert not list(small.storage.local_path("small").glob("predictions/*/*/chunk-*"))

    def test_the_workers_time_is_accounted_for(self, engine: Engine, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        work = score(small.opened(DAY), engine, small.progress).manifest.work
        assert {"start-up", "read", "convert", "forward", "postprocess", "write", "waiting"} <= set(work.seconds)
        assert sum(work.seconds.values()) == pytest.approx(work.lifetimes, rel=0.05)
        assert 0 < work.lifetimes <= work.wall_seconds * work.workers * 1.05

    def test_a_lower_precision_is_compared_where_the_rows_are_scored(self, engine: Engine, make_small: Make) -> None:
        small = make_small(scoring={"chunk_rows": 256, "batch_size": 64, "precision": "bfloat16"})
        freeze(small.config, small.storage, DAY, small.progress)
        manifest = score(small.opened(DAY), engine, small.progress).manifest
        assert manifest.agreement is not None
        assert manifest.environments[0]["precision"] == "bfloat16"

    def test_dead_letters_are_replayed(self, engine: Engine, make_small: Make) -> None:
        small = make_small(with_values(rows(600), "x", {3: None}))
        freeze(small.config, small.storage, DAY, small.progress)
        manifest = score(small.opened(DAY), engine, small.progress).manifest
        outcome = replay(small.config, small.storage, small.registry, manifest.folder, engine, small.progress)
        assert (outcome.replayed, outcome.scored) == (1, 0)


class TestLocalEngine(EngineBehaviour, EngineDetails):
    @pytest.fixture
    def engine(self) -> Engine:
        return LocalEngine()


class TestRayEngine(EngineBehaviour):
    @pytest.fixture
    def engine(self, shared_ray: None) -> Engine:
        return RayEngine()


@pytest.mark.long
class TestRayEngineInDetail(EngineDetails):
    @pytest.fixture
    def engine(self, shared_ray: None) -> Engine:
        return RayEngine()

    def test_it_leaves_a_connection_alone_that_it_did_not_make(self, shared_ray: None, small: Small) -> None:
        import ray

        engine = RayEngine()
        freeze(small.config, small.storage, DAY, small.progress)
        score(small.opened(DAY), engine, small.progress)
        engine.close()
        assert ray.is_initialized()

    def test_more_workers_than_cpus_do_not_wait_for_each_other(self, shared_ray: None, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        manifest = score(
            small.opened(DAY),
            RayEngine(settings=EngineSettings(workers=5)),
            small.progress,
        ).manifest
        assert manifest.scored == 2_000

    def test_its_workers_go_when_the_work_is_done(self, shared_ray: None, small: Small) -> None:
        """Both CPUs are theirs, also if another test's worker is there still and idle."""
        import ray

        freeze(small.config, small.storage, DAY, small.progress)
        score(
            small.opened(DAY),
            RayEngine(settings=EngineSettings(workers=2, keep_seconds=0)),
            small.progress,
        )
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ray.available_resources().get("CPU") == 2.0


@pytest.mark.long
class TestRayConnection:
    def test_it_ends_the_ray_that_it_started(self, small: Small) -> None:
        import ray

        ray.shutdown()
        engine = RayEngine(settings=EngineSettings(workers=1))
        freeze(small.config, small.storage, DAY, small.progress)
        score(small.opened(DAY), engine, small.progress)
        assert ray.is_initialized()
        engine.close()
        assert not ray.is_initialized()
