"""From tables to the model's inputs: shapes, padding, what is not permitted; and that a row's bits do not depend on its
place.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_assets.features.contract import FeatureContract
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.inputs import SHORTEST_BUCKET, Staged, Staging
from batch_assets_tests.small import Small

Make = Callable[..., Small]
CONTRACT = FeatureContract.model_validate(
    {
        "key": {"name": "user", "dtype": "int64"},
        "columns": [
            {"name": "x"},
            {"name": "n", "dtype": "int16"},
            {"name": "maybe", "nullable": True},
            {"name": "vector", "length": 4},
            {"name": "item", "dtype": "int32", "input": "ids"},
            {"name": "seen", "dtype": "int64", "length": "variable", "input": "history"},
        ],
        "inputs": [
            {"name": "features"},
            {"name": "ids", "dtype": "int64"},
            {"name": "history", "dtype": "int64", "max_length": 100, "pad": -1},
        ],
    }
)


def table(count: int, seed: int = 0, longest: int = 100) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "user": np.arange(count),
            "x": random.standard_normal(count, dtype=np.float32),
            "n": random.integers(0, 9, count).astype(np.int16),
            "maybe": pa.array([None if n % 3 == 0 else float(n) for n in range(count)], pa.float32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(random.standard_normal(count * 4, dtype=np.float32)), 4),
            "item": random.integers(0, 50, count).astype(np.int32),
            "seen": pa.array(
                [random.integers(1, 50, random.integers(0, longest + 1)).tolist() for _ in range(count)], pa.list_(pa.int64())
            ),
        }
    )


def staged(rows: pa.Table) -> Staged:
    return Staging(CONTRACT, len(rows)).fill(rows)


def replaced(rows: pa.Table, column: str, values: list[Any]) -> pa.Table:
    index = rows.schema.get_field_index(column)
    return rows.set_column(index, column, pa.array(values, rows.schema.field(column).type))


def test_columns_stand_side_by_side_in_the_order_of_the_contract() -> None:
    rows = table(10)
    features = staged(rows).matrices["features"]
    assert features.shape == (7, 10)
    np.testing.assert_array_equal(features[0], rows["x"].to_numpy())
    np.testing.assert_array_equal(features[1], rows["n"].to_numpy())
    np.testing.assert_array_equal(np.isnan(features[2]), [n % 3 == 0 for n in range(10)])
    np.testing.assert_array_equal(features[3:].T, rows["vector"].to_pylist())
    assert staged(rows).matrices["ids"].dtype == np.int64
    assert staged(rows).faults == ()


def test_several_record_batches_are_one_table() -> None:
    rows = table(50)
    cut = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 20), rows.slice(27)])
    for name, matrix in staged(rows).matrices.items():
        np.testing.assert_array_equal(matrix, staged(cut).matrices[name])
    whole, parts = (one.batches(np.ones(50, dtype=bool), 64) for one in (staged(rows), staged(cut)))
    for ours, theirs in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(staged(rows).arrays(ours)[2], staged(cut).arrays(theirs)[2])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("x", None, "missing or non-finite feature: x"),
        ("x", math.nan, "missing or non-finite feature: x"),
        ("x", math.inf, "missing or non-finite feature: x"),
        ("n", None, "missing or non-finite feature: n"),
        ("vector", None, "missing or non-finite feature: vector"),
        ("vector", [1.0, 2.0, math.nan, 3.0], "missing or non-finite feature: vector"),
        ("item", None, "missing or non-finite feature: item"),
        ("seen", None, "missing or non-finite feature: seen"),
        ("seen", [1, None], "missing or non-finite feature: seen"),
        ("seen", list(range(101)), "list of more than 100 elements: seen"),
    ],
)
def test_what_is_not_permitted_is_told_with_its_column(column: str, value: Any, reason: str) -> None:
    rows = table(9)
    values = rows[column].to_pylist()
    values[4] = value
    found = staged(replaced(rows, column, values))
    (mask,) = (mask for _, mask in found.faults)
    assert np.flatnonzero(mask).tolist() == [4]
    assert found.reasons(mask) == {4: reason}


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("column", ["bool", "int8", "int64"])
def test_a_null_of_any_type_is_told_and_the_others_keep_their_values(dtype: str, column: str) -> None:
    contract = FeatureContract.model_validate(
        {
            "key": {"name": "k", "dtype": "int64"},
            "columns": [{"name": "x", "dtype": column}],
            "inputs": [{"name": "features", "dtype": dtype}],
        }
    )
    arrow = pa.bool_() if column == "bool" else pa.type_for_alias(column)
    rows = pa.table({"k": [1, 2, 3], "x": pa.array([1, None, 0], pa.int64()).cast(arrow)})
    found = Staging(contract, 3).fill(rows)
    assert found.reasons(np.array([False, True, False])) == {1: "missing or non-finite feature: x"}
    assert found.matrices["features"][0, [0, 2]].tolist() == [1, 0]


def test_what_is_nullable_is_permitted() -> None:
    rows = replaced(table(4), "maybe", [math.nan, math.inf, None, 1.0])
    assert staged(rows).faults == ()


def test_an_input_of_float64_keeps_every_digit() -> None:
    """Single values, nulls and lists; whole numbers beyond 2**24 too, which float32 would round."""
    contract = FeatureContract.model_validate(
        {
            "key": {"name": "user", "dtype": "int64"},
            "columns": [
                {"name": "x", "dtype": "float64"},
                {"name": "n", "dtype": "int64"},
                {"name": "maybe", "dtype": "float64", "nullable": True},
                {"name": "vector", "dtype": "float64", "length": 2},
                {"name": "seen", "dtype": "float64", "length": "variable", "input": "history"},
            ],
            "inputs": [{"name": "features", "dtype": "float64"}, {"name": "history", "dtype": "float64"}],
        }
    )
    digits, whole = 1 + 1e-12, 2**24 + 1
    rows = pa.table(
        {
            "x": pa.array([digits, None, 1e300, np.inf, digits]),
            "n": [whole] * 5,
            "maybe": pa.array([digits, None, np.nan, digits, digits]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array([digits] * 10), 2),
            "seen": pa.array([[digits], [digits], [digits], [digits], [digits, np.nan]]),
        }
    )
    staged = Staging(contract, 5).fill(rows)
    features, (_, history) = staged.matrices["features"], staged.arrays(staged.batches(np.ones(5, dtype=bool), 64)[0])
    assert features.dtype == history.dtype == np.float64
    assert features[:, 0].tolist() == [digits, whole, digits, digits, digits]
    assert np.isnan(features[2, 1:3]).all()
    assert features[0, 2] == 1e300
    assert history[0, 0] == digits
    told = {phrase: np.flatnonzero(mask).tolist() for phrase, mask in staged.faults}
    assert told == {"missing or non-finite feature: x": [1, 3], "missing or non-finite feature: seen": [4]}


def test_a_hole_in_a_list_of_whole_numbers_is_told() -> None:
    contract = FeatureContract.model_validate(
        {
            "key": {"name": "k", "dtype": "int64"},
            "columns": [{"name": "v", "dtype": "int64", "length": 2}],
            "inputs": [{"name": "features", "dtype": "int64"}],
        }
    )
    rows = pa.table({"k": [1, 2, 3], "v": pa.array([[1, 2], [3, None], [5, 6]], pa.list_(pa.int64(), 2))})
    assert Staging(contract, 3).fill(rows).reasons(np.array([False, True, False])) == {1: "missing or non-finite feature: v"}


@pytest.mark.parametrize(("width", "hidden"), [(13, 1), (20, 1), (20, 7), (64, 256)])
def test_a_row_has_the_same_bits_in_full_batches_and_in_others(width: int, hidden: int) -> None:
    """A full batch is a view of the staging buffer, another one is gathered from it."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(width, hidden)] if hidden == 1 else [torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, 1)]
    predictor = PT2.load(export_model(torch.nn.Sequential(*layers), width), "wide")
    names = [f"f{number}" for number in range(width)]
    contract = FeatureContract.model_validate(
        {"key": {"name": "k", "dtype": "int64"}, "columns": [{"name": name} for name in names]}
    )
    random = np.random.default_rng(0)
    rows = pa.table({"k": np.arange(1_000), **{name: random.standard_normal(1_000, dtype=np.float32) for name in names}})
    run = ForwardPass(predictor, 1, 256, 0.0)
    staged = Staging(contract, 1_000).fill(rows)
    everything = run(staged, np.ones(1_000, dtype=bool), "chunk").logits[0]
    some = random.random(1_000) < 0.9
    np.testing.assert_array_equal(run(staged, some, "chunk").logits[0][some], everything[some])
    sample = Staging(contract, 40).fill(rows.slice(300, 40))
    np.testing.assert_array_equal(run(sample, np.ones(40, dtype=bool), "chunk").logits[0], everything[300:340])


