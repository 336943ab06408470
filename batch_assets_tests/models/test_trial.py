"""A version is tried as a night uses it: what a night would suffer from is refused with its cause, what is good is not."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import FeatureContract
from batch_assets.histogram import Histogram, Spread
from batch_assets.models.card import Card
from batch_assets.models.permitted import ROWS, permitted_rows
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.models.trial import Trial, check_model
from batch_assets.scoring.heads.classifier import Returns
from batch_assets_tests.small import Small, head_of

THREE = [{"name": name} for name in ("x", "y", "z")]


def contract_of(columns: Sequence[dict[str, Any]] = THREE, *inputs: dict[str, Any]) -> FeatureContract:
    said = {"key": {"name": "user", "dtype": "int64"}, "columns": list(columns)}
    return FeatureContract.model_validate({**said, "inputs": list(inputs)} if inputs else said)


def card_of(
    model: bytes,
    contract: FeatureContract,
    returns: Returns = "logits",
    classes: int = 2,
    features: dict[str, Spread] | None = None,
    **outputs: Any,
) -> Card:
    edges = [n / 10 for n in range(1, 10)]
    labels = tuple(f"class {number}" for number in range(classes))
    return Card(
        description="made up",
        model_sha256=Small.sha256(model),
        runtime=PT2,
        contract=contract,
        head=head_of(returns=returns, labels=labels, decile_edges=tuple(edges), **outputs),
        baseline_partition="2024-01-31",
        baseline=Histogram.of(np.full(1, 0.5), edges),
        features=features,
        metrics={},
        training={},
    )


def tried(
    module: torch.nn.Module, contract: FeatureContract | None = None, rows: pa.Table | None = None, **said: Any
) -> tuple[str, ...]:
    """Try a module as if it were loaded from a file."""
    contract = contract or contract_of()
    module = module.requires_grad_(False)
    return Trial(TorchPredictor(lambda *inputs: (module(*inputs),)), card_of(b"", contract, **said), "small v2", rows)()


def registered(module: torch.nn.Module) -> tuple[str, ...]:
    """Try what registration is given: an exported file."""
    model = export_model(module, 3)
    return check_model(model, card_of(model, contract_of()), "small v2")


class Applied(torch.nn.Module):
    """A layer from three features to some values, and what is done to them."""

    def __init__(self, function: Any, width: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = torch.nn.Linear(3, width), function

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(features))


def to_classes(values: torch.Tensor) -> torch.Tensor:
    return values.argmax(dim=1)


class TestLogitsAndProbabilities:
    @pytest.mark.parametrize(
        ("function", "width", "classes", "returns", "message"),
        [
            (torch.sigmoid, 1, 2, "logits", 'between 0 and 1.*squashed twice.*returns="probabilities"'),
            (lambda v: torch.softmax(v, dim=1), 3, 3, "logits", "between 0 and 1 and sum to 1"),
            (lambda v: torch.softmax(v, dim=1), 2, 2, "logits", "between 0 and 1 and sum to 1"),
            (torch.sigmoid, 3, 3, "logits", "between 0 and 1, as"),
            (lambda v: v, 1, 2, "probabilities", 'are not between 0 and 1.*returns="logits"'),
            (lambda v: v, 3, 3, "probabilities", "are not between 0 and 1 that sum to 1"),
            (torch.sigmoid, 3, 3, "probabilities", "are not between 0 and 1 that sum to 1"),
            (lambda v: torch.softmax(v, dim=1) * 1.05, 3, 3, "probabilities", "that sum to 1"),
            (lambda v: torch.sigmoid(v) * 100, 1, 2, "probabilities", "are not between 0 and 1"),
            (to_classes, 3, 2, "logits", "gives int64, as numbers of classes"),
            (lambda v: v > 0, 1, 2, "probabilities", "gives bool, as numbers of classes"),
            (lambda v: (v > 0).float(), 1, 2, "logits", "all it gives to .* rows is 0, 1"),
            (lambda v: (v > 0).float(), 1, 2, "probabilities", "all it gives to .* rows is 0, 1"),
            (lambda v: torch.sign(v), 1, 2, "logits", "all it gives to .* rows is -1, 1"),
            (lambda v: v * 0 + 3.7, 1, 2, "logits", "gives 3.7 to each"),
            (lambda v: v * 0 + 0.25, 1, 2, "probabilities", "gives 0.25 to each"),
        ],
    )
    def test_what_looks_like_something_else_is_refused(
        self, function: Any, width: int, classes: int, returns: Returns, message: str
    ) -> None:
        outputs = {"per_class": True} if width == classes == 2 else {}
        with pytest.raises(ModelMisfit, match=message):
            tried(Applied(function, width), returns=returns, classes=classes, **outputs)

    @pytest.mark.parametrize(
        ("function", "width", "classes", "returns"),
        [
            (lambda v: v, 1, 2, "logits"),
            (lambda v: v[:, 0], 1, 2, "logits"),
            (torch.sigmoid, 1, 2, "probabilities"),
            (lambda v: torch.softmax(v, dim=1), 2, 2, "probabilities"),
            (lambda v: torch.log_softmax(v, dim=1), 2, 2, "logits"),
            (lambda v: torch.softmax(v.double(), dim=1), 4, 4, "probabilities"),
            (lambda v: v, 127, 127, "logits"),
        ],
    )
    def test_what_is_said_truly_is_not(self, function: Any, width: int, classes: int, returns: Returns) -> None:
        outputs = {"per_class": True} if width == classes == 2 else {}
        assert tried(Applied(function, width), returns=returns, classes=classes, **outputs) == ()

    def test_a_person_can_confirm_it(self) -> None:
        assert tried(Applied(torch.sigmoid), returns="logits", confirmed=True) == ()

    def test_but_not_what_cannot_be(self) -> None:
        with pytest.raises(ModelMisfit, match="are not between 0 and 1"):
            tried(Applied(lambda v: v), returns="probabilities", confirmed=True)

    def test_one_value_for_each_of_two_classes_must_be_said(self) -> None:
        with pytest.raises(ModelMisfit, match=r"2 values a row.*per_class: true"):
            tried(Applied(lambda v: v, 2))

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda v: (v, v.sum()), "several tensors, not one"),
            (lambda v: v.t(), "the rows must come first"),
            (lambda v: v.sum(), "the rows must come first"),
        ],
    )
    def test_other_shapes_are_told(self, function: Any, message: str) -> None:
        with pytest.raises(ModelMisfit, match=message):
            tried(Applied(function, 3), classes=3)


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return features.sum(dim=1) + self.seen


class OverRows(torch.nn.Module):
    """Recurrent, with rows taken for steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.out = torch.nn.GRU(3, 4), torch.nn.Linear(4, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(features.unsqueeze(1))[0][:, 0])


