"""Rows of messages, on the disk until the last message has come; then those that stand, which are the last ones of their keys.

Two files are written: the rows, and key, partition and time of each message. Of the keys DuckDB makes one bit for each message,
which says whether it stands; with these the rows are read once more. So rows are neither joined nor sorted here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa

from batch_assets.errors import SourceError
from batch_assets.sources.closed import closed_session, first_line
from batch_assets.sources.kafka.decoding import Decoded

_KEYS = pa.schema([("key", pa.binary()), ("partition", pa.int32()), ("time", pa.int64()), ("place", pa.int64())])

_LAST = """
WITH of_partitions AS (
    SELECT key, max(place) AS place, arg_max(time, place) * 1048576 + partition AS newness FROM messages GROUP BY key, partition
)
SELECT arg_max(place, newness) AS place, count(*) > 1 AS spread FROM of_partitions GROUP BY key
"""
"""The last message of each key: of a partition by its place, of several the newest one; and which keys have several."""


class Bits:
    """A yes or no for each of some places; a bit each, as there may be a billion."""

    def __init__(self, count: int) -> None:
        self._bytes = np.zeros((count + 7) // 8, np.uint8)

    def set(self, places: np.ndarray) -> None:
        """Yes at these places, of shape (n,)."""
        np.bitwise_or.at(self._bytes, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def at(self, places: np.ndarray) -> np.ndarray:
        """What is said at some places; of shape (n,)."""
        found: np.ndarray = (self._bytes[places >> 3] >> (places & 7) & 1).astype(bool)
        return found

    def between(self, start: int, count: int) -> np.ndarray:
        """What is said from a place on; of shape (count,)."""
        some = np.unpackbits(self._bytes[start >> 3 : (start + count + 7) >> 3], bitorder="little")
        return some[start & 7 :][:count].astype(bool)


@dataclass(frozen=True)
class Standing:
    """Which messages are the last ones of their keys.

    Args:
        stands: of each message.
        unreadable: how many of them could not be decoded.
        spread: how many keys are in more than one partition.
    """

    stands: Bits
    unreadable: int
    spread: int


@dataclass(frozen=True)
class _Written:
    """Messages whose rows are one batch on the disk: so many from a place on, or those of them that have become rows."""

    start: int
    count: int
    became_rows: np.ndarray | None


class LastValues:
    """Messages, written down as they come.

    Args:
        folder: an empty one, where they lie.
        schema: of the rows.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._schema, self._folder = schema, folder
        self._rows = pa.ipc.new_stream(folder / "rows.arrow", schema)
        self._keys = pa.ipc.new_stream(folder / "keys.arrow", _KEYS)
        self._written = list[_Written]()
        self._count = 0
        self._keyless, self._undecodable = list[np.ndarray](), list[np.ndarray]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._keys.close()

    def add(
        self, keys: Sequence[bytes | None], partitions: np.ndarray, times: np.ndarray, decoded: Decoded, valued: np.ndarray
    ) -> None:
        """Write messages down; those that were decoded are not all of them, but the ones at the places `valued`."""
        start, count = self._count, len(keys)
        self._count += count
        key, places = pa.array(keys, pa.binary()), np.arange(start, start + count)
        batch = pa.RecordBatch.from_arrays([key, *map(pa.array, (partitions, times, places))], schema=_KEYS)
        if key.null_count:
            self._keyless.append(places[key.is_null().to_numpy(zero_copy_only=False)])
            batch = batch.filter(key.is_valid())
        self._keys.write_batch(batch)
        undecodable = list(decoded.undecodable)
        if undecodable:
            self._undecodable.append(places[valued[undecodable]])
        if decoded.rows:
            became_rows = np.delete(valued, undecodable)
            whole = len(became_rows) == count
            self._written.append(_Written(start, count, None if whole else np.isin(np.arange(count), became_rows)))
            self._rows.write_batch(pa.concat_batches(decoded.rows))

    def standing(self, spill: Path, memory_limit: str) -> Standing:
        """Which of them stand, when all are written down. A message without a key stands for itself.

        Raises:
            SourceError: there is not enough memory or disk.
        """
        stands, spread = Bits(self._count), 0
        for places in self._keyless:
            stands.set(places)
        try:
            with (
                pa.OSFile(str(self._folder / "keys.arrow")) as file,
                pa.ipc.open_stream(file) as messages,
                closed_session(spill, memory_limit) as connection,
            ):
                connection.register("messages", messages)
                for batch in connection.sql(_LAST).to_arrow_reader(1 << 17):
                    stands.set(batch["place"].to_numpy())
                    spread += batch["spread"].true_count
        except (duckdb.Error, pa.ArrowException) as error:
            raise SourceError(f"The last messages of keys cannot be found: {first_line(error)}.") from error
        return Standing(stands, sum(int(stands.at(places).sum()) for places in self._undecodable), spread)

    def rows(self, standing: Standing) -> pa.RecordBatchReader:
        """The rows of the messages that stand, in the order in which they came."""
        return pa.RecordBatchReader.from_batches(self._schema, self._standing_rows(standing.stands))

    def _standing_rows(self, stands: Bits) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self._folder / "rows.arrow")) as file, pa.ipc.open_stream(file) as batches:
            for written, batch in zip(self._written, batches, strict=True):
                chosen = stands.between(written.start, written.count)
                if written.became_rows is not None:
                    chosen = chosen[written.became_rows]
                yield batch.filter(pa.array(chosen))
