"""A small pipeline of made-up rows: three features, a logistic model, a few thousand keys. Only its size is not real."""

import atexit
import functools
import hashlib
import pickle
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from typing_extensions import override

from batch_assets.config import PipelineConfig
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.histogram import Histogram
from batch_assets.models.card import Card
from batch_assets.models.registry import ModelVersion, Registry
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.runtime import Runtime
from batch_assets.models.runtimes.torch_runtime import PT2, TorchRuntime
from batch_assets.models.sandbox import LIMITS, Limits, Sandbox
from batch_assets.models.trial import check_model
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import Published, publish
from batch_assets.nightly.score import score
from batch_assets.proof.keys import prove
from batch_assets.runs.commit import ChunkCommit, read_commits
from batch_assets.runs.commits import Commits
from batch_assets.runs.evidence import Proof
from batch_assets.scoring.batch_size import Sweep
from batch_assets.scoring.heads.classifier import Binary, Classes
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.scorer import Scorer
from batch_assets.storage import LocalStorage, open_storage

DAY = "2024-03-10"
OUTPUTS = {
    "returns": "logits",
    "labels": ("no", "yes"),
    "threshold": 0.5,
    "decile_edges": tuple(n / 10 for n in range(1, 10)),
}


class Quiet:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.seen: list[tuple[str, int, int | None]] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def at(self, stage: str, done: int, total: int | None) -> None:
        self.seen.append((stage, done, total))


def head_of(**said: Any) -> Head:
    """The head of a classifier, of as many classes as there are labels."""
    kind = Binary if len(said["labels"]) == 2 else Classes
    return kind.model_validate({name: value for name, value in said.items() if name != "threshold" or kind is Binary})


class Logistic(torch.nn.Module):
    def __init__(self, weights: Iterable[float] = (1.0, -0.5, 0.25)) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weights


def rows(count: int, *, key_type: pa.DataType | None = None, seed: int = 1) -> pa.Table:
    """`count` rows with keys 1, 2, … (or text) and three standard normal features."""
    random = np.random.default_rng(seed)
    numbers = np.arange(1, count + 1)
    keys = (
        pa.array([f"user-{n:07d}" for n in numbers]) if key_type == pa.string() else pa.array(numbers, key_type or pa.int64())
    )
    features = {name: pa.array(random.standard_normal(count).astype(np.float32)) for name in ("x", "y", "z")}
    return pa.table({"user": keys, **features})


class _OnceEach(Sandbox):
    """Tries a model with its card once; half of all tests begin with the same one."""

    def __init__(self) -> None:
        super().__init__()
        self._tried: dict[bytes, Any] = {}

    @override
    def call(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        limits: Limits = LIMITS,
        preloaded: Sequence[str] = TorchRuntime.preloaded,
    ) -> Any:
        if function is not check_model:
            return super().call(name, function, *arguments, limits=limits, preloaded=preloaded)
        request = pickle.dumps((name, arguments, limits))
        if request not in self._tried:
            self._tried[request] = super().call(name, function, *arguments, limits=limits, preloaded=preloaded)
        return self._tried[request]


