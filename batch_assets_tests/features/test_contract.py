from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets.errors import ContractBroken
from batch_assets.features.contract import Column, FeatureContract

CONTRACT = FeatureContract.model_validate(
    {"key": {"name": "user", "dtype": "int64"}, "columns": [{"name": "x"}, {"name": "y", "dtype": "int16"}, {"name": "z"}]}
)
GOOD = [("user", pa.int64()), ("x", pa.float32()), ("y", pa.int16()), ("z", pa.float32())]


def test_what_was_agreed_has_no_differences() -> None:
    assert CONTRACT.differences(pa.schema(GOOD)) == []


@pytest.mark.parametrize(
    ("schema", "phrases"),
    [
        ([GOOD[0], GOOD[1], GOOD[3]], ["y is missing"]),
        (GOOD[1:], ["user is missing"]),
        ([*GOOD, ("w", pa.int8())], ["w is not in the contract"]),
        ([GOOD[0], ("ex", pa.float32()), *GOOD[2:]], ["x seems to be renamed to ex"]),
        ([GOOD[0], GOOD[2], GOOD[1], GOOD[3]], ["the order is user, y, x, z instead of user, x, y, z"]),
        ([GOOD[0], ("x", pa.float64()), *GOOD[2:]], ["x is float64 instead of float32"]),
        ([("user", pa.string()), *GOOD[1:]], ["user is string instead of int64"]),
        ([*GOOD, GOOD[1]], ["x is there more than once"]),
        ([GOOD[0], ("x", pa.float64()), GOOD[3]], ["y is missing", "x is float64 instead of float32"]),
    ],
)
def test_every_difference_is_named(schema: list[tuple[str, pa.DataType]], phrases: list[str]) -> None:
    fields = pa.schema([pa.field(name, dtype) for name, dtype in schema])
    assert CONTRACT.differences(fields) == phrases
    with pytest.raises(ContractBroken, match="The rows of today") as raised:
        CONTRACT.require(fields, "The rows of today")
    assert all(phrase in str(raised.value) for phrase in phrases)


def test_more_columns_are_no_matter_where_the_contract_is_not_strict() -> None:
    lax = CONTRACT.model_copy(update={"strict": False})
    assert lax.differences(pa.schema([*GOOD, ("w", pa.int8())])) == []


def test_the_fingerprint_is_of_everything() -> None:
    assert CONTRACT.fingerprint() != CONTRACT.model_copy(update={"strict": False}).fingerprint()


def test_a_column_cannot_be_named_twice() -> None:
    with pytest.raises(ValidationError, match="named twice: x"):
        FeatureContract.model_validate({"key": {"name": "k", "dtype": "int64"}, "columns": [{"name": "x"}, {"name": "x"}]})


FIRST: dict[str, Any] = {
    "key": {"name": "user", "dtype": "int64"},
    "columns": [{"name": "x", "unit": "days"}, {"name": "y"}, {"name": "z"}],
}


WORDS = ("z is int8 instead of float32", "x is in weeks instead of days")


