"""What a row is about, of one column or several: order, equality and hashes are those of the columns."""

from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.digest import hash_keys, key_digest
from batch_assets.errors import BadKeys
from batch_assets.features.keys import (
    LONGEST_KEY,
    columns_of,
    identity,
    identity_of,
    in_order,
    parsed,
    plain,
    require_ascending,
    values_of,
)

TYPES = {"number": pa.int64(), "text": pa.string(), "day": pa.date32()}
NAMES = list(TYPES)
KEYS = st.tuples(
    st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-1, 0, 1]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["", "\0", "a", "a\0", "a\0b", "a\x01"]),
    st.dates(),
)


def table_of(keys: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table({name: pa.array([key[n] for key in keys], kind) for n, (name, kind) in enumerate(TYPES.items())})


class TestIdentity:
    @given(st.lists(KEYS, min_size=1, max_size=20))
    def test_it_orders_as_the_columns_do(self, keys: list[tuple[Any, ...]]) -> None:
        by_columns = sorted(keys, key=lambda key: (key[0], key[1].encode(), key[2]))
        found = identity(in_order(table_of(keys), NAMES), NAMES)
        assert found.equals(identity(table_of(by_columns), NAMES))
        assert found.to_pylist() == sorted(found.to_pylist())

    @given(KEYS, KEYS)
    def test_it_is_the_same_for_the_same_columns_alone(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
        first, second = identity(table_of([one, other]), NAMES).to_pylist()
        assert (first == second) == (one == other)

    @given(st.lists(KEYS, min_size=1, max_size=20))
    def test_it_hashes_alike_wherever_it_stands(self, keys: list[tuple[Any, ...]]) -> None:
        found = identity(table_of(keys), NAMES)
        assert key_digest(found) == key_digest(found.take(pa.array(range(len(keys))[::-1])))
        assert hash_keys(found[-1:]).a[0] == hash_keys(found).a[-1]

    @given(KEYS)
    def test_what_was_written_finds_it(self, key: tuple[Any, ...]) -> None:
        kinds = list(TYPES.values())
        values = parsed([str(one) for one in key], kinds)
        assert values == key
        found = identity_of(values, kinds)
        assert found is not None
        assert found.equals(identity(table_of([key]), NAMES))

    @given(st.lists(KEYS, max_size=20), st.permutations(NAMES), st.integers(0, 3))
    def test_the_columns_can_be_read_from_it(self, keys: list[tuple[Any, ...]], names: list[str], first: int) -> None:
        table = table_of(keys)
        found = identity(table, names)[first:]
        kinds = [TYPES[name] for name in names]
        assert columns_of(found, kinds) == [table.column(name).combine_chunks()[first:] for name in names]
        assert [values_of(one, kinds) for one in found.to_pylist()] == [
            tuple(row[name] for name in names) for row in table.slice(first).to_pylist()
        ]

    def test_a_column_of_four_bytes_is_read_from_it_too(self) -> None:
        table = pa.table({"number": pa.array([-(2**31), 7], pa.int32()), "text": ["", "ä"]})
        found = columns_of(identity(table, ["number", "text"]), [pa.int32(), pa.string()])
        assert found == [table.column(name).combine_chunks() for name in table.column_names]

    @given(st.binary(max_size=40), st.permutations(NAMES))
    def test_other_bytes_are_nobodys(self, data: bytes, names: list[str]) -> None:
        kinds = [TYPES[name] for name in names]
        values = values_of(data, kinds)
        made = identity_of(values, kinds) if values is not None else None
        assert (made[0].as_py() if made is not None else data) == data

    @pytest.mark.parametrize("data", [b"", b"nobody", b"\x80" + bytes(7), b"\x80" + bytes(7) + b"\xff\0\x01", b"\xff" * 16])
    def test_as_are_bytes_that_end_early_or_late(self, data: bytes) -> None:
        assert values_of(data, [pa.int64(), pa.string()]) is None

    @pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.string(), pa.date32()])
    def test_of_one_column_it_is_that_column(self, kind: pa.DataType) -> None:
        column = pa.array([1, 2], pa.int32()).cast(kind) if kind != pa.string() else pa.array(["a", "b"])
        assert identity(pa.table({"user": column}), ["user"]).equals(column)


