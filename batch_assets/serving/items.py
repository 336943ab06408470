"""Rows about a key and an item -> one record for each key, with its best items: what a release of such a run holds.

A record has `items` and `scores`, the highest first and of equal scores the smaller item, `count` of them, and the score of the
best under its own name; what is beyond `count` is zero.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.errors import NotPublishable
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.serving.store import Batch

_FIELDS = {"int32": "i4", "int64": "i8"}


class ItemSettings(BaseModel):
    """How many items a key is answered with, where a row is about an item beside the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    best: int = Field(
        10, description="The most items of a key that a release has: those with the highest scores.", ge=1, le=1_000
    )


@dataclass(frozen=True)
class Rows:
    """Scored rows in ascending order of key and item: each column of shape (rows,)."""

    keys: pa.Array
    items: npt.NDArray[np.signedinteger[Any]]
    scores: npt.NDArray[np.floating[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, end: int) -> "Rows":
        """Some of them."""
        return Rows(self.keys[start:end], self.items[start:end], self.scores[start:end])

    def followed_by(self, others: "Rows") -> "Rows":
        """These and then others."""
        return Rows(
            pa.concat_arrays([self.keys, others.keys]),
            np.concatenate([self.items, others.items]),
            np.concatenate([self.scores, others.scores]),
        )


def record_of(item: Key, record: RecordType, best: int) -> RecordType:
    """The record of a key with its best items, from that of a row. Raises NotPublishable: the item has no fixed width."""
    if item.dtype not in _FIELDS:
        raise NotPublishable(
            f"{item.name} is {item.dtype}, and a release has items that are whole numbers: "
            "number them, or read the predictions files."
        )
    score = next(field for field in record.fields if field.name == record.score)
    fields = (
        RecordField(name=record.score, dtype=score.dtype),
        RecordField(name="items", dtype=_FIELDS[item.dtype], length=best),
        RecordField(name="scores", dtype=score.dtype, length=best),
        RecordField(name="count", dtype="i2"),
    )
    return RecordType(fields=fields, score=record.score, count="count")


def best_items(pieces: Iterable[Rows], kind: RecordType) -> Iterator[Batch]:
    """The record of each key, in the order of the keys; `kind` is what `record_of` gave. A key's rows may be in two pieces."""
    begun: Rows | None = None
    for piece in pieces:
        rows = piece if begun is None else begun.followed_by(piece)
        if not len(rows):
            continue
        starts = _starts(rows.keys)
        begun = rows.slice(int(starts[-1]), len(rows))  # who comes last may go on
        if len(starts) > 1:
            yield _records(rows.slice(0, int(starts[-1])), starts[:-1], kind)
    if begun is not None:
        yield _records(begun, np.zeros(1, dtype=np.intp), kind)


def _starts(keys: pa.Array) -> npt.NDArray[np.intp]:
    """Where the rows of each key begin."""
    other = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(other) + 1]).astype(np.intp)


def _records(rows: Rows, starts: npt.NDArray[np.intp], kind: RecordType) -> Batch:
    counts = np.diff(np.append(starts, len(rows)))
    key_of = np.repeat(np.arange(len(starts)), counts)
    order = np.lexsort((rows.items, -rows.scores, key_of))
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    best = kind.length_of("items")
    taken = rank < best
    place, source = (key_of[taken], rank[taken]), order[taken]
    items = np.zeros((len(starts), best), dtype=rows.items.dtype)
    scores = np.zeros((len(starts), best), dtype=rows.scores.dtype)
    items[place], scores[place] = rows.items[source], rows.scores[source]
    columns = {
        kind.score: scores[:, 0].copy(),
        "items": items,
        "scores": scores,
        "count": np.minimum(counts, best).astype(np.int16),
    }
    return rows.keys.take(pa.array(starts)), Records(kind, columns)