class TestAnotherContract:
    """What a model was trained on, beside what the pipeline says now."""

    def changes(self, **columns: dict[str, object]) -> list[str]:
        other = {**FIRST, "columns": [{**one, **columns.get(str(one["name"]), {})} for one in self.columns()]}
        return FeatureContract.model_validate(FIRST).changes(FeatureContract.model_validate(other))

    def columns(self) -> list[dict[str, object]]:
        return [dict(column) for column in FIRST["columns"]]

    def test_the_same_has_no_changes(self) -> None:
        assert self.changes() == []

    @pytest.mark.parametrize(
        ("columns", "phrases"),
        [
            ({"x": {"name": "w"}}, ["x seems to be renamed to w"]),
            ({"x": {"dtype": "float64"}}, ["x is float64 instead of float32"]),
            ({"y": {"length": 3}}, ["y is list of 3 float32 instead of float32"]),
            ({"x": {"unit": "weeks"}}, ["x is in weeks instead of days"]),
            ({"y": {"since": "2026-01-01"}}, ["y is what it means since 2026-01-01, not what it means since always"]),
            ({"y": {"nullable": True}}, ["y may be missing"]),
            (
                {"x": {"unit": "weeks"}, "z": {"dtype": "int8"}},
                ["z is int8 instead of float32", "x is in weeks instead of days"],
            ),
        ],
    )
    def test_every_change_is_named(self, columns: dict[str, dict[str, object]], phrases: list[str]) -> None:
        assert self.changes(**columns) == phrases

    def test_categories_count(self) -> None:
        number = {"dtype": "int16"}
        category = {"dtype": "int16", "categories": 40}
        contracts = [
            FeatureContract.model_validate({**FIRST, "columns": [{"name": "shop", **kind}]})
            for kind in (number, category, {**category, "categories": 41})
        ]
        assert contracts[0].changes(contracts[1]) == ["shop is one of 40 categories instead of a number"]
        assert contracts[1].changes(contracts[2]) == ["shop is one of 41 categories instead of one of 40 categories"]
        assert contracts[1].categories == ["shop"]
        assert FeatureContract.model_validate_json(contracts[1].model_dump_json()) == contracts[1]

    def test_order_key_and_inputs_count(self) -> None:
        ours = FeatureContract.model_validate(FIRST)
        turned = FeatureContract.model_validate({**FIRST, "columns": self.columns()[::-1]})
        assert ours.changes(turned) == ["the order is user, z, y, x instead of user, x, y, z"]
        other_key = FeatureContract.model_validate({**FIRST, "key": {"name": "user", "dtype": "string"}})
        assert ours.changes(other_key) == ["user is string instead of int64"]
        padded = FeatureContract.model_validate({**FIRST, "inputs": [{"name": "features", "pad": 1.0}]})
        kind = "features (float32, at most 512, padded with {})"
        assert ours.changes(padded) == [f"the inputs are {kind.format(1)} instead of {kind.format(0)}"]

    def test_a_unit_that_only_one_states_is_none_that_differs(self) -> None:
        assert self.changes(x={"unit": None}, y={"unit": "days"}) == []

    def test_what_is_permitted_is_not_what_is_meant(self) -> None:
        assert self.changes(x={"min": 0, "max": 9}) == []

    def test_a_model_of_other_features_is_told_from_one_of_these(self) -> None:
        ours = FeatureContract.model_validate(FIRST)
        ours.require_same(ours, "v1")
        with pytest.raises(ContractBroken, match=r"v2 was trained on other features .*: x seems to be renamed to w\."):
            ours.require_same(FeatureContract.model_validate({**FIRST, "columns": [{"name": "w"}, *self.columns()[1:]]}), "v2")


def test_without_units_the_fingerprint_is_what_it_was_before_there_were_any() -> None:
    assert "unit" not in CONTRACT.model_dump_json()
    assert "since" not in CONTRACT.model_dump_json()
    with_unit = CONTRACT.model_copy(update={"columns": (CONTRACT.columns[0].model_copy(update={"unit": "days"}),)})
    assert '"unit":"days"' in with_unit.model_dump_json()


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"dtype": "float32"}, "x is a category, so it must be one whole number or a bool in each row"),
        ({"dtype": "int8", "length": 3}, "x is a category, so it must be one whole number or a bool in each row"),
        ({"dtype": "int8", "min": 1}, "x has 5 categories: 0 to 4 are permitted, no others"),
        ({"dtype": "int8", "max": 5}, "x has 5 categories: 0 to 4 are permitted, no others"),
    ],
)
def test_a_category_is_a_number_from_zero(column: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Column.model_validate({"name": "x", "categories": 5, **column})
    assert (Column(name="x", dtype="int8", categories=5).min, Column(name="x", dtype="int8", categories=5).max) == (0, 4)