class TestParsed:
    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ("1.5", pa.int64()),
            ("4_2", pa.int64()),
            (str(2**63), pa.int64()),
            ("2024-02-30", pa.date32()),
            ("20240201", pa.date32()),
            ("soon", pa.date32()),
        ],
    )
    def test_nobody_has_a_key_that_cannot_stand_there(self, said: str, kind: pa.DataType) -> None:
        assert parsed([said], [kind]) is None

    def test_nor_one_with_another_number_of_columns(self) -> None:
        assert parsed(["1"], list(TYPES.values())) is None

    def test_a_number_beyond_its_type_is_nobodys(self) -> None:
        assert identity_of([2**40], [pa.int32()]) is None

    def test_days_are_text_for_others(self) -> None:
        assert plain([date(2024, 1, 31)]) == "2024-01-31"
        assert plain([1, date(2024, 1, 31)]) == [1, "2024-01-31"]


class TestAscending:
    def test_keys_that_ascend_are_given_as_identities(self) -> None:
        table = pa.table({"user": [1, 1, 2], "country": ["de", "fr", "de"]})
        first = require_ascending(table.slice(0, 2), ["user", "country"], None)
        assert len(require_ascending(table.slice(2), ["user", "country"], first[-1])) == 1

    @pytest.mark.parametrize(
        ("users", "countries", "message", "example"),
        [
            ([1, 1], ["de", "de"], r"key \(user, country\) is there twice: \(1, 'de'\)", (1, "de")),
            ([1, None], ["de", "fr"], "key user is null in 1 or more rows", (None, "fr")),
            ([1, 2], ["de", None], "key country is null in 1 or more rows", (2, None)),
        ],
    )
    def test_a_bad_key_is_told_with_all_its_columns(
        self, users: list[Any], countries: list[Any], message: str, example: tuple[Any, ...]
    ) -> None:
        table = pa.table({"user": pa.array(users, pa.int64()), "country": pa.array(countries, pa.string())})
        with pytest.raises(BadKeys, match=message) as raised:
            require_ascending(table, ["user", "country"], None)
        assert raised.value.examples == (example,)

    def test_one_that_doubles_the_last_of_the_rows_before(self) -> None:
        table = pa.table({"user": [7], "country": ["de"]})
        before = identity(table, ["user", "country"])[0]
        with pytest.raises(BadKeys, match=r"there twice: \(7, 'de'\)"):
            require_ascending(table, ["user", "country"], before)

    def test_one_that_is_out_of_order(self) -> None:
        table = pa.table({"user": [2, 1], "country": ["de", "fr"]})
        with pytest.raises(BadKeys, match=r"out of order: \(1, 'fr'\) follows \(2, 'de'\)"):
            require_ascending(table, ["user", "country"], None)

    def test_one_that_is_too_long_together(self) -> None:
        table = pa.table({"user": [1], "country": ["x" * (LONGEST_KEY - 9)]})
        with pytest.raises(BadKeys, match=r"must have 1 to 511 bytes, not 512 to 512"):
            require_ascending(table, ["user", "country"], None)

    def test_what_cannot_be_a_key(self) -> None:
        with pytest.raises(BadKeys, match="a key must be an integer, text or a date"):
            require_ascending(pa.table({"user": [1.5]}), ["user"], None)

    def test_days_are_keys(self) -> None:
        days = pa.table({"day": pa.array([1, 2], pa.int32()).cast(pa.date32())})
        assert pc.all(pc.equal(require_ascending(days, ["day"], None), days["day"])).as_py()