def test_several_faults_of_a_row_are_told_together() -> None:
    rows = replaced(replaced(table(3), "x", [1.0, None, 2.0]), "item", [1, None, 2])
    found = staged(rows)
    assert found.reasons(np.array([False, True, False])) == {1: "missing or non-finite feature: x, item"}


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(0, 1_000), st.sampled_from([64, 128, 256]))
def test_batches_cover_the_scored_rows_once_in_bounded_shapes(count: int, seed: int, batch_rows: int) -> None:
    scored = np.random.default_rng(seed).random(count) < 0.8
    one = staged(table(count, seed))
    lengths = np.diff(one.sequences["history"].offsets)
    batches = one.batches(scored, batch_rows)
    covered = np.concatenate([batch.rows for batch in batches]) if batches else np.array([], dtype=int)
    assert sorted(covered.tolist()) == np.flatnonzero(scored).tolist()
    for batch in batches:
        assert batch.size % 64 == 0
        assert batch.size * batch.length <= max(batch_rows * SHORTEST_BUCKET, 64 * batch.length)
        assert batch.length // 2 < max(lengths[batch.rows].max(), SHORTEST_BUCKET // 2 + 1) <= batch.length
        features, ids, history = one.arrays(batch)
        assert (features.shape, ids.shape, history.shape) == ((7, batch.size), (1, batch.size), (batch.length, batch.size))


