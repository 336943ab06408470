import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets.contract import FeatureContract
from batch_assets.errors import ContractBroken

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