class AmongRows(torch.nn.Module):
    """Attention, with rows taken for steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = torch.nn.MultiheadAttention(3, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.unsqueeze(1)
        return self.attention(rows, rows, rows, need_weights=False)[0][:, 0, 0]


class TestARowAlone:
    def test_what_is_good_is_taken(self) -> None:
        norm = torch.nn.BatchNorm1d(4)
        norm(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
        good = torch.nn.Sequential(torch.nn.Linear(3, 4), norm, torch.nn.Dropout(), torch.nn.Linear(4, 1))
        assert registered(good) == ()
        with pytest.raises(ModelMisfit, match="random numbers"):
            tried(good.train())

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (Applied(lambda v: functional.dropout(v, 0.5, training=True)), "random numbers, as a dropout in train mode"),
            (Applied(lambda v: v + torch.rand_like(v)), "random numbers"),
            (Counting(), "other values the second time: it keeps state"),
            (Applied(lambda v: functional.batch_norm(v, None, None, training=True)), "BatchNorm in train mode"),
            (Applied(lambda v: v - v.mean(dim=0)), "statistics of the batch"),
            (Applied(lambda v: v / v.abs().max()), "statistics of the batch"),
            (Applied(lambda v: torch.softmax(v, dim=0), 3), "softmax over dim 0"),
            (Applied(lambda v: v + torch.arange(v.shape[0]).unsqueeze(1)), "in another place of the batch"),
            (Applied(lambda v: v.cumsum(dim=0)), "in another place of the batch"),
            (Applied(lambda v: v + torch.ones_like(v).sum(dim=0) / 1_000), r"in a batch of 1,024 than in one of 64"),
            (OverRows(), "rows for steps in time.*batch_first=True"),
            (AmongRows(), "rows attend to each other"),
        ],
    )
    def test_outputs_that_depend_on_more_are_refused_with_the_likely_cause(self, module: torch.nn.Module, message: str) -> None:
        classes = 3 if isinstance(module, Applied) and module.layer.out_features == 3 else 2
        with pytest.raises(ModelMisfit, match=message):
            tried(module, classes=classes)

    def test_nor_is_it_overlooked_where_all_probabilities_are_small(self) -> None:
        with pytest.raises(ModelMisfit, match="statistics of the batch"):
            tried(Applied(lambda v: torch.softmax(v, dim=0) * 1e-4), returns="probabilities")
        assert tried(Applied(lambda v: torch.sigmoid(v - 14)), returns="probabilities") == ()

    @pytest.mark.parametrize("rows", [64, 128, 1_024])
    def test_a_fixed_number_of_rows(self, rows: int) -> None:
        class Fixed(torch.nn.Module):
            def forward(self, features: torch.Tensor) -> torch.Tensor:
                return features.reshape(rows, 3).sum(dim=1)

        program = torch.export.export(Fixed(), (torch.zeros(rows, 3),))
        buffer = io.BytesIO()
        program.example_inputs = None
        torch.export.save(program, buffer)
        with pytest.raises(ModelMisfit, match=r"small v2 (takes .*dynamic|does not map 3 columns)"):
            check_model(buffer.getvalue(), card_of(buffer.getvalue(), contract_of()), "small v2")

    def test_a_limit_between_the_shapes_of_a_night(self) -> None:
        class Limited(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("table", torch.zeros(512))

            def forward(self, features: torch.Tensor) -> torch.Tensor:
                return features.sum(dim=1) + self.table[: features.shape[0]]

        shapes = {"features": {0: torch.export.Dim("rows", min=2, max=512)}}
        program = torch.export.export(Limited(), (torch.zeros(128, 3),), dynamic_shapes=shapes)
        buffer = io.BytesIO()
        program.example_inputs = None
        torch.export.save(program, buffer)
        with pytest.raises(ModelMisfit, match=r"takes 64 rows at once, but not 1,024"):
            check_model(buffer.getvalue(), card_of(buffer.getvalue(), contract_of()), "small v2")


class TestWhatItSays:
    def test_a_weight_that_is_not_finite_is_named(self) -> None:
        for bad in (torch.nan, torch.inf):
            module = Applied(lambda v: v)
            with torch.no_grad():
                module.layer.weight[0, 1] = bad
            with pytest.raises(ModelMisfit, match=r"weight that is not finite: 1 of the 3 numbers of layer\.weight"):
                registered(module)

    def test_a_mask_of_infinities_is_no_such_weight(self) -> None:
        class Masked(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

            def forward(self, features: torch.Tensor) -> torch.Tensor:
                weights = torch.softmax(features.unsqueeze(1) * features.unsqueeze(2) + self.mask, dim=-1)
                return (weights * features.unsqueeze(1)).sum(dim=(1, 2))

        assert registered(Masked()) == ()

    def test_a_column_without_effect_is_told(self) -> None:
        (note,) = tried(Two())
        assert "small v2 gives the same whatever is in z: " in note

    def test_an_input_without_effect_is_told(self) -> None:
        """An export that was given one tensor for two inputs computes with the first one only."""
        contract = contract_of(
            [*THREE, {"name": "a", "input": "other"}, {"name": "b", "input": "other"}], {"name": "features"}, {"name": "other"}
        )
        (note,) = tried(Joined(), contract)
        assert "whatever is in the whole input other: " in note

    def test_inputs_in_another_order_than_the_module_takes_them_are_refused(self) -> None:
        columns = [{"name": "x", "input": "other"}, *({"name": name, "input": "features"} for name in "yz")]
        contract = contract_of(columns, {"name": "other"}, {"name": "features"})
        model = export_model(Ordered(), contract)
        with pytest.raises(ModelMisfit, match="takes features, other, and its contract names other, features in this order"):
            check_model(model, card_of(model, contract), "small v2")

    def test_rows_without_a_value_are_told_and_none_at_all_is_refused(self) -> None:
        (note,) = tried(Applied(lambda v: torch.log(v)))
        assert "gives no finite value for" in note
        assert "dead letters" in note
        with pytest.raises(ModelMisfit, match=f"no finite value for any of {ROWS} rows.*--baseline"):
            tried(Applied(lambda v: torch.log(-v.abs() - 1)))

    def test_what_it_raises_on_is_told_with_what_the_contract_permits(self) -> None:
        contract = contract_of(
            [{"name": "item", "dtype": "int64", "min": 0, "max": 99}], {"name": "features", "dtype": "int64"}
        )
        assert tried(Looked(100), contract) == ()
        with pytest.raises(ModelMisfit, match=r"raises on \d of 192 rows that its contract permits \(IndexError: index out of"):
            tried(Looked(99), contract)
        with pytest.raises(ModelMisfit, match="max_length"):
            tried(Looked(5), contract)

    def test_real_rows_are_tried_instead_if_there_are_some(self) -> None:
        """The contract permits every id; the rows of a day hold those that there are, but for a few."""
        contract = contract_of(
            [{"name": "item", "dtype": "int64", "min": 0, "max": 10_000}], {"name": "features", "dtype": "int64"}
        )
        ids = np.arange(500) % 50
        with pytest.raises(ModelMisfit, match="raises on"):
            tried(Looked(50), contract)
        assert tried(Looked(50), contract, pa.table({"item": ids})) == ()
        ids[3] = 9_999
        (note,) = tried(Looked(50), contract, pa.table({"item": ids}))
        assert "raises on 1 of the 500 rows (IndexError: index out of range in self): such rows become dead letters" in note
        with pytest.raises(ModelMisfit, match="raises on 450 of 500 rows"):
            tried(Looked(50), contract, pa.table({"item": np.arange(500)}))


class Two(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0] - features[:, 1] * 2


class Joined(torch.nn.Module):
    def forward(self, features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return features.sum(dim=1) + features[:, :2].prod(dim=1)


class Ordered(torch.nn.Module):
    def forward(self, features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return features.sum(dim=1) - 2 * other.sum(dim=1)


class Looked(torch.nn.Module):
    """Ids that are looked up."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(size, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids[:, 0])