@functools.cache
def sandbox() -> Sandbox:
    """One process apart for all models of a test process, which does not import torch for each; it ends with its caller."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_OnceEach())


class Small:
    """A storage root, a source and a pipeline in a folder; `root` may be another place, like `s3://bucket`."""

    def __init__(self, folder: Path, table: pa.Table, model: bytes, root: str = "", **settings: Any) -> None:
        # Most tests look into the folder of a local root; those of a bucket do not.
        self.storage = cast(LocalStorage, open_storage(root)) if root else LocalStorage(str(folder / "root"))
        self.registry = Registry(self.storage, sandbox())
        self.progress = Quiet()
        self.source = folder / "rows.parquet"
        pq.write_table(table, self.source)
        query = folder / "query.sql"
        query.write_text("SELECT user, x, y, z FROM rows WHERE $partition IS NOT NULL")
        quality = settings.get("quality", {})
        key = {"name": "user", "dtype": str(table.schema.field("user").type)}
        self.config = PipelineConfig.model_validate(
            {
                "name": "small",
                "partitions": {"start": "2024-01-01", "end": "2024-12-31"},
                "features": {
                    "source": {"kind": "duckdb", "query": str(query), "tables": {"rows": str(self.source)}},
                    "contract": {"key": key, "columns": [{"name": name} for name in ("x", "y", "z")]},
                },
                "model": {"name": "small"},
                "answers": {"kind": "binary", "labels": OUTPUTS["labels"]},
                "scoring": {"chunk_rows": 256, "batch_size": 64},
                **settings,
                # the rows are the same every day, and tests judge the second one already
                "quality": {"min_days": 1, **quality, "changes": {"allow_unchanged": True, **quality.get("changes", {})}},
            }
        )
        self.register("v1", model)

    def register(self, version: str, model: bytes, runtime: Runtime = PT2, **outputs: Any) -> ModelVersion:
        """Register a version and approve it; `outputs` are what its card says otherwise of them."""
        self.registry.register("small", version, self.card(model, runtime, **outputs), model)
        self.registry.approve("small", "batch", version, why="test", by="the test")
        return self.model

    def card(self, model: bytes, runtime: Runtime = PT2, **outputs: Any) -> Card:
        """A card that fits the pipeline."""
        edges = np.linspace(0.02, 0.98, 49).tolist()
        return Card(
            description="made up",
            model_sha256=hashlib.sha256(model).hexdigest(),
            runtime=runtime,
            contract=self.config.features.contract,
            head=head_of(**{**OUTPUTS, **outputs}),
            baseline_partition="2024-01-31",
            baseline=Histogram.of(np.random.default_rng(7).uniform(0, 1, 5_000), edges),
            metrics={},
            training={},
        )

    def opened(self, day: str = DAY, model: ModelVersion | None = None) -> Night:
        """The night of a day by the approved version, or by another."""
        return Night.open(self.config, self.storage, day, model or self.model)

    def night(self, day: str = DAY, model: ModelVersion | None = None) -> Published:
        """A whole night without Dagster: freeze, score, judge, publish. Raises what they raise."""
        model = model or self.model
        freeze(self.config, self.storage, day, self.progress)
        scored = score(self.opened(day, model), LocalEngine(1), self.progress)
        judge(scored.night, scored.manifest)
        return publish(scored.night, self.progress)

    def swept(self, batch_rows: int) -> Sweep:
        """What a sweep might have found."""
        return Sweep(
            model_sha256=self.model.card.model_sha256,
            device=self.config.scoring.device,
            precision=self.config.scoring.precision,
            library=self.model.card.runtime.versioned(),
            memory_limit=1 << 30,
            measured=(),
            ended="",
            batch_rows=batch_rows,
        )

    @staticmethod
    def sha256(model: bytes) -> str:
        """What a card says of a model file."""
        return hashlib.sha256(model).hexdigest()

    @property
    def model(self) -> ModelVersion:
        """What the alias names."""
        return self.registry.resolve(self.config.model)

    def replace_rows(self, table: pa.Table) -> None:
        """The source has other rows from now on."""
        pq.write_table(table, self.source)


def small_model(weights: Iterable[float] = (1.0, -0.5, 0.25)) -> bytes:
    """The bytes of an exported logistic model."""
    return export_model(Logistic(weights), 3)


def _number(commit: ChunkCommit) -> int:
    return commit.number


class Working:
    """A run of a small pipeline, chunk by chunk."""

    def __init__(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        self.small = small
        self.run: Night = small.opened(DAY)
        self.task = self.run.task()

    def score_all(self) -> dict[int, ChunkCommit]:
        with LocalEngine(1).open(self.task, self.small.progress.say) as workers:
            return {commit.number: commit for commit in sorted(workers.map(Scorer.score, self.run.plan), key=_number)}

    def commits(self) -> dict[int, ChunkCommit]:
        found = read_commits(self.small.storage, self.run.folder, self.run.plan, self.run.run_id)
        return {commit.number: commit for commit in found}

    def prove(self) -> Proof:
        frozen, card = self.run.frozen, self.run.model.card
        commits = Commits(card.baseline.edges, card.head.record)
        for commit in self.commits().values():
            commits.add(commit)
        return prove(self.small.storage, frozen.snapshot, frozen.folder, self.run.folder, self.run.plan, commits)

    def path(self, chunk: int) -> Path:
        return self.small.storage.local_path(f"{self.run.folder}/chunk-{chunk:05d}.parquet")

    def rejects(self) -> list[dict[str, object]]:
        """Every reject that a footer names."""
        named = [commit.rejects.name for commit in self.commits().values() if commit.rejects]
        return [
            row
            for name in named
            for row in pq.read_table(self.small.storage.local_path(f"{self.run.folder}/{name}")).to_pylist()
        ]


def with_values(table: pa.Table, column: str, values: dict[int, float | None]) -> pa.Table:
    changed = table[column].to_pylist()
    for row, value in values.items():
        changed[row] = value
    return table.set_column(table.schema.get_field_index(column), column, pa.array(changed, pa.float32()))
