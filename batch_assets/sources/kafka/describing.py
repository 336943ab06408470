"""What a provenance says of a topic that was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from batch_assets.clock import today
from batch_assets.features.provenance import SourceFile, SourceTable
from batch_assets.sources.kafka.cluster import Cluster
from batch_assets.sources.kafka.decoding import Decoded
from batch_assets.sources.kafka.extents import Window, newest_before
from batch_assets.sources.kafka.last_values import Standing
from batch_assets.sources.kafka.reading import Batch, Tally

_FIRST = 3


@dataclass
class Faults:
    """Messages that could not be decoded: how many, and the first few by partition and offset, with the reason."""

    count: int = 0
    first: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, batch: Batch, valued: Sequence[int], decoded: Decoded) -> None:
        """Take in what could not be decoded of the messages at some places of a batch."""
        self.count += len(decoded.undecodable)
        found = [(batch.messages[valued[place]], reason) for place, reason in decoded.undecodable.items()]
        places = [(message.partition(), message.offset(), reason) for message, reason in found]
        self.first = sorted(self.first + places)[:_FIRST]


def described(
    cluster: Cluster, window: Window, tallies: Mapping[int, Tally], standing: Standing, faults: Faults, told: Sequence[str]
) -> SourceTable:
    """The table of a provenance; `told` are phrases about the format."""
    newest = _newest(cluster, window, tallies)
    return SourceTable(
        name=cluster.topic,
        path=f"{cluster.servers}/{cluster.topic}",
        pinned=" ".join(f"{number}:[{tally.extent.first},{tally.stop})" for number, tally in tallies.items()),
        files=tuple(_file(cluster.topic, tally) for tally in tallies.values()),
        rows=sum(tally.messages for tally in tallies.values()),
        unreadable=standing.unreadable,
        told=(*told, *_told(cluster.topic, window, tallies, standing, faults)),
        event_date="timestamp",
        newest=newest,
        newest_until_day=newest,
        rows_of_day=sum(tally.of_day for tally in tallies.values()),
    )


def _file(topic: str, tally: Tally) -> SourceFile:
    stamp = f"{tally.first}-{tally.last}" if tally.messages else ""
    return SourceFile(path=f"{topic}/{tally.extent.partition}", size=tally.size, rows=tally.messages, stamp=stamp)


def _newest(cluster: Cluster, window: Window, tallies: Mapping[int, Tally]) -> date | None:
    """The day of the newest message; where only those of a day were read and there is none, of the newest one before."""
    newest = max((tally.newest for tally in tallies.values()), default=-1)
    if newest >= 0:
        return today(datetime.fromtimestamp(newest / 1_000, UTC), window.timezone)
    firsts = {number: tally.extent.first for number, tally in tallies.items()}
    return newest_before(cluster, firsts, window) if window.only else None


def _told(topic: str, window: Window, tallies: Mapping[int, Tally], standing: Standing, faults: Faults) -> list[str]:
    told = []
    if faults.count:
        first = "; ".join(f"{topic}/{partition} at offset {offset}: {reason}" for partition, offset, reason in faults.first)
        told.append(f"{faults.count} messages cannot be decoded, like {first}")
    if standing.spread:
        told.append(f"{standing.spread} keys are in more than one partition: of each the newest message counts")
    for number, tally in tallies.items():
        if window.only and tally.late:
            told.append(f"{topic}/{number}: {tally.late} messages of earlier days came among those of the day and do not count")
        if not window.only and tally.extent.earliest:
            told.append(f"{topic}/{number}: what was before offset {tally.extent.earliest} was deleted")
        empty = tally.stop - tally.extent.first - tally.messages
        if not window.only and empty:
            why = "transactions have them, or messages were compacted, among which may be the last ones of that day"
            told.append(f"{topic}/{number}: {empty} offsets have no message, as {why}")
    return told
