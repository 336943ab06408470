"""Out of memory: a real limit on a real process. The batch is halved, no row is dead-lettered, the run goes on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import OutOfMemory
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.torch_runtime import TorchRuntime
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.score import score
from batch_assets.operations.sweep import newest_frozen_day, sweep
from batch_assets.scoring.batch_size import Measured, pick, resolved, sweep_log
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.inputs import Batch
from batch_assets_tests.small import DAY, Small, Working, rows

pytestmark = pytest.mark.process

Make = Callable[..., Small]

PROGRAM = """
import json, resource, sys
from pathlib import Path
from typing import Any
import numpy as np
from batch_assets.models.predictor import settle_heap
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.inputs import Staged, Staging
from batch_assets.features.contract import FeatureContract
import pyarrow as pa

columns = [{"name": name} for name in ("x", "y", "z")]
contract = FeatureContract.model_validate({"key": {"name": "k", "dtype": "int64"}, "columns": columns})
random = np.random.default_rng(0)
table = pa.table({name: random.standard_normal(40_000, dtype=np.float32) for name in ("k", "x", "y", "z")})
settle_heap()
predictor = PT2.load(Path(sys.argv[1]).read_bytes(), "wide")
staged = Staging(contract, 40_000).fill(table)
small = ForwardPass(predictor, 1, 1024, 0.01)(staged, np.ones(40_000, dtype=bool), "chunk")
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
run = ForwardPass(predictor, 1, 32_768, 0.01)
passed = run(staged, np.ones(40_000, dtype=bool), "chunk")
again = run(staged, np.ones(40_000, dtype=bool), "chunk")
print(json.dumps({
    "equal": bool(np.array_equal(passed.logits, small.logits)), "raised": len(passed.raised), "smallest": passed.smallest,
    "calls": passed.calls, "calls_again": again.calls,
}))
"""


def wide_model() -> bytes:
    """Takes 8 kB of memory a row: 268 MB for 32,768 rows."""
    import torch

    torch.manual_seed(0)
    return export_model(torch.nn.Sequential(torch.nn.Linear(3, 2_048), torch.nn.ReLU(), torch.nn.Linear(2_048, 1)), 3)


@pytest.mark.long
def test_a_batch_that_does_not_fit_is_halved_and_stays_halved(tmp_path: Path) -> None:
    (tmp_path / "wide.pt2").write_bytes(wide_model())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "wide.pt2"), str(100 << 20)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["equal"], found["raised"]) == (True, 0)
    assert found["smallest"] in (4_096, 8_192)
    assert found["calls_again"] == -(-40_000 // found["smallest"])


def test_what_does_not_fit_at_all_is_said(small: Small) -> None:
    working = Working(small)
    scorer = working.task.open()

    def never(batches: object) -> object:
        raise MemoryError

    scorer.predictor.forward = never  # type: ignore[method-assign,assignment]
    with pytest.raises(OutOfMemory, match="Not even 64 rows of chunk-00000"):
        scorer.score(working.run.plan[0])


def test_a_batch_that_fits_is_left_alone_when_another_one_does_not(small: Small) -> None:
    """Short and long lists: the long ones have the smallest shape already; only the short ones' batches are halved."""
    working = Working(small)
    scorer = working.task.open()
    real = scorer.predictor.forward

    def at_most_64(batches: Any) -> Any:
        for batch in batches:
            if batch[0].shape[1] > 64:
                raise MemoryError
            yield from real([batch])

    scorer.predictor.forward = at_most_64  # type: ignore[method-assign]
    run = ForwardPass(scorer.predictor, 1, 256, 0.0)
    with scorer.staged(working.run.plan[0], {}) as (staged, rows):
        whole = staged.batches(rows.rejects.scored, 256)
        object.__setattr__(
            staged, "batches", lambda *_: [whole[0].take(slice(192)), *staged_in_64(whole[0].take(slice(192, None)))]
        )
        passed = run(staged, rows.rejects.scored, "chunk-00000")
    assert np.isfinite(passed.logits).all()
    assert passed.smallest == 64


def staged_in_64(batch: Batch) -> list[Batch]:
    return [Batch(batch.rows, batch.slots - 192, 64)]


