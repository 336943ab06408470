"""Messages of a topic, batch by batch, from where reading begins to where it ends, and what is counted of them.

A partition ends at the first message that is not older than the day's end, or else at the offset that was its end when reading
began. The position says so and no count of messages, as offsets of markers, of aborted transactions and of what was compacted
have none. Nor does asking for the offset of a time: that may be one of a marker, which has the time at which it was written.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from batch_assets.errors import SourceError
from batch_assets.sources.kafka.cluster import Cluster
from batch_assets.sources.kafka.extents import Extent, Window

_BATCH, _WAIT_S = 10_000, 0.1
_END_OF_PARTITION = "_PARTITION_EOF"
_OF_THE_GROUP = "GROUP_AUTHORIZATION_FAILED"
"""librdkafka asks for the consumer's group, which is not joined: whether that is permitted is no matter."""


@dataclass
class Tally:
    """What was read of one partition.

    Args:
        extent: its offsets.
        stop: the offset before which reading ended.
        messages: how many count.
        size: bytes of their values.
        first: the offset of the first of them; -1: there is none.
        last: that of the last.
        of_day: how many have a time of the day.
        late: how many of earlier days lie among those of the day, and do not count.
        newest: the greatest time, in milliseconds since 1970.
        reached: where the partition ended when nothing more could be read.
    """

    extent: Extent
    stop: int
    messages: int = 0
    size: int = 0
    first: int = -1
    last: int = -1
    of_day: int = 0
    late: int = 0
    newest: int = -1
    reached: int = -1


@dataclass(frozen=True)
class Batch:
    """Messages that count, with their partitions and times (milliseconds since 1970), each of shape (messages,)."""

    messages: Sequence[Any]
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    partitions: np.ndarray
    times: np.ndarray


class Reading:
    """Reads each extent to its end, once.

    Args:
        cluster: where.
        extents: what.
        window: until when, and whether also what is older than the day.
    """

    def __init__(self, cluster: Cluster, extents: Sequence[Extent], window: Window) -> None:
        self._cluster, self._window, self._message = cluster, window, cluster.message
        self._begin, self._end = window.milliseconds
        self.tallies = {extent.partition: Tally(extent, extent.end) for extent in extents}
        self._open = {extent.partition for extent in extents if extent.first < extent.end}

    def batches(self) -> Generator[Batch, None, None]:
        """Messages, those of one partition in their order.

        Raises:
            SourceError: it may not be read, nobody answers, a transaction stays open, or messages are deleted meanwhile.
        """
        starts = {number: self.tallies[number].extent.first for number in sorted(self._open)}
        with self._cluster.consumer(starts) as consumer:
            heard = monotonic()
            while self._open:
                messages = consumer.consume(_BATCH, _WAIT_S)
                errors = [message for message in messages if message.error() is not None]
                if errors:
                    messages = [message for message in messages if message.error() is None]
                    errors = [message for message in errors if message.error().name() != _OF_THE_GROUP]
                if messages:
                    yield self._batch(*self._counting(consumer, messages))
                for message in errors:
                    self._ended(message)
                if messages or errors:
                    self._cluster.answered()
                    heard = monotonic()
                elif monotonic() - heard > self._cluster.timeout_s:
                    raise self._stalled()

    def _counting(self, consumer: Any, messages: Sequence[Any]) -> tuple[Sequence[Any], np.ndarray, np.ndarray]:
        """Those of the messages that count, with their partitions and times."""
        count, message = len(messages), self._message
        partitions = np.fromiter(map(message.partition, messages), np.int32, count)
        times = np.array([time for _, time in map(message.timestamp, messages)])
        sizes = np.fromiter(map(len, messages), np.int64, count)
        counts = np.zeros(count, bool)
        for number in self._open.intersection(partitions.tolist()):
            tally = self.tallies[number]
            rows = self._before_end(consumer, tally, np.flatnonzero(partitions == number), times, messages)
            rows = self._in_window(tally, rows, times)
            if len(rows):
                counts[rows] = True
                tally.first = tally.first if tally.messages else messages[rows[0]].offset()
                tally.last = messages[rows[-1]].offset()
                tally.messages += len(rows)
                tally.size += int(sizes[rows].sum())
                tally.newest = max(tally.newest, int(times[rows].max()))
        if counts.all():
            return messages, partitions, times
        return [messages[row] for row in np.flatnonzero(counts).tolist()], partitions[counts], times[counts]

    def _batch(self, messages: Sequence[Any], partitions: np.ndarray, times: np.ndarray) -> Batch:
        values, keys = (list(map(said, messages)) for said in (self._message.value, self._message.key))
        return Batch(messages, values, keys, partitions, times)

    def _before_end(
        self, consumer: Any, tally: Tally, rows: np.ndarray, times: np.ndarray, messages: Sequence[Any]
    ) -> np.ndarray:
        """Those of the rows of a partition that are before its end, which may have come with them."""
        after, end = times[rows] >= self._end, tally.extent.end
        if not after.any() and messages[rows[-1]].offset() < end - 1:
            return rows
        offsets = np.array([messages[row].offset() for row in rows])
        after |= offsets >= end
        if after.any():
            tally.stop = min(end, int(offsets[after.argmax()]))
            rows = rows[: after.argmax()]
        self._open.remove(tally.extent.partition)
        self._cluster.leave(consumer, tally.extent.partition)
        return rows

    def _in_window(self, tally: Tally, rows: np.ndarray, times: np.ndarray) -> np.ndarray:
        of_day = times[rows] >= self._begin
        since = 0 if tally.of_day else int(of_day.argmax()) if of_day.any() else len(rows)
        tally.of_day += int(of_day.sum())
        if not self._window.only:
            return rows
        tally.late += int((~of_day[since:]).sum())
        counting: np.ndarray = rows[of_day]
        return counting

    def _ended(self, message: Any) -> None:
        """Look at what came instead of a message: the end of a partition, or that it cannot be read."""
        if message.error().name() != _END_OF_PARTITION:
            raise self._cluster.refused(message.error())
        tally = self.tallies[message.partition()]
        tally.reached = message.offset()
        if tally.reached >= tally.extent.end:
            self._open.discard(message.partition())

    def _stalled(self) -> SourceError:
        held = [number for number in sorted(self._open) if self.tallies[number].reached >= 0]
        if silence := self._cluster.silence():
            return silence
        if held:
            place = f"{self._cluster.topic}/{held[0]} at offset {self.tallies[held[0]].reached}"
            wanted = "read the topic when it is committed or aborted, or say the option isolation.level: read_uncommitted"
            return SourceError(f"A transaction is open in {place}, so what follows is not known yet; {wanted}.")
        topic, waited = f"the topic {self._cluster.topic} at {self._cluster.servers}", f"{self._cluster.timeout_s:g} s"
        return SourceError(f"No message of {topic} has come for {waited}; see whether all its brokers run.")