def test_lists_are_padded_at_their_end() -> None:
    rows = replaced(table(3), "seen", [[5, 6], [], [7]])
    one = staged(rows)
    (batch,) = one.batches(np.array([True, True, True]), 64)
    history = one.arrays(batch)[2]
    assert history[:3, :3].T.tolist() == [[5, 6, -1], [-1, -1, -1], [7, -1, -1]]


def two_lists(first: int, second: int) -> FeatureContract:
    return FeatureContract.model_validate(
        {
            "key": {"name": "k", "dtype": "int64"},
            "columns": [{"name": name, "dtype": "int64", "length": "variable", "input": name} for name in ("a", "b")],
            "inputs": [
                {"name": "a", "dtype": "int64", "max_length": first},
                {"name": "b", "dtype": "int64", "max_length": second},
            ],
        }
    )


@pytest.mark.parametrize(("first", "second"), [(1, 1), (10, 10), (50, 50), (33, 200), (200, 33)])
def test_no_list_is_padded_beyond_what_its_input_takes(first: int, second: int) -> None:
    """A model with 50 places takes a list of 33 items, if it is padded to 50; it was padded to 64."""
    random = np.random.default_rng(0)
    columns = {
        name: pa.array(
            [list(range(length)) for length in random.permutation(np.arange(400) % (longest + 1))], pa.list_(pa.int64())
        )
        for name, longest in (("a", first), ("b", second))
    }
    one = Staging(two_lists(first, second), 400).fill(pa.table({"k": np.arange(400), **columns}))
    assert one.faults == ()
    seen = []
    for batch in one.batches(np.ones(400, dtype=bool), 256):
        a, b = one.arrays(batch)
        assert (len(a), len(b)) == (min(batch.length, first), min(batch.length, second))
        assert batch.size <= 256
        for array, name in ((a, "a"), (b, "b")):
            for slot, row in zip(batch.slots, batch.rows, strict=True):
                values = columns[name][int(row)].as_py()
                assert array[:, slot].tolist() == values + [0] * (len(array) - len(values))
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(400))


