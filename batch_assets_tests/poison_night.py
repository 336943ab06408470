"""A night with poison rows of six kinds, beside the same night without them: what each run left, for tests and benchmarks."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batch_assets.config import PipelineConfig
from batch_assets.digest import bits
from batch_assets.engines.engine import Engine
from batch_assets.features.provenance import Provenance, keep_provenance, sha256_of
from batch_assets.features.snapshot import CurrentSnapshot, current_log, snapshot_folder, write_snapshot
from batch_assets.histogram import Histogram
from batch_assets.models.card import Card
from batch_assets.models.registry import Registry
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import list_dead_letters
from batch_assets.scoring.heads.classifier import Binary
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet

DAY = "2024-03-10"
ITEMS, LONGEST = 500, 40
REASONS = {
    "null": "missing or non-finite feature: a",
    "nan": "missing or non-finite feature: b",
    "infinite": "missing or non-finite feature: c",
    "long list": f"list of more than {LONGEST} elements: seen",
    "unknown id": "the model raised",
    "non-finite output": "non-finite output of the model",
}
CONTRACT = {
    "key": {"name": "user", "dtype": "int64"},
    "columns": [
        *({"name": name} for name in ("a", "b", "c", "d")),
        {"name": "item", "dtype": "int64", "input": "ids"},
        {"name": "seen", "dtype": "int64", "length": "variable", "input": "history"},
    ],
    "inputs": [
        {"name": "features"},
        {"name": "ids", "dtype": "int64"},
        {"name": "history", "dtype": "int64", "max_length": LONGEST},
    ],
}


class Taste(torch.nn.Module):
    """Raises on an id that it has no embedding for; gives NaN where `d` is below -100."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.items = torch.nn.Embedding(ITEMS, 8, padding_idx=0)
        self.layer, self.out = torch.nn.Linear(4 + 8 + 8, 32), torch.nn.Linear(32, 1)

    def forward(self, features: torch.Tensor, ids: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        there = (history > 0).unsqueeze(-1)
        seen = (self.items(history) * there).sum(1) / there.sum(1).clamp(min=1)
        features = torch.cat([features[:, :3], torch.log(features[:, 3:] + 100)], dim=1)
        return self.out(torch.relu(self.layer(torch.cat([features, self.items(ids[:, 0]), seen], dim=1))))


@dataclass(frozen=True)
class Left:
    """What one run left: (key, probability bits) of what was scored, and the dead letters."""

    keys: np.ndarray
    values: np.ndarray
    dead: list[tuple[int, str, str | None, int]]
    rows: int


def compare(folder: Path, rows: int, poison: int, chunk_rows: int, engine: Engine, seed: int = 1) -> dict[str, object]:
    """Run both nights; says what was found, and raises AssertionError if anything but the poison rows differs."""
    random = np.random.default_rng(seed)
    places = np.sort(random.choice(rows, poison, replace=False))
    kinds = [sorted(REASONS)[n % len(REASONS)] for n in random.permutation(poison)]
    healthy = _night(folder / "healthy", rows, {}, chunk_rows, engine)
    poisoned = _night(folder / "poisoned", rows, dict(zip(places.tolist(), kinds, strict=True)), chunk_rows, engine)
    expected = {int(place) + 1: (REASONS[kind], int(place)) for place, kind in zip(places, kinds, strict=True)}
    assert {key: (reason, row) for key, reason, _, row in poisoned.dead} == expected
    assert len(poisoned.dead) == poison
    for _, reason, error, _ in poisoned.dead:
        assert (error is not None) == (reason == "the model raised")
        assert error is None or error.startswith("IndexError: index out of range")
    assert healthy.dead == []
    left = ~np.isin(healthy.keys, np.array(sorted(expected)))
    assert np.array_equal(healthy.keys[left], poisoned.keys)
    assert np.array_equal(healthy.values[left], poisoned.values)
    return {
        "rows": rows,
        "poison_rows": poison,
        "dead_letters_by_reason": dict(Counter(reason for _, reason, _, _ in poisoned.dead)),
        "others_bit_equal": len(poisoned.keys),
        "proven_rows": poisoned.rows,
    }


def _night(root: Path, rows: int, poison: dict[int, str], chunk_rows: int, engine: Engine) -> Left:
    storage, registry = LocalStorage(str(root)), Registry(LocalStorage(str(root)))
    config = PipelineConfig.model_validate(
        {
            "name": "poison",
            "partitions": {"start": DAY, "end": DAY},
            "features": {"source": {"kind": "duckdb", "query": "frozen.sql", "tables": {}}, "contract": CONTRACT},
            "model": {"name": "taste"},
            "answers": {"kind": "binary", "labels": ["no", "yes"]},
            "scoring": {"chunk_rows": chunk_rows},
        }
    )
    _freeze(storage, rows, poison, chunk_rows)
    model = export_model(Taste(), config.features.contract)
    card = Card(
        description="made up",
        model_sha256=hashlib.sha256(model).hexdigest(),
        runtime=PT2,
        contract=config.features.contract,
        head=Binary(returns="logits", labels=("no", "yes"), decile_edges=tuple(n / 10 for n in range(1, 10))),
        baseline_partition=DAY,
        baseline=Histogram.of(np.linspace(0, 1, 100), [n / 100 for n in range(1, 100)]),
        metrics={},
        training={},
    )
    registry.register("taste", "v1", card, model)
    registry.approve("taste", "batch", "v1", why="made up", by="the test")
    manifest = score(Night.open(config, storage, DAY, registry.resolve(config.model)), engine, Quiet()).manifest
    assert (manifest.scored + manifest.dead_lettered, manifest.dead_lettered) == (rows, len(poison))
    table = pa.concat_tables(
        [
            pq.read_table(storage.local_path(f"{manifest.folder}/{file.name}"), columns=["user", "probability"])
            for file in manifest.files
        ]
    )
    dead = [
        (int(letter.key), letter.reason, letter.error, _place(letter.file, letter.row))
        for letter in list_dead_letters(config, storage, manifest)
    ]
    return Left(table["user"].to_numpy(), bits(table["probability"].to_numpy()), dead, manifest.proof.rows)


def _place(file: str, row: int) -> int:
    """The row of the whole night: a file has 2^22 rows."""
    return int(file.removeprefix("part-").removesuffix(".parquet")) * (1 << 22) + row


def _freeze(storage: LocalStorage, rows: int, poison: dict[int, str], chunk_rows: int) -> None:
    with storage.scratch() as scratch:
        (scratch / "snapshot").mkdir()
        first, *others = _batches(rows, poison)
        reader = pa.RecordBatchReader.from_batches(first.schema, iter([first, *others]))
        snapshot = write_snapshot(scratch / "snapshot", reader, ["user"], min(chunk_rows, 1 << 14))
        folder = snapshot_folder("poison", DAY, snapshot.digest)
        storage.adopt(scratch / "snapshot", folder)
    made_up = Provenance(day=date.fromisoformat(DAY), timezone="UTC", settings_sha256=sha256_of("made up"), tables=())
    keep_provenance(storage, folder, made_up)
    current_log(storage, "poison", DAY).append(CurrentSnapshot(digest=snapshot.digest), after=0, why="made up")


def _batches(rows: int, poison: dict[int, str], size: int = 1 << 17) -> Iterator[pa.RecordBatch]:
    """The same rows for the same number, but for the poison."""
    for start in range(0, rows, size):
        count, random = min(size, rows - start), np.random.default_rng([7, start])
        features = {name: random.standard_normal(count, dtype=np.float32) for name in ("a", "b", "c", "d")}
        item, lengths = random.integers(1, ITEMS, count), random.integers(0, LONGEST + 1, count)
        null = np.zeros(count, dtype=bool)
        for place, kind in poison.items():
            at = place - start
            if not 0 <= at < count:
                continue
            if kind == "null":
                null[at] = True
            elif kind == "nan":
                features["b"][at] = np.nan
            elif kind == "infinite":
                features["c"][at] = -np.inf
            elif kind == "long list":
                lengths[at] = LONGEST + 1
            elif kind == "unknown id":
                item[at] = ITEMS
            else:
                features["d"][at] = -200.0
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        # Elements depend on row and position alone, so that a longer list leaves the others' as they are.
        owner = np.repeat(np.arange(count), lengths)
        position = np.arange(offsets[-1]) - offsets[owner]
        elements = ((owner + start) * 31 + position * 17) % (ITEMS - 1) + 1
        columns = {
            "user": pa.array(np.arange(start + 1, start + count + 1)),
            **{name: pa.array(values, mask=null if name == "a" else None) for name, values in features.items()},
            "item": pa.array(item),
            "seen": pa.ListArray.from_arrays(pa.array(offsets), pa.array(elements)),
        }
        yield pa.record_batch(columns)
