"""Which offsets of a topic are read for a day."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from batch_assets.clock import end_of
from batch_assets.errors import SourceError
from batch_assets.sources.kafka.cluster import Cluster, milliseconds


@dataclass(frozen=True)
class Window:
    """From when to when a day is.

    Args:
        day: which one.
        timezone: where.
        only: whether messages before it do not count.
    """

    day: date
    timezone: str
    only: bool

    @property
    def begin(self) -> datetime:
        """Its first moment."""
        return end_of(self.day - timedelta(days=1), self.timezone)

    @property
    def milliseconds(self) -> tuple[int, int]:
        """Its first moment, and the one after its last."""
        return milliseconds(self.begin), milliseconds(end_of(self.day, self.timezone))


@dataclass(frozen=True)
class Extent:
    """Offsets of one partition, as they are when reading begins.

    Args:
        partition: its number.
        earliest: the first one that was not deleted.
        first: where reading begins.
        end: the one after the last.
    """

    partition: int
    earliest: int
    first: int
    end: int


def extents(cluster: Cluster, window: Window) -> list[Extent]:
    """What there is of each partition now; what is written later has offsets from `end` on.

    Raises:
        SourceError: as the cluster's; or messages of the day may have been deleted.
    """
    partitions = cluster.partitions()
    end = cluster.offsets(partitions, "end")
    earliest = cluster.offsets(partitions, "earliest")
    if not window.only:
        return [Extent(number, earliest[number], earliest[number], end[number]) for number in partitions]
    oldest, since = (cluster.offsets(partitions, moment) for moment in (datetime.fromtimestamp(0, UTC), window.begin))
    for number in partitions:
        if earliest[number] and oldest[number] == since[number]:  # nothing is left of the time before
            gone = f"its offsets begin at {earliest[number]}, and none of them is older than the day"
            wanted = "keep them longer (retention.ms), or freeze days sooner"
            place = f"{cluster.topic}/{number}"
            raise SourceError(f"Messages of {window.day} in {place} may have been deleted, as {gone}; {wanted}.")
    first = {number: end[number] if at < 0 else min(at, end[number]) for number, at in since.items()}
    return [Extent(number, earliest[number], first[number], end[number]) for number in partitions]


def newest_before(cluster: Cluster, firsts: Mapping[int, int], window: Window) -> date | None:
    """The newest day before the window's that has a message before these offsets, which are those of its first moment."""
    days = range(1, (window.day - date(1970, 1, 2)).days)

    def seen(ago: int) -> bool:
        """Whether there is one of the last so many days."""
        since = end_of(window.day - timedelta(days=ago + 1), window.timezone)
        return any(0 <= offset < firsts[number] for number, offset in cluster.offsets(list(firsts), since).items())

    ago = bisect_left(days, True, key=seen)
    return None if ago == len(days) else window.day - timedelta(days=days[ago])