class Places(torch.nn.Module):
    """Knows fifty places, and no more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.places = torch.nn.Embedding(50, 1)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        there = (seen > 0).unsqueeze(-1)
        return (self.places(torch.arange(seen.shape[1])) * there).sum(dim=1)


def test_rows_of_every_permitted_length_are_scored_by_a_model_that_takes_no_more() -> None:
    contract = FeatureContract.model_validate(
        {
            "key": {"name": "k", "dtype": "int64"},
            "columns": [{"name": "seen", "dtype": "int64", "length": "variable"}],
            "inputs": [{"name": "features", "dtype": "int64", "max_length": 50}],
        }
    )
    rows = pa.table({"k": np.arange(51), "seen": pa.array([[1] * length for length in range(51)], pa.list_(pa.int64()))})
    predictor = TorchPredictor(lambda seen: (Places()(seen),))
    passed = ForwardPass(predictor, 1, 256, 0.01)(Staging(contract, 51).fill(rows), np.ones(51, dtype=bool), "chunk")
    assert passed.raised == {}
    with torch.inference_mode():
        expected = [float(Places()(torch.ones(1, length, dtype=torch.int64))) for length in range(51)]
    np.testing.assert_allclose(passed.logits[0], expected, atol=1e-5)


class Taste(torch.nn.Module):
    """Features, an embedded id, and the mean of embedded ids of a list whose padding is left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.items = torch.nn.Embedding(50, 8)
        self.layer = torch.nn.Linear(7 + 8 + 8, 32)
        self.out = torch.nn.Linear(32, 1)

    def forward(self, features: torch.Tensor, ids: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        there = (history >= 0).unsqueeze(-1)
        seen = (self.items(history.clamp(min=0)) * there).sum(1) / there.sum(1).clamp(min=1)
        everything = torch.cat([torch.nan_to_num(features), self.items(ids[:, 0]), seen], dim=1)
        return self.out(torch.relu(self.layer(everything)))


def test_a_row_with_lists_has_the_same_bits_wherever_it_stands() -> None:
    """Alone, in another order, among other rows: its bucket and so its shape depend on the row alone."""
    predictor = PT2.load(export_model(Taste(), CONTRACT), "taste")
    rows = table(700)

    def logits(some: pa.Table, scored: np.ndarray | None = None) -> np.ndarray:
        run = ForwardPass(predictor, 1, 256, 0.0)
        return run(staged(some), np.ones(len(some), dtype=bool) if scored is None else scored, "chunk").logits[0]

    everything = logits(rows)
    order = np.random.default_rng(1).permutation(700)
    np.testing.assert_array_equal(logits(rows.take(order)), everything[order])
    some = np.random.default_rng(2).random(700) < 0.3
    np.testing.assert_array_equal(logits(rows, some)[some], everything[some])
    np.testing.assert_array_equal(logits(rows.slice(123, 1)), everything[123:124])
    reference = Taste().eval()
    for place in (0, 200, 699):
        row = rows.slice(place, 1)
        features = torch.tensor(staged(row).matrices["features"].T)
        history = torch.tensor([row["seen"].to_pylist()[0] or [-1]])
        with torch.inference_mode():
            expected = reference(features, torch.tensor([[row["item"].to_pylist()[0]]]), history)
        assert everything[place] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": [{"name": "x", "input": "other"}]}, "x is for the input other"),
        ({"columns": [{"name": "x"}], "inputs": [{"name": "features"}, {"name": "more"}]}, "no column is for the input more"),
        ({"columns": [{"name": "x"}, {"name": "l", "length": "variable"}]}, "must have no other column"),
        (
            {"columns": [{"name": "x", "dtype": "int8", "nullable": True}], "inputs": [{"name": "features", "dtype": "int64"}]},
            "x cannot be nullable",
        ),
        ({"columns": [{"name": "x"}], "inputs": [{"name": "features", "dtype": "int64"}]}, "takes whole numbers"),
        ({"columns": [{"name": "x", "length": 0}]}, "greater than or equal to 1"),
        ({"columns": [{"name": "k"}]}, "the key k cannot be a feature too"),
        ({"columns": [{"name": "x"}], "inputs": [{"name": "features"}, {"name": "features"}]}, "inputs are named twice"),
    ],
)
def test_a_contract_that_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeatureContract.model_validate({"key": {"name": "k", "dtype": "int64"}, **change})


def test_a_pipeline_with_lists_goes_all_the_way(make_small: Make) -> None:
    """Freeze, score, prove and judge; the schema of every column survives the snapshot."""
    assert CONTRACT.differences(table(3).schema) == []
    broken = table(3).set_column(4, "vector", pa.array([[1.0]] * 3, pa.list_(pa.float32())))
    assert CONTRACT.differences(broken.schema) == ["vector is list of float32 instead of list of 4 float32"]
