"""Values come as they are in the database, or their column is refused."""

import sqlite3
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets.errors import SourceError
from batch_assets_tests.sources.source_behaviour import DAY
from batch_assets_tests.sources.warehouse.server import Ask

pytestmark = pytest.mark.process


@pytest.mark.parametrize("places", range(6))
def test_decimals_are_exact_whatever_their_places(ask: Ask, places: int) -> None:
    values = ["-98765.43210", "0", "0.00001", "12345.67891", "100000", "-0.9"]
    rows = ", ".join(f"({number}, {value}::numeric(12, {places}))" for number, value in enumerate(values))
    found, _ = ask(
        f"SELECT id, price::numeric(12, {places}) AS price FROM (VALUES {rows}, (9, NULL)) AS v (id, price) "
        "WHERE $partition IS NOT NULL"
    )
    assert found.schema.field("price").type == pa.decimal128(12, places)
    one = Decimal(1).scaleb(-places)
    assert found["price"].to_pylist() == [*(Decimal(value).quantize(one, "ROUND_HALF_UP") for value in values), None]


@pytest.mark.parametrize("expression", ["1.5::numeric", "sum(1.5::numeric(10, 2))", "1::numeric(50, 2)", "1::numeric(5, -2)"])
def test_a_numeric_that_does_not_say_how_exact_it_is_is_refused(ask: Ask, expression: str) -> None:
    sentence = r"features\.sql: the column price is a NUMERIC .*CAST\(price AS NUMERIC\(18, 2\)\)"
    with pytest.raises(SourceError, match=sentence):
        ask(f"SELECT 1 AS id, {expression} AS price, max($partition) AS day")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "12345678901"])
def test_a_number_that_no_decimal_holds_is_refused(ask: Ask, value: str) -> None:
    sentence = r"the column price has a value that cannot be read as decimal128\(12, 2\)"
    with pytest.raises(SourceError, match=sentence) as told:
        ask(f"SELECT 1 AS id, '{value}'::numeric AS price, $partition AS day", types={"price": "decimal128(12, 2)"})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "expression", ["1::money", "'1.2.3.4'::inet", "ARRAY[1.5::numeric(4, 1)]", "gen_random_uuid()", "1::oid"]
)
def test_a_type_that_does_not_come_as_it_is_is_refused(ask: Ask, expression: str) -> None:
    with pytest.raises(SourceError, match=r"features\.sql: the column x is .*, which does not come as it is; CAST it"):
        ask(f"SELECT 1 AS id, {expression} AS x, $partition AS day")


@pytest.mark.parametrize(
    "value", ["'infinity'::date", "'-infinity'::timestamp", "'infinity'::timestamptz", "'0044-03-15 BC'::date"]
)
def test_a_day_outside_of_the_calendar_is_refused(ask: Ask, value: str) -> None:
    with pytest.raises(SourceError, match=r"the column at has a day outside of the years 1 to 9999"):
        ask(f"SELECT 1 AS id, {value} AS at, $partition AS day")


def test_types_that_are_wanted_are_given(ask: Ask) -> None:
    found, _ = ask("SELECT 1 AS id, 2 AS x, '2024-03-10'::text AS d, $partition AS day", types={"x": "float32", "d": "date"})
    assert [field.type for field in found.schema] == [pa.int32(), pa.float32(), pa.date32(), pa.date32()]
    assert found.to_pylist() == [{"id": 1, "x": 2.0, "d": DAY, "day": DAY}]


def test_a_type_of_a_column_that_is_none_is_told_of(ask: Ask) -> None:
    with pytest.raises(SourceError, match=r"features\.sql does not give y, which types names, only id, day\.$"):
        ask("SELECT 1 AS id, $partition AS day", types={"y": "float32"})
    with pytest.raises(ValidationError, match="x: number is no Arrow type"):
        ask("", types={"x": "number"})


def test_sqlite_must_be_told_of_what_types_columns_are(ask: Ask, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "a.db").close()
    (tmp_path / "a.db").touch()
    said = {"driver": "sqlite", "uri": str(tmp_path / "a.db"), "types": {"id": "int64"}}
    with pytest.raises(SourceError, match=r"features\.sql: the database does not say of what types .*: x, day\.$"):
        ask("SELECT 1 AS id, 2 AS x, $partition AS day", **said)
    with pytest.raises(SourceError, match=r"the column x comes as double, not exactly; CAST it to TEXT"):
        ask("SELECT 1 AS id, 2.5 AS x WHERE $partition > ''", **said | {"types": {"id": "int64", "x": "decimal128(4, 1)"}})
