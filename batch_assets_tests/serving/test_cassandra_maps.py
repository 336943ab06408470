"""Buckets as the bytes of CQL maps: what is written is read, and what is no bucket is noticed. No server is asked."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import ReleaseBroken
from batch_assets.records import RecordField, RecordType
from batch_assets.serving.cassandra.fields import as_int
from batch_assets.serving.cassandra.maps import Entries
from batch_assets_tests.serving.store_behaviour import BINARY, KEYS, WIDE, records

MANY = RecordType(
    fields=(
        RecordField(name="first", dtype="i1", names=("a", "", "ö" * 40)),
        RecordField(name="score", dtype="f4"),
        RecordField(name="key", dtype="i2"),
        RecordField(name="last", dtype="i1", names=("yes", "no")),
        RecordField(name="record", dtype="f8", length=3),
    ),
    score="score",
)


@pytest.mark.parametrize("kind", [BINARY, WIDE, MANY], ids=["6 bytes", "96 bytes", "labels between numbers"])
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_what_is_written_is_read(keys: pa.Array, kind: RecordType) -> None:
    entries, stored, packed = Entries(keys.type, kind), records(kind, len(keys)), records(kind, len(keys)).packed()
    starts = np.array([0, 0, 2, len(keys), len(keys)])
    maps = list(entries.maps(keys, stored, starts))
    found, read = entries.batch(maps)
    assert found.equals(keys)
    assert read.packed().tobytes() == packed.tobytes()
    for one, rows in zip(maps, [0, 2, len(keys) - 2, 0], strict=True):
        assert one.startswith(as_int(rows))


@pytest.mark.parametrize("kind", [BINARY, WIDE, MANY], ids=["6 bytes", "96 bytes", "labels between numbers"])
@pytest.mark.parametrize("keys", [KEYS["int64"], KEYS["string"]], ids=["int64", "string"])
def test_a_byte_that_is_wrong_in_a_size_is_noticed(keys: pa.Array, kind: RecordType) -> None:
    """Wherever a byte stands that says how much follows, no other byte may stand."""
    entries, stored = Entries(keys.type, kind), records(kind, len(keys))
    (good,) = entries.maps(keys, stored, np.array([0, len(keys)]))
    before, noticed = entries.batch([good]), 0
    for place in range(len(good)):
        for other in (good[place] ^ 1, good[place] ^ 0x80):
            bad = good[:place] + bytes([other]) + good[place + 1 :]
            try:
                found, read = entries.batch([bad, good])
            except ReleaseBroken:
                noticed += 1
            except pa.ArrowInvalid:  # a text that is none, which Cassandra would not have taken
                continue
            else:
                assert (len(found), found[len(keys) :].equals(keys)) == (2 * len(keys), True)
                assert not (
                    found[: len(keys)].equals(keys) and read.packed()[: len(keys)].tobytes() == before[1].packed().tobytes()
                )
    assert noticed >= 2 * 4 * len(keys) * (2 + len(kind.fields))


@pytest.mark.parametrize("bad", [b"", b"\0\0\0\1", as_int(1 << 30), b"\xff\xff\xff\xff", as_int(0) + b"more"])
def test_what_is_no_map_is_noticed(bad: bytes) -> None:
    with pytest.raises(ReleaseBroken, match="does not hold what a release does"):
        Entries(pa.int64(), BINARY).batch([bad])


@pytest.mark.parametrize("bad", [b"", b"\0\0\0\4\0\0\0\0", bytes(4), b"\xff\xff\xff\xff" * 3])
def test_what_is_no_record_is_noticed(bad: bytes) -> None:
    with pytest.raises(ReleaseBroken, match="does not hold what a release does"):
        Entries(pa.int64(), BINARY).record(bad)


def test_a_key_that_no_release_of_the_type_has_has_no_bytes() -> None:
    assert Entries(pa.int32(), BINARY).key(1 << 31) is None
    assert Entries(pa.string(), BINARY).key("\ud800") is None
    assert Entries(pa.date32(), BINARY).key(date(1970, 1, 1)) == b"\x80\0\0\0"
    assert Entries(pa.int32(), BINARY).key(-1) == b"\xff\xff\xff\xff"


def test_the_same_fields_have_the_same_type() -> None:
    assert Entries(pa.int32(), BINARY).cql_record == Entries(pa.string(), BINARY).cql_record
    assert Entries(pa.int32(), BINARY).cql_record != Entries(pa.int32(), WIDE).cql_record
    assert Entries(pa.int32(), MANY).cql_fields == (
        '"first" text, "score" float, "key" smallint, "last" text, "record" frozen<list<double>>'
    )