def test_halves_keep_every_row_in_whole_shapes() -> None:
    slots = np.array([0, 5, 63, 64, 100, 191])
    for size in (192, 256, 1_024):
        first, second = Batch(slots + 1_000, slots, size).halves()
        assert first.size + second.size == size
        assert first.size % 64 == second.size % 64 == 0
        assert np.concatenate([first.rows, second.rows]).tolist() == (slots + 1_000).tolist()
        assert (first.slots < first.size).all()
        assert (second.slots < second.size).all()


class TestPick:
    def measured(self, *rates: tuple[int, float, int]) -> list[Measured]:
        return [Measured(batch_rows=size, rows_per_s=rate, memory=memory) for size, rate, memory in rates]

    def test_the_smallest_within_three_percent_of_the_best(self) -> None:
        found = self.measured((32, 1e6, 1), (64, 500, 1), (128, 900, 1), (256, 972, 1), (512, 1_000, 1), (1_024, 990, 1))
        assert pick(found, 100) == 256

    def test_what_takes_too_much_memory_is_not_picked(self) -> None:
        assert pick(self.measured((64, 500, 10), (128, 700, 79), (256, 1_000, 81)), 100) == 128

    def test_nothing_is_picked_where_nothing_fits(self) -> None:
        with pytest.raises(OutOfMemory, match="No batch of 64 rows or more"):
            pick(self.measured((32, 500, 1), (64, 500, 99)), 100)


class TestSweep:
    @pytest.fixture
    def wide(self, make_small: Make) -> Small:
        small = make_small(rows(4_000), scoring={"chunk_rows": 4_096})
        small.register("v2", wide_model())
        freeze(small.config, small.storage, DAY, small.progress)
        return small

    @pytest.mark.long
    def test_it_goes_to_the_end_of_the_memory_and_auto_means_what_it_found(self, wide: Small) -> None:
        assert newest_frozen_day(wide.config, wide.storage) == DAY
        found = sweep(wide.config, wide.storage, DAY, wide.model, wide.progress, memory_limit=1_200_000_000)
        sizes = [one.batch_rows for one in found.sweep.measured]
        assert sizes == [2**n for n in range(len(sizes))]
        assert found.sweep.ended == f"{2 * sizes[-1]:,} rows do not fit into 1.2 GB"
        assert 2**12 <= sizes[-1] <= 2**17
        assert found.sweep.batch_rows == pick(found.sweep.measured, 1_200_000_000)
        assert wide.storage.read(found.picture).startswith(b"\x89PNG")
        card = wide.model.card
        assert wide.opened(DAY).settings.batch_size == found.sweep.batch_rows
        log = sweep_log(wide.storage, card.model_sha256, wide.config.scoring, found.sweep.library)
        assert (
            resolved(wide.storage, wide.config.scoring, card.model_sha256, found.sweep.library).batch_size
            == found.sweep.batch_rows
        )
        assert log.latest() is not None

    def test_on_a_gpu_its_own_memory_is_the_limit(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        limits: list[int] = []

        def measure(task: object, chunk: object, limit: int) -> list[Measured | str]:
            limits.append(limit)
            return [Measured(batch_rows=64, rows_per_s=1.0, memory=1), "that is enough"]

        freeze(small.config, small.storage, DAY, small.progress)
        monkeypatch.setattr("batch_assets.operations.sweep.measure", measure)
        monkeypatch.setattr(TorchRuntime, "memory", lambda *_: 85_000_000_000)
        found = [sweep(small.config, small.storage, DAY, small.model, small.progress, said) for said in (None, 1_000_000_000)]
        assert limits == [one.sweep.memory_limit for one in found] == [85_000_000_000, 1_000_000_000]

    def test_a_day_that_was_begun_keeps_its_size(self, make_small: Make) -> None:
        """A sweep between two steps of a night, or before a resume, does not make another run of it."""
        small = make_small(scoring={"chunk_rows": 256})
        freeze(small.config, small.storage, DAY, small.progress)
        run = score(small.opened(DAY), LocalEngine(), small.progress).manifest.run_id
        log = sweep_log(
            small.storage, small.model.card.model_sha256, small.config.scoring, small.model.card.runtime.versioned()
        )
        log.append(small.swept(64), after=0, why="test")
        assert small.opened(DAY).run_id == run
        assert judge(small.opened(DAY)).subject == run
        later = "2024-03-11"
        freeze(small.config, small.storage, later, small.progress)
        assert small.opened(later).settings.batch_size == 64

    def test_a_size_that_was_set_is_used_whatever_was_found(self, small: Small) -> None:
        assert resolved(small.storage, small.config.scoring, "0" * 64, "2.0").batch_size == 64
