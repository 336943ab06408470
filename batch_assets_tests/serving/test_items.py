"""The best items of each key, whatever pieces its rows come in."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.features.keys import Key
from batch_assets.records import RecordField, RecordType
from batch_assets.serving.items import Rows, best_items, record_of

ROW = RecordType(fields=(RecordField(name="value", dtype="f4"), RecordField(name="decile", dtype="i1")), score="value")

ROWS = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(-3, 12)), st.sampled_from([-1.5, 0.0, 0.25, 2.0]), max_size=40)


@given(ROWS, st.lists(st.integers(0, 40), max_size=6), st.integers(1, 6), st.booleans())
def test_they_are_those_with_the_highest_scores(
    rows: dict[tuple[int, int], float], cuts: list[int], best: int, texts: bool
) -> None:
    about = sorted(rows)
    scores = np.array([rows[one] for one in about], dtype=np.float32)
    keys = pa.array([f"user {key}" if texts else key for key, _ in about], pa.string() if texts else pa.int64())
    everything = Rows(keys, np.array([item for _, item in about], dtype=np.int32), scores)
    edges = [0, *sorted(min(cut, len(about)) for cut in cuts), len(about)]
    pieces = [everything.slice(start, end) for start, end in pairwise(edges)]
    kind = record_of(Key(name="film", dtype="int32"), ROW, best)
    found = {}
    for some, records in best_items(pieces, kind):
        assert some.type == keys.type
        for key, record in zip(some.to_pylist(), records.packed(), strict=True):
            assert key not in found
            found[key] = kind.as_mapping(record)
    expected = {}
    for key in dict.fromkeys(keys.to_pylist()):
        pairs = sorted((-rows[one], one[1]) for one, name in zip(about, keys.to_pylist(), strict=True) if name == key)[:best]
        expected[key] = {
            "value": -pairs[0][0],
            "items": [item for _, item in pairs],
            "scores": [-score for score, _ in pairs],
            "count": len(pairs),
        }
    assert list(found) == list(expected)
    assert found == expected
