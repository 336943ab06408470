import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.sources.kafka.last_values import Bits


@given(st.data(), st.integers(1, 300))
def test_bits_say_what_was_set_wherever_one_looks(data: st.DataObject, count: int) -> None:
    bits, expected = Bits(count), np.zeros(count, bool)
    for places in data.draw(st.lists(st.lists(st.integers(0, count - 1)), max_size=3)):
        bits.set(np.array(places, np.int64))
        expected[places] = True
    start = data.draw(st.integers(0, count))
    length = data.draw(st.integers(0, count - start))
    assert bits.between(start, length).tolist() == expected[start : start + length].tolist()
    asked = data.draw(st.lists(st.integers(0, count - 1)))
    assert bits.at(np.array(asked, np.int64)).tolist() == expected[asked].tolist()
