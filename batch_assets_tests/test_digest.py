import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.digest import Digest, hash_keys, key_digest

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
KEYS = st.one_of(
    st.lists(INT64, min_size=1, unique=True).map(lambda keys: pa.array(keys, pa.int64())),
    st.lists(st.text(), min_size=1, unique=True).map(lambda keys: pa.array(keys, pa.string())),
)


def splitmix64(x: int) -> int:
    """The reference, in plain integers, after Steele, Lea and Flood (2014)."""
    mask = (1 << 64) - 1
    z = (x + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(INT64)
def test_integers_are_hashed_by_splitmix64_under_two_seeds(key: int) -> None:
    word = key & ((1 << 64) - 1)
    hashes = hash_keys(pa.array([key], pa.int64()))
    assert int(hashes.a[0]) == splitmix64(word ^ 0x8E9D5AAB4C1F7A35)
    assert int(hashes.b[0]) == splitmix64(word ^ 0x3C79AC492BA7B653)


@given(st.text())
def test_text_is_hashed_word_by_word_and_then_its_length(text: str) -> None:
    data = text.encode()
    expected = 0x8E9D5AAB4C1F7A35
    for start in range(0, len(data), 8):
        expected = splitmix64(expected ^ int.from_bytes(data[start : start + 8], "little"))
    assert int(hash_keys(pa.array([text])).a[0]) == splitmix64(expected ^ len(data))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (pa.array([], pa.int64()), "0" * 48),
        (pa.array([42], pa.int64()), "0000000000000001652147fdc773dd7c1872de4e56e3cc71"),
        (pa.array([-1, 0, 1, 2**63 - 1], pa.int64()), "00000000000000046efd612417d94e3e004f3403a3cf7730"),
        (pa.array(["", "a", "12345678", "123456789", "größe"]), "00000000000000058297218b28ff3e295ac453c4ef812f64"),
    ],
)
def test_vectors(keys: pa.Array, expected: str) -> None:
    """Digests that were written down; other values would make every stored snapshot unreadable."""
    assert key_digest(keys).hex() == expected


@pytest.mark.parametrize("dtype", [pa.int8(), pa.int16(), pa.int32(), pa.uint8()])
def test_a_number_is_the_same_key_in_every_width(dtype: pa.DataType) -> None:
    assert key_digest(pa.array([42, 7], dtype)) == key_digest(pa.array([7, 42], pa.int64()))


@given(KEYS, st.randoms(use_true_random=False), st.integers(min_value=0))
def test_order_and_chunking_do_not_matter(keys: pa.Array, random: "object", cut: int) -> None:
    shuffled = keys.to_pylist()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    cut %= len(keys) + 1
    parts = key_digest(keys.slice(0, cut)) + key_digest(keys.slice(cut))
    assert key_digest(pa.array(shuffled, keys.type)) == key_digest(keys) == parts


@given(KEYS, st.data())
def test_a_missing_or_doubled_row_shows(keys: pa.Array, data: st.DataObject) -> None:
    place = data.draw(st.integers(min_value=0, max_value=len(keys) - 1))
    whole, row = key_digest(keys), key_digest(keys.slice(place, 1))
    without = key_digest(pa.concat_arrays([keys.slice(0, place), keys.slice(place + 1)]))
    assert without != whole
    assert without + row == whole
    assert whole + row != whole


def test_a_foreign_row_in_place_of_a_lost_one_shows() -> None:
    keys = list(range(1_000))
    assert key_digest(pa.array(keys)) != key_digest(pa.array([*keys[:-1], 5_000]))
    assert key_digest(pa.array(keys)) != key_digest(pa.array([*keys[:-1], 0]))


def test_two_swapped_values_show() -> None:
    hashes = hash_keys(pa.array([1, 2, 3]))
    values = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    swapped = values[[1, 0, 2]]
    assert hashes.with_values([values]).digest() != hashes.with_values([swapped]).digest()
    assert hashes.with_values([values]).digest() != hashes.digest()


def test_values_are_hashed_after_their_key_in_as_few_words_as_hold_them_whole() -> None:
    columns = [
        np.array([0.75], dtype=np.float32),
        np.array([-1], dtype=np.int8),
        np.array([5], dtype=np.int16),
        np.array([-2], dtype=np.int32),
    ]
    float_bits = int(columns[0].view(np.uint32)[0])
    expected = splitmix64(42 ^ 0x8E9D5AAB4C1F7A35)
    for word in (float_bits | 0xFF << 32 | 5 << 40, 0xFFFFFFFE):
        expected = splitmix64(expected ^ word)
    assert int(hash_keys(pa.array([42])).with_values(columns).a[0]) == expected


@given(st.data())
def test_any_bit_of_any_value_shows(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["i1", "i2", "i4", "i8", "f4", "f8"]), min_size=1, max_size=9))
    columns = [np.frombuffer(data.draw(st.binary(min_size=int(kind[1]), max_size=int(kind[1]))), kind) for kind in kinds]
    place = data.draw(st.integers(0, len(kinds) - 1))
    bit = data.draw(st.integers(0, 8 * columns[place].itemsize - 1))
    flipped = int.from_bytes(columns[place].tobytes(), "little") ^ (1 << bit)
    other = np.frombuffer(flipped.to_bytes(columns[place].itemsize, "little"), kinds[place])
    changed = [other if number == place else column for number, column in enumerate(columns)]
    hashes = hash_keys(pa.array([42]))
    assert hashes.with_values(columns).digest() != hashes.with_values(changed).digest()
    assert hashes.with_values(columns).digest() == hashes.with_values([column.copy() for column in columns]).digest()


def test_sums_wrap_around() -> None:
    top = Digest(count=1, a=2**64 - 1, b=2**64 - 1)
    assert top + Digest(count=1, a=1, b=2) == Digest(count=2, a=0, b=1)
