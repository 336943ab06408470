"""A message is a row of exactly the types that were said, or it is told why not; it never spoils another one."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.errors import SourceError
from batch_assets.sources.kafka.avro_format import AvroFormat
from batch_assets.sources.kafka.column_types import arrow_type
from batch_assets.sources.kafka.decoding import Decoded, Decoder
from batch_assets.sources.kafka.json_format import JsonFormat

A = JsonFormat(pa.schema([("a", pa.int64())]))


def decoded(values: Sequence[bytes], **columns: str) -> Decoded:
    schema = pa.schema([(name, arrow_type(type_)) for name, type_ in columns.items()])
    return Decoder(JsonFormat(schema), None).decoded(values, [None] * len(values))


def values_of(found: Decoded, name: str) -> list[Any]:
    return [value for rows in found.rows for value in rows[name].to_pylist()]


class TestJson:
    @pytest.mark.parametrize(
        ("type_", "text", "value"),
        [
            ("int64", "9007199254740993", 2**53 + 1),
            ("int8", "-128", -128),
            ("float32", "0.1", float(np.float32(0.1))),
            ("float64", "1e-400", 0.0),
            ("float32", "Infinity", float("inf")),
            ("decimal128(10, 2)", "1.230", Decimal("1.23")),
            ("string", '"\\u00e9\\ud83d\\ude00"', "é😀"),
            ("bool", "true", True),
            ("date", '"0001-01-01"', date(1, 1, 1)),
            ("timestamp[us]", '"2024-03-10T02:30:00.5"', datetime(2024, 3, 10, 2, 30, 0, 500_000)),
            ("list<float32>", "[0.5, null]", [0.5, None]),
            ("int64", "null", None),
        ],
    )
    def test_a_value_is_what_was_written(self, type_: str, text: str, value: Any) -> None:
        found = decoded([f'{{"a": {text}, "b": {{}}}}'.encode(), b"{}"], a=type_)
        assert found.rows[0].schema.field("a").type == arrow_type(type_)
        assert (values_of(found, "a"), found.undecodable) == ([value, None], {})

    @pytest.mark.parametrize(
        ("type_", "text"),
        [
            *(("int8", text) for text in ("128", "1.0", "1e1", '"1"', "true", "[1]", "{}")),
            *(("int64", text) for text in (str(2**63), "1.5")),
            *(("float32", text) for text in ("1e39", '"0.1"')),
            *(("float64", text) for text in ("1e400", "0,1")),
            *(("decimal128(4, 2)", text) for text in ("1.234", "123.4")),
            *(("string", text) for text in ("1", '"\xff"', '"\\ud83d"', '"a\nb"')),
            *(("bool", text) for text in ("1", '"true"')),
            *(("date", text) for text in ("19000", '"2024-02-30"', '"2024-03-10T00:00:00"')),
            *(("timestamp[s]", text) for text in ('"2024-03-10T02:30:00.5"', "1710028800", '"today"')),
            *(("list<int64>", text) for text in ("[1.5]", "1", "[[1]]")),
        ],
    )
    def test_one_that_does_not_fit_is_told_and_no_other_is_touched(self, type_: str, text: str) -> None:
        bad = f'{{"a": {text}, "b": 7}}'.encode("latin-1")
        found = decoded([b'{"b": 1}', bad, b'{"b": 2}', b'{"b": 3}', bad], a=type_, b="int64")
        assert (values_of(found, "b"), values_of(found, "a")) == ([1, 2, 3], [None] * 3)
        assert list(found.undecodable) == [1, 4]
        assert all(reason and "\n" not in reason for reason in found.undecodable.values())

    @pytest.mark.parametrize(
        "value",
        [
            *(b"", b" ", b"null", b"[]", b"[{}]", b"7", b'"{}"', b"{", b"}", b"{}}", b"{{}", b'{"a":1', b'{"a"}', b"{'a':1}"),
            *(b'{"a":1}{"a":2}', b'{"a":1}\n{"a":2}', b'{"a":1}null{"a":2}', b'{"a":1} x', b'{"a":1}\x00', b"\xef\xbb\xbf{}"),
            *(b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b'{"a":1}//{}', b'{"a":"}', b"{" * 100_000 + b"}", b"\x00" * 8),
        ],
    )
    def test_what_is_no_object_is_told_wherever_it_stands(self, value: bytes) -> None:
        for values, place in (([value], 0), ([b'{"a":1}', value, b'{"a":2}'], 1), ([value, value, b'{"a":1}', b'{"a":2}'], 0)):
            found = decoded(values, a="int64")
            good = [json.loads(one)["a"] for one in values if one != value]
            assert (values_of(found, "a"), min(found.undecodable)) == (good, place)

    def test_two_messages_that_would_be_one_object_together_are_none(self) -> None:
        found = decoded([b'{"a":1', b',"b":2}', b'{"a":3}{"a":4}'], a="int64", b="int64")
        assert (found.rows, list(found.undecodable)) == ([], [0, 1, 2])

    def test_space_and_line_breaks_around_and_within_are_no_matter(self) -> None:
        found = decoded([b'\n {"a":\r\n1}\n', b'\t{"a":\n{\n}\n}', b'{\n"a":2}'], a="int64")
        assert (values_of(found, "a"), list(found.undecodable)) == ([1, 2], [1])

    def test_deep_nesting_in_what_nobody_wants_is_no_matter(self) -> None:
        deep = b'{"z":' + b"[" * 200_000 + b"]" * 200_000 + b',"a":1}'
        assert values_of(decoded([deep], a="int64"), "a") == [1]

    @given(st.lists(st.one_of(st.binary(max_size=12), st.text('{}[]":,a1 \n', max_size=12).map(str.encode)), max_size=6))
    def test_each_message_is_decoded_as_if_it_were_alone(self, values: list[bytes]) -> None:
        together = decoded(values, a="int64")
        alone = [decoded([value], a="int64") for value in values]
        assert list(together.undecodable) == [place for place, one in enumerate(alone) if one.undecodable]
        assert values_of(together, "a") == [value for one in alone for value in values_of(one, "a")]


class TestKeys:
    def test_a_key_is_a_column_of_its_type(self) -> None:
        for type_, keys, expected in (
            (pa.int64(), [b"12", b"-3", None, b"1.5", b"", b"x"], [12, -3, None]),
            (pa.string(), ["é".encode(), b"", None, b"\xff", b"\xed\xa0\x80", b"\xff"], ["é", "", None]),
            (pa.date32(), [b"2024-03-10", b"0001-01-01", None, b"1", b"", b"x"], [date(2024, 3, 10), date(1, 1, 1), None]),
        ):
            found = Decoder(A, pa.field("k", type_)).decoded([b'{"a":1}'] * 6, keys)
            assert (values_of(found, "k"), list(found.undecodable)) == (expected, [3, 4, 5])
            assert found.rows[0].schema.names == ["k", "a"]
            assert found.undecodable[3].startswith(f"its key is no {type_}: ")


SIMPLE = [{"name": "a", "type": "int"}, {"name": "b", "type": ["null", "string"]}]


def avro(folder: Path, fields: list[dict[str, Any]], schema_id: int | None = None) -> tuple[AvroFormat, Any]:
    """A format, and what writes a record of it."""
    schema = {"type": "record", "name": "Row", "fields": fields}
    path = folder / "row.avsc"
    path.write_text(json.dumps(schema))

    def written(**record: Any) -> bytes:
        encoded = io.BytesIO()
        fastavro.schemaless_writer(encoded, schema, record)
        return encoded.getvalue()

    return AvroFormat(str(path), schema_id), written


class TestAvro:
    def test_a_value_is_what_was_written(self, tmp_path: Path) -> None:
        moment = datetime(2024, 3, 10, 2, 30, 0, 500_000)
        said: dict[str, tuple[Any, pa.DataType, Any]] = {
            "int": ("int", pa.int32(), -(2**31)),
            "long": ("long", pa.int64(), 2**62),
            "float": ("float", pa.float32(), float(np.float32(0.1))),
            "double": ("double", pa.float64(), 0.1),
            "boolean": ("boolean", pa.bool_(), True),
            "string": ("string", pa.string(), "é"),
            "bytes": ("bytes", pa.binary(), b"\xff"),
            "enum": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, pa.string(), "B"),
            "date": ({"type": "int", "logicalType": "date"}, pa.date32(), date(1, 1, 1)),
            "utc": ({"type": "long", "logicalType": "timestamp-millis"}, pa.timestamp("ms", "UTC"), moment.replace(tzinfo=UTC)),
            "local": ({"type": "long", "logicalType": "local-timestamp-micros"}, pa.timestamp("us"), moment),
            "money": (
                {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
                pa.decimal128(6, 2),
                Decimal("-1234.50"),
            ),
            "list": ({"type": "array", "items": ["null", "double"]}, pa.list_(pa.float64()), [0.5, None]),
        }
        fields = [{"name": name, "type": ["null", type_]} for name, (type_, _, _) in said.items()]
        values, written = avro(tmp_path, fields)
        found = Decoder(values, None).decoded(
            [written(**{name: value for name, (_, _, value) in said.items()}), written(**dict.fromkeys(said))], [None] * 2
        )
        assert found.rows[0].schema == pa.schema([(name, type_) for name, (_, type_, _) in said.items()])
        assert found.rows[0].to_pylist() == [{name: value for name, (_, _, value) in said.items()}, dict.fromkeys(said)]

    def test_what_is_no_record_is_told_and_no_other_is_touched(self, tmp_path: Path) -> None:
        values, written = avro(tmp_path, SIMPLE)
        good = written(a=1, b="word")
        bad = [
            b"",
            good[:-1],
            good + b"\x00",
            b"\x02\x08",
            b"\x02\x02\x02\xff",
            b"\xff" * 20,
            b"\x02\x02" + b"\xfe" * 9 + b"\x01",
        ]
        found = Decoder(values, None).decoded([good, *bad, good], [None] * (len(bad) + 2))
        assert values_of(found, "a") == [1, 1]
        assert list(found.undecodable) == list(range(1, len(bad) + 1))
        assert found.undecodable[3] == "1 bytes follow the record"

    def test_a_number_that_is_no_int_is_told(self, tmp_path: Path) -> None:
        values, _ = avro(tmp_path, SIMPLE[:1])
        _, written = avro(tmp_path, [{"name": "a", "type": "long"}])
        assert list(Decoder(values, None).decoded([written(a=2**40)], [None]).undecodable) == [0]

    @given(st.binary(max_size=40))
    def test_any_bytes_are_a_record_or_told(self, tmp_path_factory: pytest.TempPathFactory, value: bytes) -> None:
        fields = [
            *SIMPLE,
            {"name": "c", "type": {"type": "array", "items": "int"}},
            {"name": "d", "type": {"type": "int", "logicalType": "date"}},
            {"name": "e", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "f", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        ]
        values, _ = avro(tmp_path_factory.getbasetemp(), fields)
        found = Decoder(values, None).decoded([value], [None])
        assert sum(map(len, found.rows)) + len(found.undecodable) == 1

    def test_a_header_names_the_schema_or_is_told(self, tmp_path: Path) -> None:
        values, written = avro(tmp_path, SIMPLE, schema_id=7)
        record = written(a=1, b=None)
        headed = [b"\x00\x00\x00\x00\x07", b"\x00\x00\x00\x00\x08", b"\x01\x00\x00\x00\x07", b"", b"\x00\x00"]
        found = Decoder(values, None).decoded([head + record for head in headed], [None] * 5)
        assert values_of(found, "a") == [1]
        assert found.undecodable[1] == "its header names the schema 8, not 7"
        assert found.undecodable[2] == "it has no header"
        assert list(found.undecodable) == [1, 2, 3, 4]

    def test_fields_that_are_no_columns_are_left_out(self, tmp_path: Path) -> None:
        other, again = ({"type": "record", "name": name, "fields": SIMPLE} for name in ("Other", "Again"))
        strange = {
            "r": other,
            "m": {"type": "map", "values": "int"},
            "u": ["int", "string"],
            "l": {"type": "array", "items": again},
        }
        values, written = avro(tmp_path, [*({"name": name, "type": type_} for name, type_ in strange.items()), *SIMPLE])
        assert values.left_out == ["r", "m", "u", "l"]
        record = {"r": {"a": 1, "b": None}, "m": {"k": 1}, "u": "x", "l": []}
        found = Decoder(values, None).decoded([written(**record, a=3, b="b")], [None])
        assert found.rows[0].to_pylist() == [{"a": 3, "b": "b"}]

    @pytest.mark.parametrize("text", [None, "", "{", '"int"', '{"type": "record"}', '{"type": "strange"}', '["int"]', "\xff"])
    def test_a_schema_that_is_none_is_refused(self, tmp_path: Path, text: str | None) -> None:
        path = tmp_path / "row.avsc"
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
        with pytest.raises(SourceError, match=rf"^The Avro schema {path} .*\.$") as refused:
            AvroFormat(str(path), None)
        assert "\n" not in str(refused.value)
