"""What `gpu.py` checks and measures: functions that say what they saw, and raise Wrong where it is not what must be.

All of it goes through the scorer's own rooms: tasks, scorers, forward passes, predictors, the sweep, audits, agreement, and the
workers that the Ray engine hires. What is this kit's own where the product has Ray says so.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gpu_models as models
import numpy as np
import numpy.typing as npt
import torch

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_worker import Owner, Worker
from batch_assets.errors import BatchAssetsError
from batch_assets.models.runtimes.pytorch.checks import require_same_program
from batch_assets.models.runtimes.pytorch.device import CudaLane
from batch_assets.models.runtimes.pytorch.formats import by_torch_export
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.pytorch.vetting import vetted_pt2
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.process import Process
from batch_assets.proof.agreement import SAMPLE_ROWS, agreement
from batch_assets.proof.audit import Sample, compare, near
from batch_assets.runs.chunks import Chunk, plan_chunks
from batch_assets.runs.commit import read_committed
from batch_assets.scoring.batch_size import Measured, measure, pick
from batch_assets.scoring.forward import ForwardPass, Logits
from batch_assets.scoring.heads.classifier import Binary
from batch_assets.scoring.inputs import Array, Batch, Staged
from batch_assets.scoring.scorer import Scorer, ScoringTask
from batch_assets.scoring.settings import Device, Precision, ScoringSettings

HIDDEN = 0.8
"""Copies and work together must take less than this share of both one after the other; 0.5 is all that can be hidden here."""

_CPU_LIMIT = 900_000_000
"""Bytes for the sweep on a CPU."""


class Wrong(Exception):
    """Something is not as it must be; says what was seen."""


@dataclass(frozen=True)
class Bench:
    """Where and how large: the device, a folder for the storage roots, and small sizes if it must be quick."""

    device: Device
    folder: Path
    quick: bool

    def task(
        self, subject: models.Subject, name: str, spoilt: dict[int, Any] | None = None, rows: int = 0, **said: Any
    ) -> ScoringTask:
        """A task over new rows, in a root that is called like the check and the subject."""
        largest = 4_096 if subject is models.TRANSFORMER else 16_384
        sizes = {"batch_size": 256, "chunk_rows": 1_024} if self.quick else {"batch_size": largest, "chunk_rows": 131_072}
        count = rows or (2_048 if self.quick else 1 << 18 if subject is models.TRANSFORMER else 1 << 20)
        settings = ScoringSettings.model_validate({"device": self.device, **sizes, **said})
        return models.task(self.folder / f"{name}-{subject.name}", subject, count, settings, spoilt)

    @property
    def seconds(self) -> float:
        """How long a rate is measured."""
        return 0.2 if self.quick else 2.0


@dataclass(frozen=True)
class Check:
    """One line of the table. Without `expected` it is a measurement; `not_run` says why it is neither."""

    name: str
    expected: str
    run: Callable[[Bench], str] | None = None
    cuda_only: bool = False
    not_run: str = ""


def bits(subject: models.Subject, bench: Bench) -> str:
    """A row's outputs when it stands elsewhere, among others, in halves of the batch, and when it is audited."""
    task = bench.task(subject, "bits", rows=2_048 if bench.quick else 65_536)
    scorer, (chunk, *_) = task.open(), plan_chunks(task.snapshot, task.settings.chunk_rows)
    with scorer.staged(chunk, {}) as (staged, rows):
        scored, size = rows.rejects.scored, task.settings.batch_rows
        whole = scorer.forward_pass(staged, scored, chunk.name).logits
        half_night = ForwardPass(scorer.predictor, 1, size // 2, 0.0)(staged, scored, chunk.name).logits
        batches = staged.batches(scored, size)
        moved = [replace(one, rows=np.roll(one.rows, len(one.rows) // 3 + 1)) for one in batches]
        padded = [one.take(slice(None, None, 7)) for one in batches]
        halves = [half for one in batches for half in one.halves() if len(half.rows)]
        kinds = {"again": (batches, whole), "moved": (moved, whole), "padded": (padded, whole), "halved": (halves, half_night)}
        found = [_equal(kind, scorer, staged, some, due) for kind, (some, due) in kinds.items()]
    commit = scorer.score(chunk)
    places = tuple(range(0, chunk.rows, 37))
    audited = compare(scorer, Sample(chunk, places, commit.environment, commit.batch_rows, commit.rejects))
    found.append((f"audited {audited.bit_equal:,}/{audited.rows:,}", audited.bit_equal == audited.rows == len(places)))
    return _required(all(right for _, right in found), ", ".join(said for said, _ in found))


def _equal(kind: str, scorer: Scorer, staged: Staged, batches: Iterable[Batch], due: Logits) -> tuple[str, bool]:
    equal = rows = 0
    for batch in batches:
        (found,) = scorer.predictor.forward([staged.arrays(batch)])
        equal += int(_same(found[:, batch.slots], due[:, batch.rows]).sum())
        rows += len(batch.rows)
    return f"{kind} {equal:,}/{rows:,}", equal == rows


def _same(ours: Logits, theirs: Logits) -> npt.NDArray[np.bool_]:
    """Which rows have the same bits, shape (rows,)."""
    same: npt.NDArray[np.bool_] = (np.ascontiguousarray(ours).view("i4") == np.ascontiguousarray(theirs).view("i4")).all(axis=0)
    return same


def precision(subject: models.Subject, lower: Precision, bench: Bench) -> str:
    """Whether probabilities in a lower precision are within the bounds that a pipeline has by default."""
    task = bench.task(subject, lower, precision=lower, rows=SAMPLE_ROWS if not bench.quick else 1_024)
    task = replace(task, head=Binary(returns="logits", labels=("no", "yes")))
    found = agreement(task.open(), plan_chunks(task.snapshot, task.settings.chunk_rows)[0])
    found.require(task.settings.max_difference, task.settings.min_rank_agreement)
    return f"difference {found.largest_difference:.2g}, ranks {found.rank_agreement:.6f} on {found.rows:,} rows"


def as_cpu(subject: models.Subject, bench: Bench) -> str:
    """Scores of the device and of the CPU, as an audit on another machine compares them."""
    task = bench.task(subject, "as-cpu", rows=2_048 if bench.quick else SAMPLE_ROWS)
    chunk = plan_chunks(task.snapshot, task.settings.chunk_rows)[0]
    on_cpu = replace(task, settings=task.settings.model_copy(update={"device": "cpu"}))
    ours, theirs = (task.head.records(_logits(one.open(), chunk)) for one in (task, on_cpu))
    right = near(ours, theirs)
    largest = float(np.abs(ours.score - theirs.score).max())
    return _required(bool(right.all()), f"{int(right.sum()):,}/{len(right):,} rows, largest difference {largest:.2g}")


def by_export(subject: models.Subject, bench: Bench) -> str:
    """The product's reading of a .pt2 file and torch's own, both on the device."""
    task = bench.task(subject, "export", rows=1_024)
    chunk = plan_chunks(task.snapshot, task.settings.chunk_rows)[0]
    archive = vetted_pt2(task.storage.read("model.pt2"), subject.name)
    reference = TorchPredictor(by_torch_export(archive, bench.device), bench.device)
    ours, theirs = (_logits(task.open(predictor=one), chunk) for one in (None, reference))
    require_same_program(ours, theirs, subject.name)
    return f"{int(_same(ours, theirs).sum()):,}/{ours.shape[1]:,} rows bit-equal, the others within roundings"


def _logits(scorer: Scorer, chunk: Chunk) -> Logits:
    with scorer.staged(chunk, {}) as (staged, rows):
        return scorer.forward_pass(staged, rows.rejects.scored, chunk.name).logits


def sweep(bench: Bench) -> str:
    """The sweep as `batch-assets sweep` makes it, up to the end of the memory."""
    task = bench.task(models.WIDE, "sweep", rows=2_048 if bench.quick else 65_536)
    limit = PT2.memory(bench.device) or _CPU_LIMIT
    *found, ended = measure(task, plan_chunks(task.snapshot, task.settings.chunk_rows)[0], limit)
    measured = [one for one in found if isinstance(one, Measured)]
    knee = pick(measured, limit)
    rate = max(one.rows_per_s for one in measured)
    seen = f"{ended}; {knee:,} picked of {measured[-1].batch_rows:,}, at best {rate:,.0f} rows/s"
    return _required("do not fit" in str(ended), seen)


def halved(bench: Bench) -> str:
    """A batch that cannot fit: it is halved, stays halved, and every row has the bits of a night of that size."""
    too_large = 2 ** math.ceil(math.log2(torch.cuda.get_device_properties(0).total_memory / (4 * models.WIDTH)))
    task = bench.task(models.WIDE, "halved", rows=20_000, batch_size=too_large)
    scorer, chunk = task.open(), plan_chunks(task.snapshot, task.settings.chunk_rows)[0]
    with scorer.staged(chunk, {}) as (staged, rows):
        first, second = (scorer.forward_pass(staged, rows.rejects.scored, chunk.name) for _ in range(2))
        due = ForwardPass(scorer.predictor, 1, first.smallest, 0.0)(staged, rows.rejects.scored, chunk.name)
    equal = int((_same(first.logits, due.logits) & _same(second.logits, due.logits)).sum())
    seen = f"{too_large:,} rows became {first.smallest:,}, then {second.calls} pass; {equal:,}/20,000 bit-equal"
    right = first.smallest < too_large and second.calls == 1 and equal == 20_000 and not first.raised
    return _required(right, seen)


def overlap(bench: Bench) -> str:
    """Copies and work through one lane, against each alone; the work is repeated until it takes about as long as the copies."""
    task = bench.task(models.MLP, "overlap", rows=131_072, batch_size=65_536)
    scorer, chunk = task.open(), plan_chunks(task.snapshot, task.settings.chunk_rows)[0]
    program = scorer.predictor.program  # type: ignore[attr-defined]
    lane = CudaLane()
    with scorer.staged(chunk, {}) as (staged, rows):
        batches = [staged.arrays(one) for one in staged.batches(rows.rejects.scored, 65_536)] * 16
        there = [[torch.from_numpy(array).to("cuda") for array in batch] for batch in batches[:2]] * 16

        def work(times: int, inputs: list[torch.Tensor]) -> torch.Tensor:
            with torch.inference_mode():
                for _ in range(times):
                    (found,) = program(*[tensor.t() for tensor in inputs])
            return found.t()

        def alone(times: int) -> float:
            return _seconds(lambda: [work(times, inputs) for inputs in there])

        copies = _seconds(lambda: list(lane.forward(lambda inputs: inputs[0][:1, :1].contiguous(), batches)))
        times = max(1, round(copies / alone(1)))
        working = alone(times)
        both = _seconds(lambda: list(lane.forward(partial(work, times), batches)))
    share = both / (copies + working)
    return _required(share < HIDDEN, f"copies {copies:.3f} s, work {working:.3f} s, both {both:.3f} s: {share:.2f} of the sum")


def _seconds(call: Callable[[], object]) -> float:
    """The best of a few times, with nothing left to do on the device."""
    found = []
    for _ in range(4):
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def rates(subject: models.Subject, bench: Bench) -> str:
    """Rows per second: a night, its forward pass, the program on data that is on the device already, the copies' limit."""
    task = bench.task(subject, "rates")
    _, night = _night(task, lambda: None)
    scorer, chunk = task.open(), plan_chunks(task.snapshot, task.settings.chunk_rows)[0]
    with scorer.staged(chunk, {}) as (staged, rows):
        scored = rows.rejects.scored
        forward = _rate(lambda: scorer.forward_pass(staged, scored, chunk.name), chunk.rows, bench)
        batch = staged.batches(scored, task.settings.batch_rows)[0]
        arrays = staged.arrays(batch)
    there = [torch.from_numpy(array).to(bench.device) for array in arrays]
    program = scorer.predictor.program  # type: ignore[attr-defined]

    def alone() -> None:
        with torch.inference_mode():
            for _ in range(8):
                program(*[tensor.t() for tensor in there])
        _wait(bench)

    found = f"night {night:,.0f}, forward pass {forward:,.0f}, on data there {_rate(alone, 8 * batch.size, bench):,.0f}"
    return f"{found}, copies at most {_copies(arrays, bench):,.0f} rows/s" if bench.device == "cuda" else f"{found} rows/s"


def _copies(arrays: tuple[Array, ...], bench: Bench) -> float:
    """Rows per second from pinned memory to the device, and nothing else."""
    pinned = [torch.from_numpy(array).contiguous().pin_memory() for array in arrays]

    def copy() -> None:
        for _ in range(8):
            for tensor in pinned:
                tensor.to("cuda", non_blocking=True)
        _wait(bench)

    return _rate(copy, 8 * arrays[0].shape[1], bench)


def _rate(call: Callable[[], object], rows: int, bench: Bench) -> float:
    call()
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < bench.seconds:
        call()
        calls += 1
    return calls * rows / (time.perf_counter() - started)


def _wait(bench: Bench) -> None:
    if bench.device == "cuda":
        torch.cuda.synchronize()


def _night(task: ScoringTask, begin: Callable[[], object]) -> tuple[int, float]:
    """Rows, and rows per second, of all chunks but the first, read, scored and committed by the engine of one process."""
    first, *others = plan_chunks(task.snapshot, task.settings.chunk_rows)
    with LocalEngine(1).open(task, print) as workers:
        list(workers.map(Scorer.score, [first]))
        begin()
        started = time.perf_counter()
        rows = sum(commit.scored for commit in workers.map(Scorer.score, others))
        return rows, rows / (time.perf_counter() - started)


def poison(bench: Bench) -> str:
    """Rows on which the model raises are found; the others have the bits that they have without them."""
    places = (3, 70, 71, 900)
    clean, spoilt = (
        bench.task(models.STUMBLES, name, dict.fromkeys(bad, -1.0), rows=1_024, batch_size=256)
        for name, bad in (("clean", ()), ("spoilt", places))
    )
    due = _logits(clean.open(), plan_chunks(clean.snapshot, 1_024)[0])
    scorer, chunk = spoilt.open(), plan_chunks(spoilt.snapshot, 1_024)[0]
    with scorer.staged(chunk, {}) as (staged, rows):
        found = scorer.forward_pass(staged, rows.rejects.scored, chunk.name)
    others = np.delete(_same(found.logits, due), places)
    seen = (
        f"rows {sorted(found.raised)} of {places} found in {found.calls} passes, {int(others.sum()):,}/1,020 others bit-equal"
    )
    return _required(tuple(sorted(found.raised)) == places and bool(others.all()), seen)


def lost(bench: Bench) -> str:
    """An id that no table has: its worker's process ends, others find the row, and the chunk is committed without it.

    Worker, scorer, probes and commit are the product's. Ray and the crew that asks the workers are not here: processes are
    started by this kit, in the crew's order.
    """
    place = 700
    clean = bench.task(models.EMBEDDINGS, "whole", rows=1_024, batch_size=256, chunk_rows=1_024)
    task = bench.task(
        models.EMBEDDINGS, "lost", {place: models.TABLES * models.IDS}, rows=1_024, batch_size=256, chunk_rows=1_024
    )
    if bench.device == "cpu":
        task = replace(task, load=models.PretendsToLose(task.load))
    (chunk,) = plan_chunks(task.snapshot, 1_024)
    answers, ended = _asked(task, "score", chunk, ())
    _required(not answers and ended == 1, f"the worker was to end itself: exit status {ended}, answers {answers}")
    batch = _last(_asked(task, "probe", chunk, (), None))
    row = _last(_asked(task, "probe", chunk, (), batch))
    commit = _last(_asked(task, "score", chunk, (row,)))
    clean.open().score(chunk)
    ours, due = (read_committed(one.storage, f"run/{chunk.name}.parquet") for one in (task, clean))
    equal = ours.equals(due.filter(np.arange(len(due)) != row))
    kind = "a pretended loss" if bench.device == "cpu" else "worker ended"
    seen = f"{kind}: row {row} found, {commit.scored:,} others bit-equal: {equal} (who asks the workers is this kit, not Ray)"
    return _required(row == place and commit.dead_lettered == 1 and equal, seen)


def _asked(task: ScoringTask, what: str, *arguments: Any) -> tuple[list[Any], int | None]:
    """What a worker in a process of its own answers, and how the process ended. Raises what the worker raised."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, what, arguments, sender))
    process.start()
    sender.close()
    answers = list(_received(receiver))
    process.join()
    if answers and isinstance(answers[-1], BatchAssetsError):
        raise answers[-1]
    return answers, process.exitcode


def _last(asked: tuple[list[Any], int | None]) -> Any:
    answers, ended = asked
    _required(bool(answers), f"a worker ended without an answer, exit status {ended}")
    return answers[-1]


def _received(receiver: Connection) -> Iterator[Any]:
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        return


def _work(task: ScoringTask, what: str, arguments: tuple[Any, ...], sender: Connection) -> None:
    """Runs in a process of its own."""
    worker = Worker(0.0, Owner(Process("here", 0, 0.0), "gpu.py", ""), task)
    try:
        for answer in worker.probe(*arguments) if what == "probe" else [worker.work(Scorer.score, *arguments)]:
            sender.send(answer)
    except BatchAssetsError as error:
        sender.send(error)


def two_workers(bench: Bench) -> str:
    """Rows per second of one process and of two that share the device."""
    alone = _together([bench.task(models.MLP, "one")])
    both = _together([bench.task(models.MLP, name) for name in ("left", "right")])
    return f"one {alone:,.0f}, two together {both:,.0f} rows/s: {both / alone:.2f} times"


def _together(tasks: list[ScoringTask]) -> float:
    """Rows per second of processes that begin at the same time: all rows, by the time of the slower one."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(len(tasks)), context.SimpleQueue()
    processes = [context.Process(target=_share, args=(task, barrier, found)) for task in tasks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    _required(not any(process.exitcode for process in processes), "a worker's process ended early")
    nights = [found.get() for _ in tasks]
    return float(sum(rows for rows, _ in nights) / max(rows / rate for rows, rate in nights))


def _share(task: ScoringTask, barrier: Any, found: Any) -> None:
    """Runs in a process of its own."""
    found.put(_night(task, partial(barrier.wait, timeout=120)))


def peak(subject: models.Subject, bench: Bench) -> str:
    """What a predictor says of its memory, what torch says, and what the driver says."""
    task = bench.task(subject, "peak", rows=131_072)
    scorer = task.open()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _logits(scorer, plan_chunks(task.snapshot, task.settings.chunk_rows)[0])
    said, allocated, reserved = scorer.predictor.peak_memory(), torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    free, total = torch.cuda.mem_get_info()
    sizes = (f"{name} {size / 1e6:,.0f}" for name, size in (("says", said), ("torch", allocated), ("reserved", reserved)))
    return _required(before < said == allocated <= reserved, f"{', '.join(sizes)}, of the GPU {(total - free) / 1e6:,.0f} MB")


def _required(right: bool, seen: str) -> str:
    if not right:
        raise Wrong(seen)
    return seen


LOWER: tuple[Precision, ...] = ("tf32", "bfloat16", "float16")

CHECKS = (
    *(Check(f"bits, {one.name}", "a row has the same bits", partial(bits, one)) for one in models.SUBJECTS),
    *(
        Check(f"{lower}, {one.name}", "within the default bounds", partial(precision, one, lower), lower == "tf32")
        for one in models.SUBJECTS
        for lower in LOWER
    ),
    *(Check(f"as on a CPU, {one.name}", "within an audit's bound", partial(as_cpu, one), True) for one in models.SUBJECTS),
    *(Check(f"torch.export, {one.name}", "reads the same", partial(by_export, one)) for one in models.SUBJECTS),
    Check("sweep", "ends with the memory", sweep),
    Check("out of memory in a night", "halved, all rows scored", halved, True),
    Check("copies beside work", f"less than {HIDDEN} of the sum", overlap, True),
    *(Check(f"rates, {one.name}", "", partial(rates, one)) for one in models.SUBJECTS),
    Check("poison", "its rows, no others", poison),
    *(Check(f"peak memory, {one.name}", "as torch says", partial(peak, one), True) for one in models.SUBJECTS),
    Check("an assertion in a kernel", "worker ends, row found", lost),
    Check("two workers on one device", "", two_workers),
    Check("places for GPUs in a Ray cluster", "one for each worker", not_run="this kit runs without Ray"),
    Check("onnxruntime on a GPU", "as on a CPU", not_run="this kit looks at torch only"),
)
"""What may lose the device comes last."""