def lists(max_length: int, least: int = 1) -> FeatureContract:
    return contract_of(
        [{"name": "seen", "dtype": "int64", "length": "variable", "input": "history", "min": least, "max": 49}],
        {"name": "history", "dtype": "int64", "max_length": max_length},
    )


class Recurrent(torch.nn.Module):
    """Ids from 1 are looked up as if from 0; the last state counts, and what pads counts as nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.cell, self.out = torch.nn.Embedding(50, 4), torch.nn.GRU(4, 4, batch_first=True), torch.nn.Linear(4, 1)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        there = (history > 0).unsqueeze(-1)
        states, _ = self.cell(self.items(history) * there)
        return self.out((states * there).sum(dim=1) / there.sum(dim=1).clamp(min=1))


class Positioned(torch.nn.Module):
    """A transformer that knows so many places and no more."""

    def __init__(self, places: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.places = torch.nn.Embedding(50, 8, padding_idx=0), torch.nn.Embedding(places, 8)
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = torch.nn.Linear(8, 1)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        place = torch.arange(history.shape[1])
        there = (history > 0) | (place == 0)  # something must be attended to
        hidden = self.items(history) + self.places(place)
        hidden = self.encoder(hidden, src_key_padding_mask=~there)
        return self.out((hidden * there.unsqueeze(-1)).sum(dim=1) / there.sum(dim=1, keepdim=True))


class TestLists:
    @pytest.mark.parametrize("max_length", [10, 50, 64])
    def test_models_of_lists_are_tried_up_to_their_longest(self, max_length: int) -> None:
        assert tried(Recurrent(), lists(max_length)) == ()
        assert tried(Positioned(max_length).eval(), lists(max_length)) == ()

    def test_a_model_that_takes_padding_for_items_is_refused(self) -> None:
        """How far a list is padded depends on its bucket; where all are padded alike, it does no harm."""

        class Unmasked(Recurrent):
            def forward(self, history: torch.Tensor) -> torch.Tensor:
                return self.out(self.items(history).mean(dim=1))

        with pytest.raises(ModelMisfit, match="other values if its lists are padded further"):
            tried(Unmasked(), lists(50))
        assert tried(Unmasked(), lists(10)) == ()

    def test_longer_lists_than_it_takes_are_refused(self) -> None:
        with pytest.raises(ModelMisfit, match=r"raises on .* rows that its contract permits with lists of \d+ items or more"):
            tried(Positioned(50).eval(), lists(60))

    def test_what_is_made_of_an_empty_list_is_told(self) -> None:
        class Mean(Recurrent):
            def forward(self, history: torch.Tensor) -> torch.Tensor:
                there = (history > 0).unsqueeze(-1)
                return self.out((self.items(history) * there).sum(dim=1) / there.sum(dim=1))

        (note,) = tried(Mean(), lists(50))
        assert "gives no finite value for" in note

    def test_an_id_of_which_the_contract_permits_no_zero_is_not_tried_with_zero(self) -> None:
        class FromOne(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.items, self.cell = torch.nn.Embedding(20, 4), torch.nn.GRUCell(4, 1)

            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return self.cell(self.items(ids[:, 0] - 1))

        for permitted in ({"min": 1}, {"min": 1, "max": 20}):
            column = {"name": "item", "dtype": "int32", **permitted}
            assert tried(FromOne(), contract_of([column], {"name": "features", "dtype": "int64"})) == ()


class TestRows:
    def test_they_are_what_the_contract_permits(self) -> None:
        contract = contract_of(
            [
                {"name": "share", "min": 0, "max": 1},
                {"name": "amount", "dtype": "float64", "min": 100},
                {"name": "debt", "max": -5},
                {"name": "kind", "dtype": "int8", "categories": 5},
                {"name": "year", "dtype": "int32", "min": 1990, "max": 1999},
                {"name": "yes", "dtype": "bool"},
                {"name": "maybe", "nullable": True},
                {"name": "vector", "length": 3, "min": 0, "max": 2},
                {"name": "item", "dtype": "int64", "input": "ids", "min": 7},
                {"name": "seen", "dtype": "int64", "length": "variable", "input": "history", "min": 1, "max": 9},
            ],
            {"name": "features"},
            {"name": "ids", "dtype": "int64"},
            {"name": "history", "dtype": "int64", "max_length": 50},
        )
        rows = permitted_rows(contract, {})
        key = pa.table({"user": np.arange(ROWS)})
        assert contract.differences(pa.schema([*key.schema, *rows.schema])) == []
        numbers = {
            name: np.array([value for value in rows[name].to_pylist() if value is not None]) for name in contract.names[:7]
        }
        assert 0 <= numbers["share"].min() < numbers["share"].max() <= 1
        assert numbers["amount"].min() >= 100
        assert numbers["debt"].max() <= -5
        assert set(numbers["kind"]) == {0, 1, 2, 3, 4}
        assert (numbers["year"].min(), numbers["year"].max()) == (1990, 1999)
        assert rows["maybe"].null_count > 0
        assert set(rows["item"].to_pylist()) == {7, 8}
        assert {len(one) for one in rows["seen"].to_pylist()} == {0, 1, 16, 17, 32, 33, 50}
        assert {value for one in rows["seen"].to_pylist() for value in one} == set(range(1, 10))

    def test_they_are_spread_as_on_the_day_that_the_card_remembers(self) -> None:
        """Made-up rows of amounts would saturate this model; those that the card knows do not."""
        amounts = np.random.default_rng(0).normal(50_000, 1_000, 2_000).astype(np.float32)
        spread = {"x": Spread.of(amounts)}
        rows = permitted_rows(contract_of([{"name": "x"}]), spread)["x"].to_numpy()
        assert 45_000 < np.median(rows) < 55_000

        class Scaled(torch.nn.Module):
            def forward(self, features: torch.Tensor) -> torch.Tensor:
                return torch.sigmoid((features[:, 0] - 50_000) / 300)

        with pytest.raises(ModelMisfit, match=r"gives 0 to each of .*--baseline PIPELINE DAY"):
            tried(Scaled(), contract_of([{"name": "x"}]), returns="probabilities")
        assert tried(Scaled(), contract_of([{"name": "x"}]), returns="probabilities", features=spread) == ()
